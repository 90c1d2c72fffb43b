"""
The text mix of every benchmark: real English that each Python carries, cut to passages of many lengths.

Word counts are log-normal, as questions and paragraphs to embed are: median 20, mean 30, p90 64, most 250.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from functools import cache
from pydoc_data.topics import topics
from typing import Final

MEDIAN_WORDS: Final = 20
MEAN_WORDS: Final = 30
MOST_WORDS: Final = 250


def passages(count: int, seed: int = 0) -> list[str]:
    """Make so many passages; the same seed gives the same ones on the same Python."""
    return list(itertools.islice(endless(random.Random(seed)), count))


def endless(chance: random.Random, most_words: int = MOST_WORDS) -> Iterator[str]:
    """Make passages without end."""
    words, starts = _words(), _sentence_starts()
    while True:
        yield _passage(words, chance.choice(starts), min(most_words, _length(chance)))


def _passage(words: Sequence[str], start: int, length: int) -> str:
    return " ".join(words[start : start + length])


def _length(chance: random.Random) -> int:
    sigma = math.sqrt(2 * math.log(MEAN_WORDS / MEDIAN_WORDS))
    return min(MOST_WORDS, max(1, round(chance.lognormvariate(math.log(MEDIAN_WORDS), sigma))))


@cache
def _words() -> list[str]:
    """All words of the language reference, without rules, table borders and bare punctuation."""
    text = " ".join(topics[name] for name in sorted(topics))
    return [word for word in text.split() if any(letter.isalnum() for letter in word)]


@cache
def _sentence_starts() -> list[int]:
    words = _words()
    return [i + 1 for i, word in enumerate(words[:-MOST_WORDS]) if word.endswith((".", ":"))]
