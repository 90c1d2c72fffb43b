"""
What a task makes of hidden states, for sequences laid end to end.

A model's own head (a classifier, a language model's) is run by the model itself: `OwnHead` hands it hidden states
that are computed already. How much of a sequence it has to see is found out by comparing numbers at load.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from inference.checkpoint import Pooling
from inference.errors import RuntimeFailed
from inference.packing import Layout, Run
from inference.request import Output, Request
from inference.tokenizer import Vocabulary

Reach = Literal["first", "last", "whole"]
"""What a head reads of a sequence: its first token, its last, or all of them."""

_CHUNK: Final = 512  # tokens whose vocabulary scores are held at a time


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Numbers on the device, [rows, width] float32: one row a sequence, or `counts[i]` rows for sequence i."""

    values: torch.Tensor
    counts: Sequence[int] | None = None


class Head(Protocol):
    """Hidden states [tokens, hidden], and whose they are, to rows."""

    def __call__(self, hidden: torch.Tensor, runs: Layout, requests: Sequence[Request]) -> Rows:
        """Return the rows in the order of the requests."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """
    One vector a sequence, through the layers behind the pooling; `normalise` scales it to L2 length 1.

    Sums are taken in float32.
    """

    pooling: Pooling
    normalise: bool
    dense: Callable[[torch.Tensor], torch.Tensor] = torch.nn.Identity()  # noqa: RUF009 - has no state

    def __call__(self, hidden: torch.Tensor, runs: Layout, requests: Sequence[Request]) -> Rows:
        """Return [sequences, width]: of the hidden states, or of the last layer."""
        pooled = self.dense(torch.cat([_pool(hidden, run, self.pooling) for run in runs]))
        return Rows(F.normalize(pooled, dim=1) if self.normalise else pooled)


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """The hidden states themselves, one a token."""

    def __call__(self, hidden: torch.Tensor, runs: Layout, requests: Sequence[Request]) -> Rows:
        """Return [tokens, hidden]."""
        return Rows(hidden.float(), [len(request.tokens) for request in requests])


class _Given(BaseModelOutput):
    """Hidden states in the place of a model's own; all else that a head may look for is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class OwnHead:
    """The model's own head, run on hidden states that are computed already: [sequences, length, hidden] to logits."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a loaded model; its forwards are as before but while `__call__` runs."""
        self._model = model
        self._given: torch.Tensor | None = None
        trunk = _trunk(model)
        forward = trunk.forward
        trunk.forward = lambda *args, **kwargs: self._answer(forward, args, kwargs)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits that the model makes of these hidden states, float32."""
        ids = torch.full(hidden.shape[:2], self._some_id(), device=hidden.device)
        self._given = hidden
        try:
            logits: torch.Tensor = self._model(input_ids=ids, return_dict=True).logits
        finally:
            self._given = None
        return logits.float()

    def _answer(self, forward: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        return forward(*args, **kwargs) if self._given is None else _Given(last_hidden_state=self._given)

    def _some_id(self) -> int:
        """Return an id that is not the padding's: heads that read the last token look for it by that."""
        return 1 if self._model.config.pad_token_id == 0 else 0


@dataclass(frozen=True, slots=True)
class SequenceLogits:
    """One row of logits a sequence, from as much of it as the head reads."""

    own: OwnHead
    reach: Reach

    def __call__(self, hidden: torch.Tensor, runs: Layout, requests: Sequence[Request]) -> Rows:
        """Return [sequences, labels]."""
        if self.reach == "whole":
            return Rows(torch.cat([self.own(_blocks(hidden, run)) for run in runs]))
        edge = [_edge(run, self.reach) for run in runs]
        return Rows(self.own(torch.cat([hidden[rows] for rows in edge])[:, None]))


@dataclass(frozen=True, slots=True)
class Judgement:
    """A language model as a judge: how much likelier it says yes than no after the last token."""

    own: OwnHead
    yes: int
    no: int

    def __call__(self, hidden: torch.Tensor, runs: Layout, requests: Sequence[Request]) -> Rows:
        """Return [sequences, 1]: the difference of both logits, whose sigmoid is the probability of a yes."""
        logits = self.own(torch.cat([hidden[_edge(run, "last")] for run in runs])[:, None])[:, 0]
        return Rows(logits[:, [self.yes]] - logits[:, [self.no]])


@dataclass(frozen=True, slots=True)
class TokenLogits:
    """One row of logits a token."""

    own: OwnHead

    def __call__(self, hidden: torch.Tensor, runs: Layout, requests: Sequence[Request]) -> Rows:
        """Return [tokens, labels]."""
        return Rows(_each(self.own, hidden), [len(request.tokens) for request in requests])


