import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from inference.checkpoint import Checkpoint
from inference.tokenizer import TextTokenizer, Truncation
from tests.controls.guard import ROOT

WAYS: tuple[Truncation, ...] = ("none", "end", "start")
TEXTS = ["hello world", "Ünïcödé and 中文 and emoji 🙂", "a", " ", "word " * 400, "\x00null", "[SEP] in text"]


@pytest.fixture(scope="module")
def tokenizer(minilm: Checkpoint) -> TextTokenizer:
    return TextTokenizer(minilm.tokenizer(), 256)


def test_texts_become_the_ids_that_transformers_gives(tokenizer: TextTokenizer, minilm_path: Path) -> None:
    reference = AutoTokenizer.from_pretrained(minilm_path)

    tokens = tokenizer.encode(TEXTS)

    assert [piece.ids.tolist() for piece in tokens] == [
        reference(text, truncation=False)["input_ids"] for text in TEXTS
    ]


def test_padding_and_truncation_baked_into_the_file_do_not_count(tokenizer: TextTokenizer) -> None:
    short, long = tokenizer.encode(["hello", "word " * 400])

    assert len(short.ids) == 3
    assert len(long.ids) == 402


def test_truncation_keeps_the_closing_special_token(tokenizer: TextTokenizer) -> None:
    (cut,) = tokenizer.encode(["word " * 400], "end")

    assert len(cut.ids) == 256
    assert cut.ids[-1] == 102


def test_threads_share_a_tokenizer_without_disturbing_each_other(tokenizer: TextTokenizer) -> None:
    expected = {way: tokenizer.encode(TEXTS, way) for way in WAYS}
    wrong: list[object] = []

    def work(way: Truncation) -> None:
        for _ in range(50):
            got = tokenizer.encode(TEXTS, way)
            if any((a.ids != b.ids).any() for a, b in zip(got, expected[way], strict=True)):
                wrong.append(got)

    threads = [threading.Thread(target=work, args=(WAYS[i % 3],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


@pytest.mark.parametrize("text", ["word " * 20_000, "x" * 100_000, "汉字" * 40_000, "a b" + " " * 90_000 + "c d"])
def test_a_very_long_text_is_cut_as_if_all_of_it_had_been_read(
    tokenizer: TextTokenizer, minilm: Checkpoint, text: str
) -> None:
    whole = Tokenizer.from_str(minilm.tokenizer().json)
    whole.no_padding()
    whole.enable_truncation(256)

    (cut,) = tokenizer.encode([text], "end")
    (exact,) = tokenizer.encode([text])

    assert cut.ids.tolist() == whole.encode(text).ids
    whole.no_truncation()
    assert (len(exact.ids) > 256) is (len(whole.encode(text).ids) > 256)


@pytest.mark.parametrize("text", ["word " * 300, "a b " * 9000 + "the end", "short"])
def test_the_start_is_cut_where_the_end_matters(tokenizer: TextTokenizer, minilm_path: Path, text: str) -> None:
    reference = AutoTokenizer.from_pretrained(minilm_path, truncation_side="left", model_max_length=256)

    (cut,) = tokenizer.encode([text], "start")

    assert cut.ids.tolist() == reference(text, truncation=True)["input_ids"]


def test_pairs_become_the_ids_and_types_that_transformers_gives(tokenizer: TextTokenizer, minilm_path: Path) -> None:
    reference = AutoTokenizer.from_pretrained(minilm_path, model_max_length=256)
    pairs = [("a query", "a document"), ("long " * 500, "short"), ("both " * 300, "long " * 400)]

    pieces = tokenizer.encode(pairs, "end")

    for pair, piece in zip(pairs, pieces, strict=True):
        expected = reference(*pair, truncation=True)
        assert piece.ids.tolist() == expected["input_ids"]
        assert piece.types is not None and piece.types.tolist() == expected["token_type_ids"]


def test_marked_tokens_know_their_characters(tokenizer: TextTokenizer) -> None:
    text = "Zoë lives in 東京 🙂"

    (marked,) = tokenizer.mark([text])

    pieces = [text[start:end] for start, end in marked.offsets[1:-1]]
    assert pieces == ["Zoë", "lives", "in", "東", "京", "🙂"]
    assert list(marked.special) == [1, 0, 0, 0, 0, 0, 0, 1]


NICES = """
import os, sys, threading
from pathlib import Path
from inference.checkpoint import read_checkpoint
from inference.tokenizer import TextTokenizer

def nices():
    return [os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir("/proc/self/task")]

def behind():
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
    tokenizer.encode(["w"] * 64)
    told.extend(nices())

told = []
tokenizer = TextTokenizer(read_checkpoint("m", Path(sys.argv[1])).tokenizer(), 256)
thread = threading.Thread(target=behind)
thread.start()
thread.join()
print(sum(nice >= 10 for nice in told))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there has a thread a priority of its own")
def test_the_threads_of_the_library_do_not_have_the_priority_of_who_needs_them_first(minilm_path: Path) -> None:
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-c", NICES, str(minilm_path)]

    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)

    assert ran.stdout.split() == ["1"]
