"""Search the highest rate that a server meets, when a single measurement cannot be trusted."""

from collections.abc import Callable
from typing import Final

STEP: Final = 1.12  # between the rates that are tried
_LEAST: Final = 0.5  # below this nothing is met

Met = Callable[[float], bool]
"""Offer a rate once: was it met?"""


def highest_rate(is_met: Met, first: float) -> float:
    """
    Raise the rate by steps, from the first one on, until two in a row are missed; returns the highest that was met.

    A rate is missed when two of three tries miss it. Where the first rates are missed, the search begins lower; 0.0
    when there is no rate that is met.
    """
    best, rate, missed = 0.0, first, 0
    while missed < 2:
        if _two_of_three(is_met, rate):
            best, missed = rate, 0
        else:
            missed += 1
        rate *= STEP
    if best == 0.0 and first / 2 >= _LEAST:
        return highest_rate(is_met, first / 2)
    return best


def about(is_met: Met, first: float) -> float:
    """Double the rate until one is missed; returns half of the last that was met, where a search may begin."""
    rate = first
    while is_met(rate):
        rate *= 2
    return max(first, rate / 4)


def _two_of_three(is_met: Met, rate: float) -> bool:
    once, again = is_met(rate), is_met(rate)
    return once if once == again else is_met(rate)
