"""
The entries that wait for one model, in the order in which they should run.

Classes of priority go first, and they age: an entry that arrived `AGING_S` before the oldest of the next
higher class goes ahead of it. Inside a class callers take turns by virtual token counters (VTC: Sheng et
al., "Fairness in serving large language models", 2024): whoever was served least is next. Inside a caller
it is earliest deadline first, where the later inputs of a large call count as later, so that calls interleave.
"""

import heapq
from collections.abc import Container, Iterator, Sequence
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

    def __iter__(self) -> Iterator[Entry]:
        """Those that are alive, in order; none of them is removed."""
        while self._items and self._items[0][2] not in self._alive:
            heapq.heappop(self._items)
        frontier = [(self._items[0], 0)] if self._items else []
        while frontier:
            (_, _, entry), index = heapq.heappop(frontier)
            if entry in self._alive:
                yield entry
            for child in range(2 * index + 1, min(2 * index + 3, len(self._items))):
                heapq.heappush(frontier, (self._items[child], child))

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
        self._served = 0.0  # of the caller whose turn was last: newcomers begin there
        self._by_age = _Heap(alive)
        self.active = 0  # callers with something waiting
        self.entries = 0
        self.tokens = 0

    def add(self, entry: Entry, place: _Place) -> None:
        name = entry.call.caller
        caller = self._callers.get(name) or self._meet(name)
        if caller.entries == 0:
            caller.served = max(caller.served, self._served)
        caller.ranked.push(place.rank, place.number, entry)
        self._by_age.push(entry.arrived, place.number, entry)
        self._count(entry, place, 1)

    def remove(self, entry: Entry, place: _Place) -> None:
        self._count(entry, place, -1)
        self._by_age.compact(self.entries)

    def charge(self, entry: Entry) -> None:
        """Count an entry as served: its caller has had a turn."""
        caller = self._callers[entry.call.caller]
        self._served = max(self._served, caller.served)
        caller.served += entry.tokens

    def oldest(self) -> Entry:
        return self._by_age.first()

    def by_age(self) -> Iterator[Entry]:
        return iter(self._by_age)

    def by_turns(self) -> Iterator[Entry]:
        """The most urgent of whoever was served least, and so on, as if each that is given were served."""
        turns = [(caller.served, name, iter(caller.ranked)) for name, caller in self._callers.items() if caller.entries]
        heapq.heapify(turns)
        while turns:
            served, name, ranked = turns[0]
            entry = next(ranked, None)
            if entry is None:
                heapq.heappop(turns)
                continue
            yield entry
            heapq.heapreplace(turns, (served + entry.tokens, name, ranked))

    def tokens_ahead(self, name: str, rank: float, tokens: int) -> int:
        """How many tokens run before the last of so many new ones of this caller: others get at most as many each."""
        caller = self._callers.get(name)
        own = caller.tokens_until(rank) if caller else 0
        others = self.tokens - (caller.tokens if caller else 0)
        count = self.active - (1 if caller and caller.entries else 0)
        return own + min(others, count * (own + tokens))

    def tokens_of(self, name: str) -> int:
        return self._callers[name].tokens if name in self._callers else 0

    def _meet(self, name: str) -> _Caller:
        if len(self._callers) > _REMEMBERED:
            self._callers = {known: caller for known, caller in self._callers.items() if caller.entries}
        caller = self._callers[name] = _Caller(_Heap(self._alive))
        return caller

    def _count(self, entry: Entry, place: _Place, sign: int) -> None:
        caller = self._callers[entry.call.caller]
        was_active = caller.entries > 0
        caller.count(entry, place.rank, sign)
        self.active += (caller.entries > 0) - was_active
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
        busy = (members for members in self._classes.values() if members.entries)
        return min((members.oldest().arrived for members in busy), default=None)

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
        self._classes[entry.call.priority].charge(entry)

    def ordered(self) -> Iterator[Entry]:
        """What waits, in the order it would run if nobody else came; nothing may change meanwhile."""
        busy = {priority: members for priority, members in self._classes.items() if members.entries}
        if len(busy) == 1:
            yield from next(iter(busy.values())).by_turns()
        elif busy:
            yield from _aged(busy)

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
        return max((members.active for members in self._classes.values()), default=0)

    def _insert(self, entry: Entry, place: _Place) -> None:
        priority = entry.call.priority
        if priority not in self._classes:
            self._classes[priority] = _Class(self._places)
        self._places[entry] = place
        self._classes[priority].add(entry, place)
        self.load += entry.shape


def _aged(classes: dict[int, _Class]) -> Iterator[Entry]:
    """Each class by turns; which class is next is told by the age of its oldest, a rank counting as AGING_S."""
    given: set[Entry] = set()
    by_age = {priority: _Unseen(members.by_age(), given) for priority, members in classes.items()}
    by_turns = {priority: _Unseen(members.by_turns(), given) for priority, members in classes.items()}
    while heads := {priority: entry for priority, ages in by_age.items() if (entry := ages.first()) is not None}:
        chosen = min(heads, key=lambda priority: (heads[priority].arrived - priority * AGING_S, -priority))
        entry = by_turns[chosen].first() or heads[chosen]
        given.add(entry)
        yield entry


class _Unseen:
    """Entries in some order, without those given already by another order."""

    def __init__(self, entries: Iterator[Entry], given: set[Entry]) -> None:
        self._entries = entries
        self._given = given
        self._head: Entry | None = None

    def first(self) -> Entry | None:
        while self._head is None or self._head in self._given:
            self._head = next(self._entries, None)
            if self._head is None:
                return None
        return self._head
