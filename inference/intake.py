"""
What is checked and made on the host before anything is queued: a call's inputs become token ids, or an error
that names the field.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from inference.asks import Inputs, InputType, size_of
from inference.config import Limits
from inference.errors import InvalidRequest
from inference.judge import question
from inference.model import ServedModel
from inference.request import Output, Shape, Tokens
from inference.spans import Marked
from inference.tokenizer import Text, TextTokenizer, Tokenised, Truncation
from inference.use import Use

_FIRST_RATIO: Final = 0.05  # tokens a character, before anything was learned: English has 0.2 to 0.25
_SEAM: Final = 4  # tokens
_LONGEST_WORD: Final = 100  # characters
_MOST_MASKS: Final = 16  # in one text: each has a score for every word of the vocabulary
_PROMPT_NAMES: Final[dict[InputType, tuple[str, ...]]] = {
    "query": ("query", "search_query"),
    "document": ("document", "passage", "search_document", "corpus"),
}

Piece = TypeVar("Piece", Tokenised, Marked)


class Served:
    """A model with its tokenizer, and what its texts cost so far."""

    def __init__(self, model: ServedModel) -> None:
        """Take a model that is ready."""
        self.model = model
        self.tokenizer = TextTokenizer(model.tokenizer, model.max_length)
        self.use = Use()
        self._tokens, self._characters = _FIRST_RATIO, 1.0  # fading sums

    def encode(self, inputs: Inputs, truncation: Truncation) -> list[Tokenised]:
        """Return tokens of every input; raises InvalidRequest."""
        items = inputs.items
        if not isinstance(items[0], str | tuple):
            cut = self.model.max_length if truncation != "none" else None
            return [
                self._checked(ids[:cut] if truncation != "start" else ids[-(cut or 0) :], inputs, index)
                for index, ids in enumerate(items)
            ]
        texts = [self._text(item) for item in items]
        if self._judges:
            pieces = self._judged(items, cut=truncation != "none")  # type: ignore[arg-type]
        else:
            pieces = self.tokenizer.encode(texts, truncation)
        self._learn(sum(len(piece.ids) for piece in pieces), sum(map(size_of, texts)))
        return pieces

    @property
    def _judges(self) -> bool:
        return self.model.causal and self.model.task == "rerank"

    def _judged(self, pairs: Sequence[tuple[str, str]], *, cut: bool) -> list[Tokenised]:
        """Ask about each pair; where it is too long, the document is cut: a judge is asked at the end."""
        pieces = self.tokenizer.encode([question(*pair) for pair in pairs])
        excess = [len(piece.ids) - self.model.max_length if cut else 0 for piece in pieces]
        for place, ((query, document), more) in enumerate(zip(pairs, excess, strict=True)):
            if more > 0:
                (pieces[place],) = self.tokenizer.encode([question(query, self._shortened(document, more))])
        return pieces

    def _shortened(self, text: str, tokens: int) -> str:
        """Return a text without its last tokens, and a few more: where it meets what follows, tokens may differ."""
        (marked,) = self.tokenizer.mark([text])
        ends = [end for (_, end), special in zip(marked.offsets, marked.special, strict=True) if not special]
        kept = len(ends) - tokens - _SEAM
        return text[: ends[kept - 1]] if kept > 0 else ""

    def mark(self, inputs: Inputs, truncation: Truncation) -> list[Marked]:
        """Return tokens of every text that know where they came from."""
        return self.tokenizer.mark([item for item in inputs.items if isinstance(item, str)], truncation)

    def check_masks(self, pieces: Sequence[Tokenised], inputs: Inputs, most: int) -> None:
        """Refuse texts without a mask, or with too many, and more than so many in all; raises InvalidRequest."""
        if sum(int((piece.ids == self.tokenizer.mask_id).sum()) for piece in pieces) > most:
            raise InvalidRequest(f"holds more than {most} masks in all, at so many proposals each", inputs.field)
        for index, piece in enumerate(pieces):
            masks = int((piece.ids == self.tokenizer.mask_id).sum())
            if not 1 <= masks <= _MOST_MASKS:
                wanted = f"must hold from 1 to {_MOST_MASKS} times {self.model.tokenizer.mask}, not {masks} times"
                raise InvalidRequest(wanted, inputs.name(index))

    def target(self, word: str, index: int) -> int:
        """Return the token that a proposed word begins with; raises InvalidRequest."""
        token = self.tokenizer.id_of(word) if len(word) <= _LONGEST_WORD else None
        if token is None:
            raise InvalidRequest("is no word that the model knows", f"targets[{index}]")
        return token

    def likely(self, inputs: Inputs) -> Shape:
        """About what the inputs cost."""
        return self._guess(inputs, self._tokens / self._characters)

    def least(self, inputs: Inputs) -> Shape:
        """About half of what the inputs cost: the first gate must not refuse what the second would admit."""
        return self._guess(inputs, 0.5 * self._tokens / self._characters)

    def prompted(self, inputs: Inputs, prompt_name: str | None, input_type: InputType | None) -> Inputs:
        """Put the prompt before each text; token ids stay as they are. Raises InvalidRequest for an unknown name."""
        prompt = self._prompt(prompt_name, input_type)
        if not prompt or not isinstance(inputs.items[0], str):
            return inputs
        return replace(inputs, items=[prompt + str(text) for text in inputs.items])

    def _prompt(self, name: str | None, input_type: InputType | None) -> str:
        prompts = self.model.prompts
        if name is not None:
            if name not in prompts:
                known = ", ".join(prompts) or "none"
                raise InvalidRequest(f"{self.model.name} has no prompt of that name; it has: {known}", "prompt_name")
            return prompts[name]
        if input_type is not None:
            return next((prompts[known] for known in _PROMPT_NAMES[input_type] if known in prompts), "")
        return prompts.get(self.model.default_prompt or "", "")

    def _text(self, item: object) -> Text:
        if isinstance(item, tuple):
            first, second = item
            return question(first, second) if self._judges else (first, second)
        return str(item)

    def _checked(self, ids: object, inputs: Inputs, index: int) -> Tokenised:
        array = np.asarray(ids, np.int64)
        if array.min() < 0 or array.max() >= self.model.vocab_size:
            message = f"token ids must be between 0 and {self.model.vocab_size - 1} for {self.model.name}"
            raise InvalidRequest(message, inputs.name(index))
        return Tokenised(array.astype(np.int32))

    def _guess(self, inputs: Inputs, tokens_per_character: float) -> Shape:
        first, count = inputs.items[0], len(inputs.items)
        share = tokens_per_character if isinstance(first, str | tuple) else 1.0  # token ids are counted already
        tokens = min(max(count, round(share * inputs.size)), count * self.model.max_length)
        return Shape(tokens, count, tokens * tokens // count)

    def _learn(self, tokens: int, characters: int) -> None:
        self._tokens += 0.01 * (tokens - self._tokens)
        self._characters += 0.01 * (characters - self._characters)


def check_items(inputs: Inputs, limits: Limits) -> None:
    """Refuse what no tokenizer has to see: nothing, too much, an empty text. Raises InvalidRequest."""
    if not inputs.items:
        raise InvalidRequest("must not be empty", inputs.field)
    if len(inputs.items) > limits.max_items:
        count = len(inputs.items)
        raise InvalidRequest(f"has {count} items, at most {limits.max_items} are taken in one call", inputs.field)
    for index, item in enumerate(inputs.items):
        if len(item[0] if isinstance(item, tuple) else item) == 0:
            raise InvalidRequest("must not be empty", inputs.name(index))


def check_tokens(pieces: Sequence[Tokenised | Marked], inputs: Inputs, model: ServedModel, most: int) -> int:
    """Refuse what the model cannot read, or the queue cannot hold; returns how many tokens there are."""
    lists = [piece.ids for piece in pieces]
    for index, ids in enumerate(lists):
        _check_length(ids, inputs.longer(index), model.max_length)
    total = sum(map(len, lists))
    if total > most:
        raise InvalidRequest(f"has {total} tokens in all, at most {most} are taken in one call", inputs.field)
    return total


def check_answer(
    served: Served, output: Output, pieces: Sequence[Tokenised | Marked], inputs: Inputs, most_bytes: int
) -> None:
    """Refuse what would be answered by more numbers than one answer may hold."""
    model = served.model
    match output:
        case "token vectors":
            numbers = sum(len(piece.ids) for piece in pieces) * model.hidden_size
        case "mask logits":
            numbers = sum(int((piece.ids == served.tokenizer.mask_id).sum()) for piece in pieces) * model.vocab_size
        case "term weights":
            numbers = len(pieces) * model.vocab_size
        case _:
            return
    if 4 * numbers > most_bytes:
        raise InvalidRequest(f"makes an answer of more than {most_bytes} bytes: send less in one call", inputs.field)


def _check_length(ids: Tokens, name: str, most: int) -> None:
    if len(ids) > most:
        message = f"has more than the {most} tokens that the model reads: shorten it, or ask for it to be truncated"
        raise InvalidRequest(message, name)
    if len(ids) == 0:
        raise InvalidRequest("holds nothing that the model's tokenizer knows", name)
