"""
The runtime for encoders: entries in, one row each out.

Sequences are sorted by length, laid end to end and run padding-free; where the self-test forbids
it, they are padded. Rows come back in the entries' order.
"""

import inspect
import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from inference.checkpoint import Checkpoint
from inference.device import Device, model_edge
from inference.errors import CannotServe, InferenceError
from inference.heads import embed
from inference.packing import Layout, layout, packed_as, position_offset, probes, self_test
from inference.request import Batch, Row, RowFailed, Tokens

_log = logging.getLogger(__name__)

_UNUSED_WEIGHTS: Final = ("pooler.",)  # no part of the hidden states
_MIN_COSINE: Final = 0.999  # of a half-precision answer with the float32 one


class Encoder:
    """A loaded encoder on one device: implements Runtime."""

    def __init__(self, checkpoint: Checkpoint, device: Device, dtype: torch.dtype) -> None:
        """Load the weights and find out whether the model may be packed; raises CannotServe."""
        self._checkpoint = checkpoint
        self._device = device
        self._model = _load(checkpoint, device, dtype)
        self._parameters = inspect.signature(inspect.unwrap(type(self._model).forward)).parameters
        self._offset = position_offset(self._model)
        self.padded_because: str | None = "not tested yet"
        self.max_length = self._longest()

    @property
    def packed(self) -> bool:
        """Whether sequences run end to end, without padding."""
        return self.padded_because is None

    @property
    def hidden_size(self) -> int:
        """Width of an answer."""
        return int(self._model.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return int(self._model.config.vocab_size)

    def choose_packing(self) -> None:
        """Run the self-test: packed if packed answers equal single ones, else padded."""
        own_attention = self._model.config._attn_implementation  # noqa: SLF001 - transformers has no public reader
        with torch.inference_mode():
            try:
                with model_edge():
                    self.padded_because = self_test(self._model, self._alone, self._packed, self.max_length)
            except InferenceError as err:
                self.padded_because = str(err)
        if not self.packed:
            self._model.set_attn_implementation(own_attention)

    def launch(self, batch: Batch) -> "_Launched":
        """Run a batch: asynchronous on CUDA, computed on return on a CPU."""
        sequences = [entry.request.tokens for entry in batch.entries]
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        with model_edge(), torch.inference_mode():
            return _Launched(self.run([sequences[i] for i in order]), order)

    def run(self, sequences: Sequence[Tokens]) -> torch.Tensor:
        """Answer sequences (best sorted by length): [sequences, hidden], float32, on the device."""
        return self._packed(sequences) if self.packed else self._padded(sequences)

    def cosine(self, other: "Encoder") -> float:
        """Compare with the same model in another dtype: the lowest cosine of both answers to 8 probes."""
        lengths = [min(2**i, self.max_length) for i in range(8)]
        samples = probes(self._model, lengths)
        with model_edge(), torch.inference_mode():
            return float(torch.cosine_similarity(self.run(samples), other.run(samples)).min())

    def _alone(self, tokens: Tokens) -> torch.Tensor:
        return self._padded([tokens])[0]

    def _packed(self, sequences: Sequence[Tokens]) -> torch.Tensor:
        runs = layout([len(tokens) for tokens in sequences])
        positions = np.concatenate([self._positions(tokens) for tokens in sequences])
        inputs = {"input_ids": self._place(np.concatenate(sequences)), "position_ids": self._place(positions)}
        with packed_as(runs):
            hidden = self._forward(inputs)  # [1, tokens, hidden]
        return self._head(hidden[0], runs)

    def _positions(self, tokens: Tokens) -> np.ndarray[Any, Any]:
        """Positions of one sequence; models that count from the padding id on do not count padding ids."""
        if self._offset == 0:
            return np.arange(len(tokens))
        real = tokens != self._offset - 1
        positions: np.ndarray[Any, Any] = np.cumsum(real) * real + self._offset - 1
        return positions

    def _padded(self, sequences: Sequence[Tokens]) -> torch.Tensor:
        lengths = np.array([len(tokens) for tokens in sequences])
        real = np.arange(lengths.max()) < lengths[:, None]  # [sequences, longest]
        ids = np.full(real.shape, self._model.config.pad_token_id or 0)
        ids[real] = np.concatenate(sequences)
        mask = torch.from_numpy(real).to(self._device.place)
        hidden = self._forward({"input_ids": self._place(ids), "attention_mask": mask.long()})
        return self._head(hidden[mask], layout(lengths.tolist()))

    def _forward(self, inputs: dict[str, Any]) -> torch.Tensor:
        if "token_type_ids" in self._parameters:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        hidden: torch.Tensor = self._model(**inputs, return_dict=True).last_hidden_state
        return hidden

    def _head(self, hidden: torch.Tensor, runs: Layout) -> torch.Tensor:
        return embed(hidden, runs, self._checkpoint.pooling, normalise=self._checkpoint.normalise)

    def _place(self, ids: np.ndarray[Any, Any]) -> torch.Tensor:
        batched = ids if ids.ndim > 1 else ids[None]
        return torch.from_numpy(batched.astype(np.int64)).to(self._device.place)

    def _longest(self) -> int:
        positions = getattr(self._model.config, "max_position_embeddings", None)
        limits = [self._checkpoint.max_length, positions and positions - self._offset]
        return min((int(limit) for limit in limits if limit and limit > 0), default=512)


class _Launched:
    """A batch on its way: implements runtime.Launched."""

    def __init__(self, rows: torch.Tensor, order: Sequence[int]) -> None:
        self._rows = rows
        self._order = order

    def wait(self) -> Sequence[Row | RowFailed]:
        with model_edge():
            rows = self._rows.cpu().numpy()
        finite = np.isfinite(rows).all(axis=1)
        outcomes: list[Row | RowFailed] = [RowFailed("the model's answer is not finite")] * len(self._order)
        for place, row, usable in zip(self._order, rows, finite, strict=True):
            if usable:
                outcomes[place] = row
        return outcomes


def load_encoder(checkpoint: Checkpoint, device: Device, dtype: torch.dtype) -> Encoder:
    """Load, compare a half-precision model with float32, and choose packing; raises CannotServe."""
    encoder = Encoder(checkpoint, device, dtype)
    encoder.choose_packing()
    if dtype != torch.float32:
        _check_precision(encoder, Encoder(checkpoint, device, torch.float32))
    how = "packed" if encoder.packed else f"padded, since {encoder.padded_because}"
    _log.info("model %s: %s on %s, %s", checkpoint.name, str(dtype).removeprefix("torch."), device.name, how)
    return encoder


def _load(checkpoint: Checkpoint, device: Device, dtype: torch.dtype) -> PreTrainedModel:
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with model_edge():
            model, info = AutoModel.from_pretrained(
                checkpoint.path,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
            model = model.eval().to(device.place)
    except InferenceError as err:
        raise CannotServe(f"model {checkpoint.name}: {err}") from err
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(_UNUSED_WEIGHTS))
    if missing:
        raise CannotServe(f"model {checkpoint.name}: the weights lack {missing[0]} and {len(missing) - 1} more")
    loaded: PreTrainedModel = model
    return loaded


def _check_precision(encoder: Encoder, reference: Encoder) -> None:
    cosine = encoder.cosine(reference)
    if not cosine >= _MIN_COSINE:
        raise CannotServe(f"its answers in the wanted dtype have cosine {cosine:.4f} with float32: use --dtype float32")
