"""
The entries that wait for one model, in the order in which they should run.

Classes of priority go first, and they age: an entry that arrived `AGING_S` before the oldest of the next
higher class goes ahead of it. Inside a class callers take turns by virtual token counters (VTC: Sheng et
al., "Fairness in serving large language models", 2024): whoever was served least is next. Inside a caller
it is earliest deadline first, where the later inputs of a large call count as later, so that calls interleave.
"""

import heapq
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from inference.request import Entry, Shape

AGING_S: Final = 2.0
_REMEMBERED: Final = 4096  # callers kept in mind after their last entry has gone: who was served much must not gain
_GRAIN_S: Final = 0.05  # a caller's work is summed up by rank in steps of this

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where an entry stands: its rank inside its caller (a moment, seconds), and its number of arrival."""

    entry: Entry
    rank: float
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """Where a caller stands: what it was served, in tokens, and since when, as a number."""

    caller: "_Caller"
    served: float
    number: int


class _Heap(Generic[T]):
    """Things by a key. Those that have left stay until they surface, or are too many."""

    def __init__(self, alive: Container[T]) -> None:
        self._alive = alive
        self._items: list[tuple[float, int, T]] = []

    def push(self, key: float, number: int, thing: T) -> None:
        heapq.heappush(self._items, (key, number, thing))

    def first(self) -> T:
        while self._items[0][2] not in self._alive:
            heapq.heappop(self._items)
        return self._items[0][2]

    def __iter__(self) -> Iterator[T]:
        """Those that are alive, in order; none of them is removed."""
        while self._items and self._items[0][2] not in self._alive:
            heapq.heappop(self._items)
        frontier = [(self._items[0], 0)] if self._items else []
        while frontier:
            (_, _, thing), index = heapq.heappop(frontier)
            if thing in self._alive:
                yield thing
            for child in range(2 * index + 1, min(2 * index + 3, len(self._items))):
                heapq.heappush(frontier, (self._items[child], child))

    def compact(self, alive: int) -> None:
        if len(self._items) > 2 * alive + 64:  # most of them have left
            self._items = [item for item in self._items if item[2] in self._alive]
            heapq.heapify(self._items)


@dataclass(slots=True, eq=False)
class _Caller:
    """What one caller has waiting in one class, and how much it was served."""

    ranked: _Heap[_Place]
    served: float = 0.0  # tokens; lifted to the others' when it comes back
    turn: _Turn | None = None  # while something of it waits
    entries: int = 0
    tokens: int = 0
    by_rank: dict[int, int] = field(default_factory=dict)  # rank in grains -> tokens

    def count(self, place: _Place, sign: int) -> None:
        grain = int(place.rank / _GRAIN_S)
        left = self.by_rank.get(grain, 0) + sign * place.entry.tokens
        if left:
            self.by_rank[grain] = left
        else:
            del self.by_rank[grain]
        self.entries += sign
        self.tokens += sign * place.entry.tokens
        self.ranked.compact(self.entries)

    def tokens_until(self, rank: float) -> int:
        """What goes ahead of a new entry of this rank."""
        last = int(rank / _GRAIN_S)
        return sum(tokens for grain, tokens in self.by_rank.items() if grain <= last)


class _Class:
    """One class of priority."""

    def __init__(self, alive: Container[_Place]) -> None:
        self._alive = alive
        self._callers: dict[str, _Caller] = {}
        self._served = 0.0  # of the caller whose turn was last: newcomers begin there
        self._by_age = _Heap(alive)
        self._turns: set[_Turn] = set()  # of the callers with something waiting
        self._by_served = _Heap(self._turns)
        self._number = 0
        self.entries = 0
        self.tokens = 0

    @property
    def active(self) -> int:
        """Callers with something waiting."""
        return len(self._turns)

    def add(self, place: _Place) -> None:
        name = place.entry.call.caller
        caller = self._callers.get(name) or self._meet(name)
        if caller.entries == 0:
            caller.served = max(caller.served, self._served)
        caller.ranked.push(place.rank, place.number, place)
        self._by_age.push(place.entry.arrived, place.number, place)
        self._count(place, 1)

    def remove(self, place: _Place) -> None:
        self._count(place, -1)
        self._by_age.compact(self.entries)

    def charge(self, entry: Entry) -> None:
        """Count an entry as served: its caller has had a turn."""
        caller = self._callers[entry.call.caller]
        self._served = max(self._served, caller.served)
        caller.served += entry.tokens
        self._stand(caller)

    def oldest(self) -> Entry:
        return self._by_age.first().entry

    def by_age(self) -> Iterator[Entry]:
        return (place.entry for place in self._by_age)

    def by_turns(self) -> Iterator[Entry]:
        """The most urgent of whoever was served least, and so on, as if each that is given were served."""
        others = iter(self._by_served)  # whoever has not had a turn yet: looked at one by one, not all at once
        other = next(others, None)
        turns: list[tuple[float, int, Iterator[_Place]]] = []
        while other is not None or turns:
            if other is not None:  # the least served of those that are left: nobody comes too late
                heapq.heappush(turns, (other.served, other.number, iter(other.caller.ranked)))
                other = next(others, None)
            served, number, ranked = turns[0]
            place = next(ranked, None)
            if place is None:
                heapq.heappop(turns)
                continue
            yield place.entry
            heapq.heapreplace(turns, (served + place.entry.tokens, number, ranked))

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
        if len(self._callers) > _REMEMBERED + 2 * self.active:  # so seldom that it costs each newcomer little
            self._callers = {known: caller for known, caller in self._callers.items() if caller.entries}
        caller = self._callers[name] = _Caller(_Heap(self._alive))
        return caller

    def _count(self, place: _Place, sign: int) -> None:
        caller = self._callers[place.entry.call.caller]
        caller.count(place, sign)
        if (caller.entries > 0) != (caller.turn is not None):
            self._stand(caller)
        self.tokens += sign * place.entry.tokens
        self.entries += sign

    def _stand(self, caller: _Caller) -> None:
        """Put a caller where its turn is now."""
        if caller.turn is not None:
            self._turns.discard(caller.turn)
            caller.turn = None
        if caller.entries:
            self._number += 1
            caller.turn = _Turn(caller, caller.served, self._number)
            self._turns.add(caller.turn)
            self._by_served.push(caller.served, self._number, caller.turn)
        self._by_served.compact(self.active)


class Waiting:
    """What waits for one model."""

    def __init__(self) -> None:
        """Begin empty."""
        self.load = Shape()  # of all that waits, without padding
        self._places: dict[Entry, _Place] = {}
        self._alive: set[_Place] = set()
        self._classes: dict[int, _Class] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._places

    @property
    def oldest(self) -> float | None:
        """When the oldest entry arrived."""
        return min(self.oldest_by_class().values(), default=None)

    def oldest_by_class(self) -> dict[int, float]:
        """When the oldest entry of each class arrived, for those that have any."""
        return {priority: members.oldest().arrived for priority, members in self._classes.items() if members.entries}

    def add(self, entries: Sequence[Entry], token_s: float) -> None:
        """Append the entries of one call; its later ones count as later, by `token_s` seconds a token."""
        before = 0
        for entry in entries:
            self._insert(entry, entry.deadline + before * token_s)
            self.load += entry.shape
            before += entry.tokens

    def hasten(self, entry: Entry, rank: float) -> None:
        """Move an entry up to this rank inside its caller, if it stands behind it."""
        place = self._places[entry]
        if rank < place.rank:
            self._insert(entry, rank)  # before the old place goes: the caller keeps its turn
            self._leave(place)

    def remove(self, entry: Entry) -> None:
        """Take one out of its turn."""
        self._leave(self._places.pop(entry))
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

    def below(self, priority: int) -> Iterator[Entry]:
        """What waits in lower classes, the highest of them first; nothing may change meanwhile."""
        for lower in sorted((other for other in self._classes if other < priority), reverse=True):
            yield from self._classes[lower].by_turns()

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

    def _insert(self, entry: Entry, rank: float) -> None:
        priority = entry.call.priority
        if priority not in self._classes:
            self._classes[priority] = _Class(self._alive)
        self._number += 1
        place = self._places[entry] = _Place(entry, rank, self._number)
        self._alive.add(place)
        self._classes[priority].add(place)

    def _leave(self, place: _Place) -> None:
        self._alive.discard(place)
        self._classes[place.entry.call.priority].remove(place)


def most_urgent_class(oldest: Mapping[int, float]) -> int:
    """Which class is next, told by when the oldest of each arrived: a rank counts as AGING_S of waiting."""
    return min(oldest, key=lambda priority: (oldest[priority] - priority * AGING_S, -priority))


def _aged(classes: dict[int, _Class]) -> Iterator[Entry]:
    """Each class by turns; which class is next is told by the age of its oldest, a rank counting as AGING_S."""
    given: set[Entry] = set()
    by_age = {priority: _Unseen(members.by_age(), given) for priority, members in classes.items()}
    by_turns = {priority: _Unseen(members.by_turns(), given) for priority, members in classes.items()}
    while heads := {priority: entry for priority, ages in by_age.items() if (entry := ages.first()) is not None}:
        chosen = most_urgent_class({priority: entry.arrived for priority, entry in heads.items()})
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
