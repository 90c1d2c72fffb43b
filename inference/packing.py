"""
Padding-free forwards: sequences laid end to end in one row, attention kept inside each of them.

Transformers lets a named function take the place of a model's attention. Some models accept the
name and ignore it, some mix neighbours outside attention: `self_test` compares numbers and decides.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

from inference.errors import RuntimeFailed
from inference.layout import Layout, Run
from inference.request import Tokens

ATTENTION: Final = "headrace_packed"

_WIDEST: Final = 256  # numbers of a head that the kernel takes
_FROM_PADDING: Final = ("create_position_ids_from_input_ids", "create_position_ids_from_inputs_embeds")

_active = threading.local()


@contextlib.contextmanager
def packed_as(layout: Layout) -> Iterator[None]:
    """Let the forwards of this thread attend inside this layout's sequences only."""
    _active.layout, _active.calls = layout, 0
    try:
        yield
    finally:
        _active.layout = None


def use_packed_attention(model: PreTrainedModel) -> None:
    """Put packed attention in the place of the model's own."""
    AttentionInterface.register(ATTENTION, packed_attention)
    model.set_attn_implementation(ATTENTION)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, heads, tokens, head_dim]
    key: torch.Tensor,  # [1, key heads, tokens, head_dim]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend inside each sequence; returns [1, tokens, heads, head_dim], in Transformers' own signature."""
    unsupported = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if unsupported or attention_mask is not None:
        # Never answered wrongly: the self-test meets this first, and such a model is padded.
        raise RuntimeFailed(f"packed attention with {unsupported or 'a mask'}")
    _active.calls += 1
    causal = _is_causal(module, options)
    window = options.get("sliding_window")
    scale = options.get("scaling")
    layout: Layout = _active.layout
    if layout.bounds is not None and _has_kernel(query):
        left = -1 if window is None else window - 1
        return _by_kernel(
            (query, key, value), layout.bounds, layout.longest, (left, 0 if causal else left), scale
        ), None
    if not layout.runs:
        raise RuntimeFailed("no kernel attends with these heads in this dtype")  # and what is recorded knows no runs
    out = torch.empty_like(query.transpose(1, 2))
    for run in layout.runs:
        q, k, v = (_blocks(x, run) for x in (query, key, value))
        mask = _window_mask(run.length, window, causal, query.device)
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal and mask is None,
            scale=scale,
            enable_gqa=k.shape[1] != q.shape[1],
        )
        out[0, run.rows] = attended.transpose(1, 2).flatten(0, 1)
    return out, None


def _has_kernel(query: torch.Tensor) -> bool:
    """Whether torch's kernel for sequences of any lengths can do it: FlashAttention 2, which knows no float32."""
    width = query.shape[-1]
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and width % 8 == 0 and width <= _WIDEST


def _by_kernel(
    projected: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    bounds: torch.Tensor,
    longest: int,
    sides: tuple[int, int],
    scale: float | None,
) -> torch.Tensor:
    """Attend in one kernel for all sequences: [1, tokens, heads, head_dim]. Waits for nothing: graphs may hold it."""
    query, key, value = (x[0].transpose(0, 1) for x in projected)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = varlen_attn(query, key, value, bounds, bounds, longest, longest, scale=scale, window_size=sides)
    return out.unsqueeze(0)  # type: ignore[union-attr]  # a pair only if asked for


def _blocks(x: torch.Tensor, run: Run) -> torch.Tensor:
    """Cut [1, heads, tokens, head_dim] to this run: [sequences, heads, length, head_dim], a view."""
    return torch.unflatten(x[0, :, run.rows], 1, (run.count, run.length)).transpose(0, 1)


def position_offset(model: PreTrainedModel) -> int:
    """Where positions start: RoBERTa and its kin count from the padding id + 1."""
    for module in model.modules():
        if any(hasattr(module, name) for name in _FROM_PADDING):
            return int(getattr(module, "padding_idx", -1)) + 1
    return 0


def self_test(
    model: PreTrainedModel,
    alone: Callable[[Tokens], npt.NDArray[np.float32]],
    together: Callable[[Sequence[Tokens]], Sequence[npt.NDArray[np.float32]]],
    max_length: int,
) -> str | None:
    """
    Say why the model must not be packed, or None when packed answers equal single ones.

    `alone` runs one sequence through the model as it is, `together` packs several; both give what
    the task makes of each.
    """
    samples = probes(model, _risky_lengths(model, max_length))
    expected = [alone(sample) for sample in samples]
    use_packed_attention(model)
    forward = list(range(len(samples)))
    for order in (forward, forward[::-1]):
        worst = difference(together([samples[i] for i in order]), [expected[i] for i in order])
        if getattr(_active, "calls", 0) == 0:
            return "its attention ignores the interface"
        if not worst <= tolerance(model.dtype):
            return f"packed answers differ from single ones by {worst:.1e}"
    return None


def tolerance(dtype: torch.dtype) -> float:
    """Return how far apart sums of other orders may be, as a share of the largest number."""
    return 1e-4 if dtype == torch.float32 else 3e-2


def difference(answers: Sequence[npt.NDArray[np.float32]], expected: Sequence[npt.NDArray[np.float32]]) -> float:
    """Return the largest difference of all, as a share of the largest number expected."""
    if any(answer.shape != other.shape for answer, other in zip(answers, expected, strict=True)):
        return float("inf")
    worst = max(float(np.abs(answer - other).max()) for answer, other in zip(answers, expected, strict=True))
    return worst / max(float(np.abs(other).max()) for other in expected)


def _is_causal(module: torch.nn.Module, options: dict[str, Any]) -> bool:
    told = options.get("is_causal")
    return bool(getattr(module, "is_causal", False)) if told is None else bool(told)


def _window_mask(length: int, window: int | None, causal: bool, device: torch.device) -> torch.Tensor | None:
    """Transformers' sliding window: a token sees `window - 1` tokens to each side it may look at."""
    if window is None or length <= window:
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    near = distance.abs() < window
    return near & (distance >= 0) if causal else near


def probes(model: PreTrainedModel, lengths: Iterable[int]) -> list[Tokens]:
    """Random sequences of these lengths, without padding ids."""
    random = np.random.default_rng(0)
    vocabulary = np.arange(model.config.vocab_size, dtype=np.int32)
    allowed = vocabulary[vocabulary != getattr(model.config, "pad_token_id", None)]
    return [random.choice(allowed, length) for length in lengths]


def _risky_lengths(model: PreTrainedModel, max_length: int) -> list[int]:
    """The lengths where packing goes wrong first: the shortest twice, around the window, the longest."""
    window = getattr(model.config, "sliding_window", None) or getattr(model.config, "local_attention", None) or 8
    lengths = {1, 2, 3, window // 2, window // 2 + 1, window, window + 1, 2 * window, max_length}
    return [1, min(2, max_length), *sorted(length for length in lengths if 1 <= length <= max_length)]
