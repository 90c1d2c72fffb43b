"""
The runtime for encoders: entries in, one answer each out.

Sequences are sorted by length, laid end to end and run padding-free; where the self-test forbids it, they are
padded; where even padding changes an answer, only equal lengths run together. A model whose own head cannot be run
apart from it runs whole, as Transformers would run it. Answers come back in the entries' order.
"""

import inspect
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import torch

from inference.checkpoint import Checkpoint
from inference.device import Device, Passage, model_edge, staging, to_device
from inference.errors import CannotServe, InferenceError
from inference.graphs import SMALLEST, Graphs, buckets
from inference.heads import Head, Pooled, Rows, TokenVectors, own_head
from inference.launched import LaunchedBatch, answers_of, split
from inference.layout import Bucket, Layout, Packed, bounds_of, fill, lay_out
from inference.own_head import OwnHead
from inference.packing import difference, packed_as, position_offset, probes, self_test, tolerance
from inference.prepacked import prepack
from inference.request import Batch, Output, Request, Row, Tokens
from inference.task import Task
from inference.tokenizer import Vocabulary
from inference.weights import Alone, load_dense, load_weights

_log = logging.getLogger(__name__)

_MAX_DRIFT: Final = 0.045  # of half-precision answers from float32 ones: for unit vectors a cosine of 0.999
_WORTH_ITS_MEMORY: Final = 1.5  # times as fast: in float32 oneDNN keeps 0.4 MB for each number of tokens that it met
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
        # Some models keep one type for all, whatever their tokenizers say.
        self._has_types = getattr(self._model.config, "type_vocab_size", 0) > 1
        self.output = _OUTPUTS[checkpoint.task]
        self.max_length = self._longest()
        self.padded_because: str | None = "not tested yet"
        self._pads = True
        self.graphs: Graphs | None = None
        self.graph_bytes = 0
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
        if self._heads and "position_ids" not in self._takes[self._base]:
            # It counts them itself, over the packed row: beyond its table that is the end of a GPU's process.
            self.padded_because = "it takes no positions"
        elif self._heads:
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

    def prepack(self, least_gain: float = 0.0) -> int:
        """Lay out the weights of a packed model on a CPU once, if its products gain so much; returns how many."""
        if not self.packed or self._device.place.type != "cpu":
            return 0
        output = self._model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return prepack(self._model, but=output, least_gain=least_gain)

    def record_graphs(self, most_tokens: int, done: Callable[[int, int], None] = lambda number, total: None) -> int:
        """Record what a GPU can replay of packed batches up to so many tokens; returns how many graphs there are."""
        on_cpu = self._device.place.type == "cpu"
        if on_cpu or not self.packed or self._model.dtype == torch.float32 or most_tokens < SMALLEST:
            return 0
        wanted = buckets(most_tokens, self.max_length)
        graphs, before = Graphs(self._device.place), torch.cuda.mem_get_info(self._device.place)[0]
        try:
            with model_edge(), torch.inference_mode():
                graphs.record(self._hidden_of, wanted, lambda number: done(number, len(wanted)))
        except InferenceError as err:
            _log.warning("model %s: no CUDA graphs, every batch runs eagerly: %s", self._checkpoint.name, err)
            return 0
        self.graphs = graphs
        self.graph_bytes = before - torch.cuda.mem_get_info(self._device.place)[0]
        return len(wanted)

    def launch(self, batch: Batch) -> LaunchedBatch:
        """Run a batch: asynchronous on CUDA, computed on return on a CPU."""
        requests = [entry.request for entry in batch.entries]
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].tokens))
        ordered = [requests[i] for i in order]
        with model_edge(), torch.inference_mode(), self._device.launching:
            passage = Passage(self._device.place)
            answers = {
                output: Rows(passage.fetch(rows.values), rows.counts) for output, rows in self.run(ordered).items()
            }
            passage.end()
        return LaunchedBatch(answers, ordered, order, passage)

    def run(self, requests: Sequence[Request]) -> Mapping[Output, Rows]:
        """Answer requests (best sorted by length): the rows of every output that one of them asks for."""
        if not self._heads:
            return {self.output: self._whole(requests)}
        if self.packed:
            hidden, layout = self._packed(requests)
        else:
            hidden, layout = torch.cat(list(map(self._padded, self._parts(requests)))), self._layout(requests)
        return {output: self._heads[output](hidden, layout, requests) for output in {r.output for r in requests}}

    def rows(self, requests: Sequence[Request]) -> list[Row]:
        """Answer requests and wait: one row each, on the host."""
        with model_edge(), torch.inference_mode():
            return answers_of(self.run(requests), requests)

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
        rows = self._heads[requests[0].output](self._padded(requests), self._layout(requests), requests)
        return split(rows, 1)[0]

    def _together(self, sequences: Sequence[Tokens]) -> list[Row]:
        requests = self._asked(sequences)
        hidden, layout = self._packed(requests)
        return split(self._heads[requests[0].output](hidden, layout, requests), len(requests))

    def _asked(self, sequences: Sequence[Tokens]) -> list[Request]:
        """Ask for what tells most: where a head works token by token, the states that it works on."""
        by_itself = self.output in ("vector", "logits") or not self._heads
        output: Output = self.output if by_itself else "token vectors"
        return [Request(self._checkpoint.name, self._ended(tokens), output=output) for tokens in sequences]

    def _ended(self, tokens: Tokens) -> Tokens:
        """End a sequence as texts end, where a head looks for that."""
        config = self._model.config
        return np.append(tokens[:-1], np.int32(config.eos_token_id)) if config.is_encoder_decoder else tokens

    def _packed(self, requests: Sequence[Request]) -> tuple[torch.Tensor, Layout]:
        """Return hidden states [tokens, hidden] and where whose are: by a graph, if one holds them."""
        lengths = [len(request.tokens) for request in requests]
        batch = Bucket(sum(lengths), len(lengths), max(lengths))
        bucket = None if self.graphs is None else self.graphs.bucket_for(batch)
        told = self._told(requests, bucket or batch)
        if self.graphs is not None and bucket is not None:
            hidden, packed = self.graphs.replay(bucket, told)
            return hidden[: batch.tokens], lay_out(lengths, packed.bounds[: batch.rows + 1])
        packed = Packed.of(told.to(self._device.place, non_blocking=True), batch)
        layout = lay_out(lengths, None if self._device.place.type == "cpu" else packed.bounds)
        return self._hidden_of(packed, layout), layout

    def _told(self, requests: Sequence[Request], bucket: Bucket) -> torch.Tensor:
        """Write down a batch, filled up to a bucket."""
        told = staging(bucket.size, self._device.place)
        fill(
            Packed.of(told.numpy(), bucket),
            bucket,
            [request.tokens for request in requests],
            [request.types if self._has_types else None for request in requests],
            self._positions,
        )
        return told

    def _hidden_of(self, packed: Packed, layout: Layout) -> torch.Tensor:
        """Run the base on a packed batch: [tokens, hidden]."""
        inputs = {
            "input_ids": packed.ids.long()[None],
            "position_ids": packed.positions.long()[None],
            "token_type_ids": packed.types.long()[None],
        }
        with packed_as(layout):
            states = self._forward(self._base, inputs).last_hidden_state  # [1, tokens, hidden]
        hidden: torch.Tensor = states[0]
        return hidden

    def _layout(self, requests: Sequence[Request]) -> Layout:
        lengths, place = [len(request.tokens) for request in requests], self._device.place
        return lay_out(lengths, None if place.type == "cpu" else to_device(bounds_of(lengths), place))

    def _positions(self, ids: Tokens, places: Tokens) -> Tokens:
        """Make positions of places; models that count from the padding id on do not count padding ids."""
        if self._offset == 0:
            return places
        real = ids != self._offset - 1
        if real.all():
            return places + np.int32(self._offset)
        before = np.cumsum(real, dtype=np.int32)  # real ones of the whole row, each itself included
        starts = np.flatnonzero(places == 0)
        earlier = np.repeat(before[starts] - real[starts], np.diff([*starts, len(ids)]))
        positions: Tokens = ((before - earlier) * real + self._offset - 1).astype(np.int32)
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
        return self._without_padding(self._forward(self._base, inputs).last_hidden_state, real)

    def _whole(self, requests: Sequence[Request]) -> Rows:
        """Return what the whole model says, [sequences, labels] or [tokens, labels]."""
        logits = torch.cat([self._logits(part) for part in self._parts(requests)]).float()
        return Rows(logits, [len(request.tokens) for request in requests] if self.output == "token logits" else None)

    def _logits(self, requests: Sequence[Request]) -> torch.Tensor:
        """Run the whole model, padded: [sequences, labels], or [tokens, labels] without those of the padding."""
        inputs, real = self._pad(requests)
        logits: torch.Tensor = self._forward(self._model, inputs).logits
        return self._without_padding(logits, real) if logits.ndim > 2 else logits  # noqa: PLR2004

    def _without_padding(self, padded: torch.Tensor, real: np.ndarray[Any, Any]) -> torch.Tensor:
        """Cut [sequences, longest, width] to [tokens, width]."""
        return padded.flatten(0, 1).index_select(0, to_device(np.flatnonzero(real), self._device.place))

    def _pad(self, requests: Sequence[Request]) -> tuple[dict[str, torch.Tensor], np.ndarray[Any, Any]]:
        """Pad requests to the longest; returns what the model reads, and which of it is not padding."""
        lengths = np.array([len(request.tokens) for request in requests])
        real = np.arange(lengths.max()) < lengths[:, None]  # [sequences, longest]
        ids, types = np.full(real.shape, self._model.config.pad_token_id), np.zeros(real.shape)
        ids[real] = np.concatenate([request.tokens for request in requests])
        types[real] = np.concatenate([self._types(request) for request in requests])
        inputs = {
            "input_ids": self._place(ids),
            "attention_mask": self._place(real),
            "token_type_ids": self._place(types),
        }
        return inputs, real

    def _forward(self, part: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> Any:
        """Run the model or its base with what it takes: some know no token types, some no positions."""
        taken = self._takes[part]
        return part(**{name: tensor for name, tensor in inputs.items() if name in taken}, return_dict=True)

    def _types(self, request: Request) -> np.ndarray[Any, Any]:
        """Token types of a sequence."""
        return request.types if request.types is not None and self._has_types else np.zeros(len(request.tokens))

    def _place(self, ids: np.ndarray[Any, Any]) -> torch.Tensor:
        return to_device(ids.astype(np.int64), self._device.place)

    def _longest(self) -> int:
        positions = getattr(self._model.config, "max_position_embeddings", None)
        limits = [self._checkpoint.max_length, positions and positions - self._offset]
        return min((int(limit) for limit in limits if limit and limit > 0), default=512)


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
    laid_out = encoder.prepack(0.0 if dtype == torch.bfloat16 else _WORTH_ITS_MEMORY)
    if dtype != torch.float32:
        _check_precision(encoder, Encoder(checkpoint, device, torch.float32, vocabulary))
    how = "packed" if encoder.packed else f"padded, since {encoder.padded_because}"
    how += f", {laid_out} layers laid out for oneDNN" if laid_out else ""
    _log.info("model %s: %s on %s, %s", checkpoint.name, str(dtype).removeprefix("torch."), device.name, how)
    return encoder


def _parameters(part: torch.nn.Module) -> frozenset[str]:
    """Name what a model's forward takes; token types only where they have embeddings of their own."""
    names = frozenset(inspect.signature(inspect.unwrap(type(part).forward)).parameters)
    return names if hasattr(part.config, "type_vocab_size") else names - {"token_type_ids"}


def _check_precision(encoder: Encoder, reference: Encoder) -> None:
    drift = encoder.drift(reference)
    if not drift <= _MAX_DRIFT:
        raise CannotServe(f"its answers in the wanted dtype are {drift:.1%} off float32's: use --dtype float32")
