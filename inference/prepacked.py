"""
Linear layers whose weights were laid out once in the blocks that oneDNN multiplies.

Torch's own layer finds the weights as they lie in the checkpoint, and lays them out for every batch or does without.
Answers are the same sums in another order.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Final

import torch

_ROWS: Final = 256  # of a usual batch; a layout is right for any number
_MANY_ROWS: Final = 1024  # of a large batch: small ones tell more of the moment
_TRIES: Final = 4
_SMALLEST: Final = 100_000  # weights: what less takes is the call, not the product

Place = tuple[torch.nn.Module, str]
"""A module that holds a layer, and the layer's name there."""


class Prepacked(torch.nn.Module):
    """Takes the place of a Linear, [..., inputs] to [..., outputs], and of its memory."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        """Lay out its weight; raises RuntimeError where oneDNN cannot."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._laid = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)  # noqa: SLF001 - has no other name

    @property
    def weight(self) -> torch.Tensor:
        """The weight as it was, [outputs, inputs], for models that read it: a copy."""
        plain: torch.Tensor = self._laid.to_dense()
        return plain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply, and add the bias."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self._laid, self.bias, "none", [], "")  # noqa: SLF001
        return out


def prepack(model: torch.nn.Module, *, but: torch.nn.Module | None = None, least_gain: float = 0.0) -> int:
    """
    Put prepacked layers in the place of a CPU model's own, and return how many.

    Left as they are: `but`, layers of another kind, weights that two layers share, and all where oneDNN cannot, or
    does not multiply a large batch by the largest of them `least_gain` times as fast as torch.
    """
    places = list(_places(model, but))
    if not places or not all(_is_possible(dtype) for dtype in {getattr(*place).weight.dtype for place in places}):
        return 0
    if least_gain and gain(*_largest(places)) < least_gain:
        return 0
    for parent, name in places:  # one after the other: each frees what it replaces
        setattr(parent, name, Prepacked(getattr(parent, name)))
    return len(places)


@cache
def gain(inputs: int, outputs: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """
    Measure how many times as fast a large batch is through a prepacked float32 layer of this size as through torch's.

    Once a process, so that devices and versions of a model agree. 1 for a layer that is too small to tell, and where
    the answers differ: there is a mode that rounds what it reads.
    """
    if inputs * outputs < _SMALLEST:
        return 1.0
    plain = torch.nn.Linear(inputs, outputs)
    prepacked = Prepacked(plain)
    with torch.inference_mode():
        x = torch.randn(_MANY_ROWS, inputs)
        if not torch.allclose(plain(x), prepacked(x), rtol=1e-3, atol=1e-4):
            return 1.0
        took = [(_seconds(plain, x, clock), _seconds(prepacked, x, clock)) for _ in range(_TRIES)]
    plain_s, prepacked_s = (min(tries[which] for tries in took) for which in range(2))
    return plain_s / prepacked_s


def _places(model: torch.nn.Module, but: torch.nn.Module | None) -> Iterator[Place]:
    """Find the layers that may be replaced."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is torch.nn.Linear and child is not but and _owners(model, child.weight) == 1:
                yield parent, name


def _largest(places: Sequence[Place]) -> tuple[int, int]:
    """Numbers that the largest layer takes and gives."""
    sizes = [(getattr(*place).in_features, getattr(*place).out_features) for place in places]
    return max(sizes, key=lambda size: size[0] * size[1])


def _seconds(layer: torch.nn.Module, x: torch.Tensor, clock: Callable[[], float]) -> float:
    started = clock()
    layer(x)
    return clock() - started


def _owners(model: torch.nn.Module, weight: torch.Tensor) -> int:
    return sum(weight is own for module in model.modules() for own in module.parameters(recurse=False))


def _is_possible(dtype: torch.dtype) -> bool:
    """Try a small layer: builds, processors and dtypes differ in what oneDNN does for them."""
    is_there = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled  # type: ignore[no-untyped-call]
    if not is_there or dtype not in (torch.float32, torch.bfloat16):
        return False
    with torch.inference_mode():
        linear = torch.nn.Linear(8, 8, dtype=dtype)
        try:
            Prepacked(linear)(torch.ones(1, 8, dtype=dtype))
        except RuntimeError:
            return False
    return True
