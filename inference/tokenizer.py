"""
Text to token ids, by the package `tokenizers` alone.

Two frozen tokenizers a model, one exact and one that truncates: the library keeps padding and
truncation as state of the tokenizer, and files in the wild have both baked in.
"""

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from inference.request import Tokens


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
        return [np.asarray(encoding.ids, np.int32) for encoding in tokenizer.encode_batch_fast(list(texts))]


def highest_id(tokenizer_json: str) -> int:
    """Return the highest token id that a tokenizer can produce."""
    return max(Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True).values(), default=0)


def _bare(tokenizer_json: str) -> Tokenizer:
    tokenizer: Tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