@dataclass(frozen=True, slots=True)
class MaskLogits:
    """What stands best at each mask: one row of logits over the vocabulary a mask."""

    own: OwnHead
    mask: int

    def __call__(self, hidden: torch.Tensor, runs: Layout, requests: Sequence[Request]) -> Rows:
        """Return [masks, vocabulary]."""
        masks = [torch.from_numpy(request.tokens == self.mask) for request in requests]
        rows = hidden[torch.cat(masks).to(hidden.device)]
        return Rows(_each(self.own, rows), [int(mask.sum()) for mask in masks])


@dataclass(frozen=True, slots=True)
class TermWeights:
    """SPLADE (Formal et al. 2021): for each term of the vocabulary the largest log(1 + relu(logit)) of any token."""

    own: OwnHead

    def __call__(self, hidden: torch.Tensor, runs: Layout, requests: Sequence[Request]) -> Rows:
        """Return [sequences, vocabulary]."""
        return Rows(torch.cat([self._largest(block) for run in runs for block in _chunks(hidden, run)]))

    def _largest(self, block: torch.Tensor) -> torch.Tensor:
        return torch.log1p(self.own(block).relu_().amax(1))


def own_head(
    own: OwnHead,
    output: Output,
    vocabulary: Vocabulary,
    hidden: Sequence[torch.Tensor],
    logits: Sequence[torch.Tensor],
) -> Head:
    """
    Return the head of a model's own that gives this output; RuntimeFailed: it cannot be run apart from the model.

    Compared with samples: hidden states [length, hidden] each, and the logits that the whole model makes of the same
    input: [labels], or [length, labels].
    """
    if output == "logits" and logits[0].ndim == 1:
        return SequenceLogits(own, _find_reach(own, hidden, logits))
    if not all(_close(_each(own, states), expected) for states, expected in zip(hidden, logits, strict=True)):
        raise RuntimeFailed("its logits need more than hidden states")
    match output:
        case "logits":
            return Judgement(own, _known(vocabulary.yes, "yes"), _known(vocabulary.no, "no"))
        case "mask logits":
            return MaskLogits(own, _known(vocabulary.mask, "mask"))
        case "term weights":
            return TermWeights(own)
        case _:
            return TokenLogits(own)


def _each(own: OwnHead, states: torch.Tensor) -> torch.Tensor:
    """Run a head that works token by token: [tokens, hidden] to [tokens, labels]."""
    return own(states[:, None])[:, 0]


def _known(token: int | None, word: str) -> int:
    if token is None:
        raise RuntimeFailed(f"its tokenizer has no token for {word!r}")
    return token


def _find_reach(own: OwnHead, hidden: Sequence[torch.Tensor], logits: Sequence[torch.Tensor]) -> Reach:
    """Return the least of a sequence that gives the expected logits."""
    seen: Mapping[Reach, Callable[[torch.Tensor], torch.Tensor]] = {
        "first": lambda states: states[:1],
        "last": lambda states: states[-1:],
        "whole": lambda states: states,
    }
    for reach, part in seen.items():
        if all(_close(own(part(states)[None])[0], expected) for states, expected in zip(hidden, logits, strict=True)):
            return reach
    raise RuntimeFailed("its logits need more than hidden states")


def _close(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the same sums came out, but for their order."""
    tolerance = 1e-5 if expected.dtype == torch.float32 else 2e-2
    return logits.shape == expected.shape and bool(
        (logits - expected.float()).abs().max() <= tolerance * expected.abs().max()
    )


def _trunk(model: PreTrainedModel) -> torch.nn.Module:
    """Return the part whose output the rest of the model reads: a base that pools by itself is entered below that."""
    base: torch.nn.Module = model.base_model
    encoder = getattr(base, "encoder", None)
    pools = getattr(base, "pooler", None) is not None
    return encoder if pools and isinstance(encoder, torch.nn.Module) else base


def _pool(hidden: torch.Tensor, run: Run, pooling: Pooling) -> torch.Tensor:
    block = _blocks(hidden, run).float()
    match pooling:
        case "mean":
            return block.mean(1)
        case "cls":
            return block[:, 0]
        case "max":
            return block.amax(1)
        case "last":
            return block[:, -1]


def _blocks(hidden: torch.Tensor, run: Run) -> torch.Tensor:
    """Cut [tokens, hidden] to this run: [sequences, length, hidden], a view."""
    return torch.unflatten(hidden[run.rows], 0, (run.count, run.length))


def _chunks(hidden: torch.Tensor, run: Run) -> Sequence[torch.Tensor]:
    return torch.split(_blocks(hidden, run), max(1, _CHUNK // run.length))


def _edge(run: Run, reach: Reach) -> slice:
    """Return the rows of the first or last tokens of a run's sequences."""
    start = run.start if reach == "first" else run.start + run.length - 1
    return slice(start, run.start + run.count * run.length, run.length)
