"""
Text to token ids and back, by the package `tokenizers` alone.

Frozen tokenizers, one a way to cut: the library keeps padding and truncation as state of the tokenizer, and files
in the wild have both baked in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np
from tokenizers import Tokenizer

from inference.request import Tokens
from inference.spans import Marked, subwords

if TYPE_CHECKING:
    from tokenizers import Encoding

Text = str | tuple[str, str]
"""One text, or two that are read together."""

Truncation = Literal["none", "end", "start"]
"""What happens to a text that is too long: it is refused, or loses its end or its start."""

_HEAD: Final = 32  # characters a token: few texts have longer tokens
_MARGIN: Final = 16  # tokens: where a head ends may change the last of its own


@dataclass(frozen=True, slots=True, eq=False)
class TokenizerFile:
    """A tokenizer as JSON, and what else is known of it."""

    json: str
    max_length: int  # the most tokens it is meant for
    types: bool = False  # whether its models tell the two texts of a pair apart by token types
    unknown: str | None = None
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The ids that a model's head has to know; None where the tokenizer has no such token."""

    highest: int = 0
    mask: int | None = None
    yes: int | None = None
    no: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Tokenised:
    """A text as tokens: ids, and token types where they differ; [tokens] int32 each."""

    ids: Tokens
    types: Tokens | None = None


class Token(msgspec.Struct, frozen=True):
    """One token of a text; `start` and `stop` in characters, None for one that the tokenizer put there."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TextTokenizer:
    """Tokenises for one model; safe to use from any thread, since nothing changes after construction."""

    def __init__(self, file: TokenizerFile, max_length: int) -> None:
        """Take the tokenizer and the most tokens the model reads, special tokens included."""
        self.max_length = max_length
        self._types = file.types
        self._unknown = file.unknown
        self._exact = _bare(file.json)
        self._cutting = {"none": self._exact, "end": _bare(file.json), "start": _bare(file.json)}
        self._cutting["end"].enable_truncation(max_length)
        self._cutting["start"].enable_truncation(max_length, direction="left")
        self._exact.encode_batch_fast(["", ""])  # starts the library's threads, with the priority of this one
        self._prefixed = bool(getattr(self._exact.model, "continuing_subword_prefix", None))
        self.mask_id: int | None = self._exact.token_to_id(file.mask) if file.mask else None

    def encode(self, texts: Sequence[Text], truncation: Truncation = "none") -> list[Tokenised]:
        """Return each text's tokens, special tokens included."""
        tokenizer = self._cutting[truncation]
        needed = [self._needed(text, truncation) for text in texts]
        return [self._tokenised(encoding) for encoding in tokenizer.encode_batch_fast(needed)]

    def mark(self, texts: Sequence[str], truncation: Truncation = "none") -> list[Marked]:
        """Return each text's tokens with the characters they stand for."""
        needed = texts if truncation == "start" else [self._end_of_need(text, truncation) for text in texts]
        encodings = self._cutting[truncation].encode_batch(list(needed))
        return [self._marked(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def tokens(self, texts: Sequence[str], *, special: bool = True) -> list[list[Token]]:
        """Return each text's tokens, to look at."""
        encodings = self._exact.encode_batch(list(texts), add_special_tokens=special)
        return [self._shown(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of token ids."""
        return str(self._exact.decode(list(ids), skip_special_tokens=skip_special))

    def joined(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens as the vocabulary writes them."""
        decoder = self._exact.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(list(tokens)))

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, or of the first token of a word that is none; None: it knows neither."""
        known: int | None = self._exact.token_to_id(token)
        if known is not None:
            return known
        return next(iter(self._exact.encode(token, add_special_tokens=False).ids), None)

    def _tokenised(self, encoding: "Encoding") -> Tokenised:
        ids = np.asarray(encoding.ids, np.int32)
        if not self._types or encoding.n_sequences == 1:
            return Tokenised(ids)
        return Tokenised(ids, np.asarray(encoding.type_ids, np.int32))

    def _marked(self, text: str, encoding: "Encoding") -> Marked:
        unknown, offsets = self._unknown, encoding.offsets
        written = [
            text[start:end] if token == unknown else token
            for token, (start, end) in zip(encoding.tokens, offsets, strict=True)
        ]
        continues = subwords(text, encoding.tokens, offsets, unknown, prefixed=self._prefixed)
        ids = np.asarray(encoding.ids, np.int32)
        return Marked(ids, text, written, offsets, encoding.special_tokens_mask, continues)

    def _shown(self, text: str, encoding: "Encoding") -> list[Token]:
        name = self._exact.id_to_token  # of a special one: to take the names of all costs more
        return [
            (
                Token(number, name(number) or "", True, None, None)
                if special
                else Token(number, text[at:end], False, at, end)
            )
            for number, special, (at, end) in zip(
                encoding.ids, encoding.special_tokens_mask, encoding.offsets, strict=True
            )
        ]

    def _needed(self, text: Text, truncation: Truncation) -> Text:
        if isinstance(text, tuple):
            return self._end_of_need(text[0], truncation), self._end_of_need(text[1], truncation)
        return self._end_of_need(text, truncation)

    def _end_of_need(self, text: str, truncation: Truncation) -> str:
        """
        As much of a text as tells what it is cut to, or that it is too long; a text of the usual length is itself.

        Tokens of a long text cost some 200 bytes a character. The part ends at a space where there is one, well
        behind the last token that counts.
        """
        size = _HEAD * self.max_length
        while size < len(text):
            part = _tail(text, size) if truncation == "start" else _head(text, size)
            if len(self._exact.encode(part).ids) > self.max_length + _MARGIN:
                return part
            size *= 2
        return text


def read_vocabulary(file: TokenizerFile) -> Vocabulary:
    """Look up what a head has to know."""
    ids = Tokenizer.from_str(file.json).get_vocab(with_added_tokens=True)
    mask = ids.get(file.mask) if file.mask else None
    return Vocabulary(max(ids.values(), default=0), mask, ids.get("yes"), ids.get("no"))


def _head(text: str, size: int) -> str:
    return text[: max(text.rfind(" ", size // 2, size), size // 2)]


def _tail(text: str, size: int) -> str:
    start = len(text) - size
    space = text.find(" ", start, start + size // 2)
    return text[space if space >= 0 else start + size // 2 :]


def _bare(tokenizer_json: str) -> Tokenizer:
    tokenizer: Tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
