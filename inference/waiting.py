"""
The entries that wait for one model, in the order in which they should run.

Classes of priority go first, and they age: an entry that arrived `AGING_S` before the oldest of the next
higher class goes ahead of it. Inside a class callers take turns by virtual token counters (VTC: Sheng et
al., "Fairness in serving large language models", 2024): whoever was served least is next. Inside a caller
it is earliest deadline first, where the later inputs of a large call count as later, so that calls interleave.
"""

import heapq
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Final

from inference.request import Entry, Shape

AGING_S: Final = 2.0
_REMEMBERED: Final = 4096  # callers kept in mind after their last entry has gone: who was served much must not gain
_GRAIN_S: Final = 0.05  # a caller's work is summed up by rank in steps of this


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an entry stands: its rank inside its caller (a moment, seconds), and its number of arrival."""

    rank: float
    number: int


class _Heap:
    """Entries by a key. Those that have left stay until they surface, or are too many."""

    def __init__(self, alive: Container[Entry]) -> None:
        self._alive = alive
        self._items: list[tuple[float, int, Entry]] = []

    def push(self, key: float, number: int, entry: Entry) -> None:
        heapq.heappush(self._items, (key, number, entry))

    def first(self) -> Entry:
        while self._items[0][2] not in self._alive:
            heapq.heappop(self._items)
        return self._items[0][2]

    def compact(self, alive: int) -> None:
        if len(self._items) > 2 * alive + 64:  # most of them have left
            self._items = [item for item in self._items if item[2] in self._alive]
            heapq.heapify(self._items)


@dataclass(slots=True, eq=False)
class _Caller:
    """What one caller has waiting in one class, and how much it was served."""

    ranked: _Heap
    served: float = 0.0  # tokens; lifted to the others' when it comes back
    entries: int = 0
    tokens: int = 0
    by_rank: dict[int, int] = field(default_factory=dict)  # rank in grains -> tokens

    def count(self, entry: Entry, rank: float, sign: int) -> None:
        grain = int(rank / _GRAIN_S)
        left = self.by_rank.get(grain, 0) + sign * entry.tokens
        if left:
            self.by_rank[grain] = left
        else:
            del self.by_rank[grain]
        self.entries += sign
        self.tokens += sign * entry.tokens
        self.ranked.compact(self.entries)

    def tokens_until(self, rank: float) -> int:
        """What goes ahead of a new entry of this rank."""
        last = int(rank / _GRAIN_S)
        return sum(tokens for grain, tokens in self.by_rank.items() if grain <= last)


class _Class:
    """One class of priority."""

    def __init__(self, alive: Container[Entry]) -> None:
        self._alive = alive
        self._callers: dict[str, _Caller] = {}
        self._turns: list[tuple[float, str]] = []  # a heap of (served, caller); outdated ones are dropped when met
        self._served = 0.0  # of the caller whose turn was last: newcomers begin there
        self._by_age = _Heap(alive)
        self.entries = 0
        self.tokens = 0

    def add(self, entry: Entry, place: _Place) -> None:
        name = entry.call.caller
        caller = self._callers.get(name) or self._meet(name)
        if caller.entries == 0:
            caller.served = max(caller.served, self._served)
            heapq.heappush(self._turns, (caller.served, name))
        caller.ranked.push(place.rank, place.number, entry)
        self._by_age.push(entry.arrived, place.number, entry)
        self._count(entry, place, 1)

    def remove(self, entry: Entry, place: _Place) -> None:
        self._count(entry, place, -1)
        self._by_age.compact(self.entries)

    def charge(self, entry: Entry, sign: int) -> float:
        """Count an entry as served, or (-1) not served after all; returns what its caller was served before."""
        caller = self._callers[entry.call.caller]
        before = caller.served
        caller.served += sign * entry.tokens
        heapq.heappush(self._turns, (caller.served, entry.call.caller))
        return before

    def had_turn(self, served: float) -> None:
        """Let newcomers begin where the caller stood whose turn it was."""
        self._served = max(self._served, served)

    def oldest(self) -> Entry:
        return self._by_age.first()

    def next(self) -> Entry:
        """The most urgent entry of the caller that was served least."""
        while True:
            served, name = self._turns[0]
            caller = self._callers.get(name)
            if caller is not None and caller.entries and caller.served == served:
                return caller.ranked.first()
            heapq.heappop(self._turns)

    def tokens_ahead(self, name: str, rank: float, tokens: int) -> int:
        """How many tokens are served before the last of so many new ones of this caller."""
        caller = self._callers.get(name)
        own = caller.tokens_until(rank) if caller else 0
        finish = max(caller.served if caller else 0.0, self._served) + own + tokens
        others = (other for other_name, other in self._callers.items() if other_name != name and other.entries)
        return own + sum(min(other.tokens, max(0, round(finish - other.served))) for other in others)

    def tokens_of(self, name: str) -> int:
        return self._callers[name].tokens if name in self._callers else 0

    def active(self) -> int:
        """How many callers have something waiting."""
        return sum(1 for caller in self._callers.values() if caller.entries)

    def _meet(self, name: str) -> _Caller:
        if len(self._callers) > _REMEMBERED:
            self._callers = {known: caller for known, caller in self._callers.items() if caller.entries}
        caller = self._callers[name] = _Caller(_Heap(self._alive))
        return caller

    def _count(self, entry: Entry, place: _Place, sign: int) -> None:
        self._callers[entry.call.caller].count(entry, place.rank, sign)
        self.tokens += sign * entry.tokens
        self.entries += sign


class Waiting:
    """What waits for one model."""

    def __init__(self) -> None:
        """Begin empty."""
        self.load = Shape()  # of all that waits, without padding
        self._places: dict[Entry, _Place] = {}
        self._classes: dict[int, _Class] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._places

    @property
    def oldest(self) -> float | None:
        """When the oldest entry arrived."""
        return min((members.oldest().arrived for members in self._busy().values()), default=None)

    def add(self, entries: Sequence[Entry], token_s: float) -> None:
        """Append the entries of one call; its later ones count as later, by `token_s` seconds a token."""
        before = 0
        for entry in entries:
            self._number += 1
            self._insert(entry, _Place(entry.deadline + before * token_s, self._number))
            before += entry.tokens

    def remove(self, entry: Entry) -> None:
        """Take one out of its turn."""
        self._classes[entry.call.priority].remove(entry, self._places.pop(entry))
        self.load -= entry.shape

    def serve(self, entry: Entry) -> None:
        """Take one out because it runs: its caller has had a turn."""
        self.remove(entry)
        members = self._classes[entry.call.priority]
        members.had_turn(members.charge(entry, 1))

    def take(self, patience: int, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Serve the wanted ones among the next entries, in order; stop after so many that are not."""
        taken: list[Entry] = []
        passed: list[tuple[Entry, _Place]] = []
        while len(passed) < patience and self._places:
            entry = self._next()
            place, members = self._places[entry], self._classes[entry.call.priority]
            self.remove(entry)
            before = members.charge(entry, 1)
            if wanted(entry):
                taken.append(entry)
                members.had_turn(before)
            else:
                passed.append((entry, place))
        for entry, place in passed:
            self._stay(entry, place)
        return taken

    def tokens_ahead(self, priority: int, caller: str, rank: float, tokens: int) -> int:
        """How many waiting tokens run before the last of so many new ones of this caller."""
        higher = sum(members.tokens for other, members in self._classes.items() if other > priority)
        members = self._classes.get(priority)
        return higher + (members.tokens_ahead(caller, rank, tokens) if members else 0)

    def tokens_of(self, caller: str) -> int:
        """What one caller has waiting."""
        return sum(members.tokens_of(caller) for members in self._classes.values())

    def callers(self) -> int:
        """How many callers have something waiting (in the class where most do)."""
        return max((members.active() for members in self._classes.values()), default=0)

    def _insert(self, entry: Entry, place: _Place) -> None:
        priority = entry.call.priority
        if priority not in self._classes:
            self._classes[priority] = _Class(self._places)
        self._places[entry] = place
        self._classes[priority].add(entry, place)
        self.load += entry.shape

    def _stay(self, entry: Entry, place: _Place) -> None:
        self._classes[entry.call.priority].charge(entry, -1)
        self._insert(entry, place)

    def _busy(self) -> dict[int, _Class]:
        return {priority: members for priority, members in self._classes.items() if members.entries}

    def _next(self) -> Entry:
        """The next of the highest class, unless the oldest of a lower one has aged past that class."""
        busy = self._busy()
        chosen = min(busy, key=lambda priority: (busy[priority].oldest().arrived - priority * AGING_S, -priority))
        return busy[chosen].next() if chosen == max(busy) else busy[chosen].oldest()
