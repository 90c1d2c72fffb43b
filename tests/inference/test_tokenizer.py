import threading
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from inference.checkpoint import Checkpoint
from inference.tokenizer import TextTokenizer

TEXTS = ["hello world", "Ünïcödé and 中文 and emoji 🙂", "a", " ", "word " * 400, "\x00null", "[SEP] in text"]


@pytest.fixture(scope="module")
def tokenizer(minilm: Checkpoint) -> TextTokenizer:
    return TextTokenizer(minilm.tokenizer()[0], 256)


def test_texts_become_the_ids_that_transformers_gives(tokenizer: TextTokenizer, minilm_path: Path) -> None:
    reference = AutoTokenizer.from_pretrained(minilm_path)

    tokens = tokenizer.encode(TEXTS, truncate=False)

    assert [ids.tolist() for ids in tokens] == [reference(text, truncation=False)["input_ids"] for text in TEXTS]


def test_padding_and_truncation_baked_into_the_file_do_not_count(tokenizer: TextTokenizer) -> None:
    short, long = tokenizer.encode(["hello", "word " * 400], truncate=False)

    assert len(short) == 3
    assert len(long) == 402


def test_truncation_keeps_the_closing_special_token(tokenizer: TextTokenizer) -> None:
    (cut,) = tokenizer.encode(["word " * 400], truncate=True)

    assert len(cut) == 256
    assert cut[-1] == 102


def test_threads_share_a_tokenizer_without_disturbing_each_other(tokenizer: TextTokenizer) -> None:
    expected = [tokenizer.encode(TEXTS, truncate=flag) for flag in (False, True)]
    wrong: list[object] = []

    def work(flag: bool) -> None:
        for _ in range(50):
            got = tokenizer.encode(TEXTS, truncate=flag)
            if any((a != b).any() for a, b in zip(got, expected[flag], strict=True)):
                wrong.append(got)

    threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


@pytest.mark.parametrize("text", ["word " * 20_000, "x" * 100_000, "汉字" * 40_000, "a b" + " " * 90_000 + "c d"])
def test_a_very_long_text_is_cut_as_if_all_of_it_had_been_read(
    tokenizer: TextTokenizer, minilm: Checkpoint, text: str
) -> None:
    whole = Tokenizer.from_str(minilm.tokenizer()[0])
    whole.no_padding()
    whole.enable_truncation(256)

    (cut,) = tokenizer.encode([text], truncate=True)
    (exact,) = tokenizer.encode([text], truncate=False)

    assert cut.tolist() == whole.encode(text).ids
    whole.no_truncation()
    assert (len(exact) > 256) is (len(whole.encode(text).ids) > 256)
