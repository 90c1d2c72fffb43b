"""
Text to token ids, by the package `tokenizers` alone.

Two frozen tokenizers a model, one exact and one that truncates: the library keeps padding and
truncation as state of the tokenizer, and files in the wild have both baked in.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from inference.request import Tokens

_HEAD: Final = 32  # characters a token: few texts have longer tokens
_MARGIN: Final = 16  # tokens: where a head ends may change the last of its own


class TextTokenizer:
    """Tokenises for one model; safe to use from any thread, since nothing changes after construction."""

    def __init__(self, tokenizer_json: str, max_length: int) -> None:
        """Take the tokenizer as JSON and the most tokens the model reads, special tokens included."""
        self.max_length = max_length
        self._exact = _bare(tokenizer_json)
        self._truncating = _bare(tokenizer_json)
        self._truncating.enable_truncation(max_length)

    def encode(self, texts: Sequence[str], *, truncate: bool) -> list[Tokens]:
        """Return one array of token ids a text: [tokens] int32, special tokens included."""
        tokenizer = self._truncating if truncate else self._exact
        needed = [self._needed(text) for text in texts]
        return [np.asarray(encoding.ids, np.int32) for encoding in tokenizer.encode_batch_fast(needed)]

    def _needed(self, text: str) -> str:
        """
        As much of a text as tells what it is cut to, or that it is too long; a text of the usual length is itself.

        Tokens of a long text cost some 200 bytes a character. The head ends at a space where there is one, well
        behind the last token that counts.
        """
        size = _HEAD * self.max_length
        while size < len(text):
            head = text[: max(text.rfind(" ", size // 2, size), size // 2)]
            if len(self._exact.encode(head).ids) > self.max_length + _MARGIN:
                return head
            size *= 2
        return text


def highest_id(tokenizer_json: str) -> int:
    """Return the highest token id that a tokenizer can produce."""
    return max(Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True).values(), default=0)


def _bare(tokenizer_json: str) -> Tokenizer:
    tokenizer: Tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
