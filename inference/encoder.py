"""
The runtime for encoders: entries in, one answer each out.

Sequences are sorted by length, laid end to end and run padding-free; where the self-test forbids it, they are
padded; where even padding changes an answer, only equal lengths run together. A model whose own head cannot be run
apart from it runs whole, as Transformers would run it. Answers come back in the entries' order.
"""

import inspect
import itertools
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import torch

from inference.checkpoint import Checkpoint
from inference.device import Device, model_edge
from inference.errors import CannotServe, InferenceError
from inference.heads import Head, Pooled, Rows, TokenVectors, own_head
from inference.own_head import OwnHead
from inference.packing import difference, layout, packed_as, position_offset, probes, self_test, tolerance
from inference.prepacked import prepack
from inference.request import Batch, Output, Request, Row, RowFailed, Tokens
from inference.task import Task
from inference.tokenizer import Vocabulary
from inference.weights import Alone, load_dense, load_weights

_log = logging.getLogger(__name__)

_MAX_DRIFT: Final = 0.045  # of half-precision answers from float32 ones: for unit vectors a cosine of 0.999
_OUTPUTS: Final[Mapping[Task, Output]] = {
    "embed": "vector",
    "rerank": "logits",
    "classify": "logits",
    "token-classify": "token logits",
    "fill-mask": "mask logits",
    "sparse": "term weights",
}


class Encoder:
    """A loaded encoder on one device: implements Runtime."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: Device,
        dtype: torch.dtype,
        vocabulary: Vocabulary | None = None,
        *,
        alone: Alone = nullcontext,
    ) -> None:
        """Load the weights, `alone` where that disturbs other models, and find the heads; raises CannotServe."""
        self._checkpoint = checkpoint
        self._device = device
        self._model = load_weights(checkpoint, device, dtype, alone)
        self.weight_bytes = sum(weight.nbytes for weight in (*self._model.parameters(), *self._model.buffers()))
        self._base: torch.nn.Module = self._model.base_model
        self._takes = {part: _parameters(part) for part in (self._model, self._base)}
        self._offset = position_offset(self._model)
        self.output = _OUTPUTS[checkpoint.task]
        self.max_length = self._longest()
        self.padded_because: str | None = "not tested yet"
        self._pads = True
        self._heads: Mapping[Output, Head] = {}
        self._heads = self._find_heads(vocabulary or Vocabulary())

    @property
    def packed(self) -> bool:
        """Whether sequences run end to end, without padding."""
        return self.padded_because is None

    @property
    def hidden_size(self) -> int:
        """Width of a vector that it answers: of a hidden state, or of the last layer behind the pooling."""
        dense = self._checkpoint.dense if self.output == "vector" else ()
        return dense[-1].outputs if dense else int(self._model.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return int(self._model.config.vocab_size)

    def choose_packing(self) -> None:
        """Run the self-test: packed if packed answers equal single ones, else padded, if padded ones do."""
        own_attention = self._model.config._attn_implementation  # noqa: SLF001 - transformers has no public reader
        if self._heads:
            with torch.inference_mode():
                try:
                    with model_edge():
                        self.padded_because = self_test(self._model, self._alone, self._together, self.max_length)
                except InferenceError as err:
                    self.padded_because = str(err)
        if not self.packed:
            self._model.set_attn_implementation(own_attention)
            self._choose_padding()

    def _choose_padding(self) -> None:
        samples = self._asked(probes(self._model, [min(length, self.max_length) for length in (2, 5, 9, 40)]))
        off = difference(self.rows(samples), [self.rows([sample])[0] for sample in samples])
        if not off <= tolerance(self._model.dtype):
            self._pads = False
            self.padded_because = f"{self.padded_because}; padding changes its answers: equal lengths run together"

    def prepack(self) -> int:
        """Lay out the weights of a packed model on a CPU once, as its products read them; returns how many."""
        if not self.packed or self._device.place.type != "cpu":
            return 0
        return prepack(self._model, but=self._model.get_output_embeddings())  # type: ignore[no-untyped-call]

    def launch(self, batch: Batch) -> "_Launched":
        """Run a batch: asynchronous on CUDA, computed on return on a CPU."""
        requests = [entry.request for entry in batch.entries]
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].tokens))
        ordered = [requests[i] for i in order]
        with model_edge(), torch.inference_mode():
            return _Launched(self.run(ordered), ordered, order)

    def run(self, requests: Sequence[Request]) -> Mapping[Output, Rows]:
        """Answer requests (best sorted by length): the rows of every output that one of them asks for."""
        if not self._heads:
            return {self.output: self._whole(requests)}
        hidden = self._packed(requests) if self.packed else torch.cat(list(map(self._padded, self._parts(requests))))
        runs = layout([len(request.tokens) for request in requests])
        return {output: self._heads[output](hidden, runs, requests) for output in {r.output for r in requests}}

    def rows(self, requests: Sequence[Request]) -> list[Row]:
        """Answer requests and wait: one row each, on the host."""
        with model_edge(), torch.inference_mode():
            return _answers(self.run(requests), requests)

    def drift(self, other: "Encoder") -> float:
        """Compare with the same model in another dtype: the largest distance of two answers, in answers' lengths."""
        samples = self._asked(probes(self._model, [min(2**i, self.max_length) for i in range(8)]))
        pairs = list(zip(self.rows(samples), other.rows(samples), strict=True))
        length = np.sqrt(np.mean([np.square(reference).sum() for _, reference in pairs]))
        return float(max(np.linalg.norm(row - reference) for row, reference in pairs) / length)

    def _find_heads(self, vocabulary: Vocabulary) -> dict[Output, Head]:
        """Return a head an output; none if the model has to run whole. Raises CannotServe."""
        checkpoint = self._checkpoint
        if checkpoint.task == "embed":
            dense = self._load_dense()
            return {
                "vector": Pooled(checkpoint.pooling, checkpoint.normalise, dense),
                "raw vector": Pooled(checkpoint.pooling, normalise=False, dense=dense),
                "token vectors": TokenVectors(),
            }
        samples = self._asked(probes(self._model, [min(length, self.max_length) for length in (3, 8, 5)]))
        try:
            with model_edge(), torch.inference_mode():
                hidden = [self._padded([sample]) for sample in samples]
                logits = [self._logits([sample]).squeeze(0) for sample in samples]
                head = own_head(OwnHead(self._model), self.output, vocabulary, hidden, logits)
        except InferenceError as err:
            if checkpoint.causal or self.output not in ("logits", "token logits"):
                raise CannotServe(f"model {checkpoint.name}: {err}") from err
            self.padded_because = f"its own head cannot be run apart from it ({err})"
            return {}
        return {self.output: head, "token vectors": TokenVectors()}

    def _load_dense(self) -> torch.nn.Module:
        hidden, layers = int(self._model.config.hidden_size), self._checkpoint.dense
        if layers and layers[0].inputs != hidden:
            wanted = f"takes {layers[0].inputs} numbers, and the pooling gives {hidden}"
            raise CannotServe(f"model {self._checkpoint.name}: its part {layers[0].folder.name} {wanted}")
        return load_dense(self._checkpoint, self._device)

    def _alone(self, tokens: Tokens) -> Row:
        requests = self._asked([tokens])
        return _split(self._heads[requests[0].output](self._padded(requests), layout([len(tokens)]), requests), 1)[0]

    def _together(self, sequences: Sequence[Tokens]) -> list[Row]:
        requests = self._asked(sequences)
        runs = layout([len(tokens) for tokens in sequences])
        return _split(self._heads[requests[0].output](self._packed(requests), runs, requests), len(requests))

    def _asked(self, sequences: Sequence[Tokens]) -> list[Request]:
        """Ask for what tells most: where a head works token by token, the states that it works on."""
        by_itself = self.output in ("vector", "logits") or not self._heads
        output: Output = self.output if by_itself else "token vectors"
        return [Request(self._checkpoint.name, self._ended(tokens), output=output) for tokens in sequences]

    def _ended(self, tokens: Tokens) -> Tokens:
        """End a sequence as texts end, where a head looks for that."""
        config = self._model.config
        return np.append(tokens[:-1], np.int32(config.eos_token_id)) if config.is_encoder_decoder else tokens

    def _packed(self, requests: Sequence[Request]) -> torch.Tensor:
        runs = layout([len(request.tokens) for request in requests])
        positions = np.concatenate([self._positions(request.tokens) for request in requests])
        inputs = {
            "input_ids": self._place(np.concatenate([request.tokens for request in requests])),
            "position_ids": self._place(positions),
            "token_type_ids": self._place(np.concatenate([self._types(request) for request in requests])),
        }
        with packed_as(runs):
            states = self._forward(self._base, inputs).last_hidden_state  # [1, tokens, hidden]
        hidden: torch.Tensor = states[0]
        return hidden

    def _positions(self, tokens: Tokens) -> np.ndarray[Any, Any]:
        """Positions of one sequence; models that count from the padding id on do not count padding ids."""
        if self._offset == 0:
            return np.arange(len(tokens))
        real = tokens != self._offset - 1
        positions: np.ndarray[Any, Any] = np.cumsum(real) * real + self._offset - 1
        return positions

    def _parts(self, requests: Sequence[Request]) -> list[Sequence[Request]]:
        """Cut sorted requests into batches that may be padded: into equal lengths, where none may."""
        return [list(group) for _, group in itertools.groupby(requests, key=self._company)]

    def _company(self, request: Request) -> tuple[int, int]:
        """Say what requests of one padded batch have in common."""
        config = self._model.config
        ends = (
            int((request.tokens == config.eos_token_id).sum()) if config.is_encoder_decoder else 0
        )  # BART's head asks
        return 0 if self._pads else len(request.tokens), ends

    def _padded(self, requests: Sequence[Request]) -> torch.Tensor:
        """Return hidden states without those of the padding: [tokens, hidden]."""
        inputs, real = self._pad(requests)
        hidden: torch.Tensor = self._forward(self._base, inputs).last_hidden_state[real]
        return hidden

    def _whole(self, requests: Sequence[Request]) -> Rows:
        """Return what the whole model says, [sequences, labels] or [tokens, labels]."""
        logits = torch.cat([self._logits(part) for part in self._parts(requests)]).float()
        return Rows(logits, [len(request.tokens) for request in requests] if self.output == "token logits" else None)

    def _logits(self, requests: Sequence[Request]) -> torch.Tensor:
        """Run the whole model, padded: [sequences, labels], or [tokens, labels] without those of the padding."""
        inputs, real = self._pad(requests)
        logits: torch.Tensor = self._forward(self._model, inputs).logits
        return logits[real] if logits.ndim > 2 else logits  # noqa: PLR2004

    def _pad(self, requests: Sequence[Request]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        lengths = np.array([len(request.tokens) for request in requests])
        real = np.arange(lengths.max()) < lengths[:, None]  # [sequences, longest]
        ids, types = np.full(real.shape, self._model.config.pad_token_id), np.zeros(real.shape)
        ids[real] = np.concatenate([request.tokens for request in requests])
        types[real] = np.concatenate([self._types(request) for request in requests])
        mask = torch.from_numpy(real).to(self._device.place)
        inputs = {"input_ids": self._place(ids), "attention_mask": mask.long(), "token_type_ids": self._place(types)}
        return inputs, mask

    def _forward(self, part: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> Any:
        """Run the model or its base with what it takes: some know no token types, some no positions."""
        taken = self._takes[part]
        return part(**{name: tensor for name, tensor in inputs.items() if name in taken}, return_dict=True)

    def _types(self, request: Request) -> np.ndarray[Any, Any]:
        """Token types of a sequence; some models keep one type for all, whatever their tokenizers say."""
        if request.types is None or getattr(self._model.config, "type_vocab_size", 0) < 2:  # noqa: PLR2004
            return np.zeros(len(request.tokens))
        return request.types

    def _place(self, ids: np.ndarray[Any, Any]) -> torch.Tensor:
        batched = ids if ids.ndim > 1 else ids[None]
        return torch.from_numpy(batched.astype(np.int64)).to(self._device.place)

    def _longest(self) -> int:
        positions = getattr(self._model.config, "max_position_embeddings", None)
        limits = [self._checkpoint.max_length, positions and positions - self._offset]
        return min((int(limit) for limit in limits if limit and limit > 0), default=512)


class _Launched:
    """A batch on its way: implements runtime.Launched."""

    def __init__(self, answers: Mapping[Output, Rows], requests: Sequence[Request], order: Sequence[int]) -> None:
        self._answers = answers
        self._requests = requests
        self._order = order

    def wait(self) -> Sequence[Row | RowFailed]:
        with model_edge():
            rows = _answers(self._answers, self._requests)
        outcomes: list[Row | RowFailed] = [RowFailed("the model's answer is not finite")] * len(self._order)
        for place, row in zip(self._order, rows, strict=True):
            if np.isfinite(row).all():
                outcomes[place] = row
        return outcomes


def load_encoder(
    checkpoint: Checkpoint,
    device: Device,
    dtype: torch.dtype,
    vocabulary: Vocabulary | None = None,
    *,
    alone: Alone = nullcontext,
) -> Encoder:
    """Load, compare a half-precision model with float32, and choose packing; raises CannotServe."""
    encoder = Encoder(checkpoint, device, dtype, vocabulary, alone=alone)
    encoder.choose_packing()
    if dtype == torch.bfloat16:  # in float32 it gains next to nothing, and oneDNN keeps 0.4 MB a number of tokens
        encoder.prepack()
    if dtype != torch.float32:
        _check_precision(encoder, Encoder(checkpoint, device, torch.float32, vocabulary))
    how = "packed" if encoder.packed else f"padded, since {encoder.padded_because}"
    _log.info("model %s: %s on %s, %s", checkpoint.name, str(dtype).removeprefix("torch."), device.name, how)
    return encoder


def _parameters(part: torch.nn.Module) -> frozenset[str]:
    """Name what a model's forward takes; token types only where they have embeddings of their own."""
    names = frozenset(inspect.signature(inspect.unwrap(type(part).forward)).parameters)
    return names if hasattr(part.config, "type_vocab_size") else names - {"token_type_ids"}


def _answers(rows: Mapping[Output, Rows], requests: Sequence[Request]) -> list[Row]:
    """Move rows to the host and give each request the one that it asked for."""
    split = {output: _split(of_output, len(requests)) for output, of_output in rows.items()}
    return [split[request.output][index] for index, request in enumerate(requests)]


def _split(rows: Rows, count: int) -> list[Row]:
    values = rows.values.cpu().numpy()
    if rows.counts is None:
        return [values[index] for index in range(count)]
    return np.split(values, np.cumsum(rows.counts)[:-1])


def _check_precision(encoder: Encoder, reference: Encoder) -> None:
    drift = encoder.drift(reference)
    if not drift <= _MAX_DRIFT:
        raise CannotServe(f"its answers in the wanted dtype are {drift:.1%} off float32's: use --dtype float32")
