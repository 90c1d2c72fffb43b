"""
Who is connected, and what they make this process hold: all connections together, where each alone is within its limits.

Knows no socket and no HTTP; a connection is whatever can be a key.
"""

from collections import Counter
from typing import Final, Generic, Literal, TypeVar

Connection = TypeVar("Connection")
Full = Literal["all", "address"]
"""Which of the two limits on connections is reached."""

MOST_HELD_BYTES: Final = 256 * 1024 * 1024  # of bodies that are not whole yet


class Census(Generic[Connection]):
    """Counts connections by address, and the bytes of bodies that are still arriving."""

    def __init__(self, most: int, most_each: int, most_held_bytes: int = MOST_HELD_BYTES) -> None:
        """Take how many connections may be open, in all and from one address, and what they may hold together."""
        self._most = most
        self._most_each = most_each
        self._most_held_bytes = most_held_bytes
        self._addresses = Counter[str]()
        self._open = 0
        self._held: dict[Connection, int] = {}
        self._held_from = Counter[str]()
        self._held_bytes = 0

    def enter(self, address: str) -> Full | None:
        """Count a connection, or say which limit it does not fit into."""
        if self._open >= self._most:
            return "all"
        if self._addresses[address] >= self._most_each:
            return "address"
        self._open += 1
        self._addresses[address] += 1
        return None

    def leave(self, address: str) -> None:
        """Forget a connection that had entered."""
        self._open -= 1
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    def hold(self, connection: Connection, address: str, size: int) -> Connection | None:
        """
        Note the bytes of a body so far; returns whose body has to go, if one has to.

        That is the largest when all together are too much, and the new one of an address that holds half of that
        already: whoever comes again and again with large bodies must not have those of others cut, nor be read at
        full speed.
        """
        before = self._held.get(connection, 0)
        if before == 0 and self._held_from[address] + size > self._most_held_bytes // 2:
            return connection
        self._held[connection] = size
        self._count(address, size - before)
        if self._held_bytes <= self._most_held_bytes:
            return None
        return max(self._held, key=self._held.__getitem__)

    def release(self, connection: Connection, address: str) -> None:
        """Forget a body that is whole, or will never be."""
        self._count(address, -self._held.pop(connection, 0))

    def _count(self, address: str, more: int) -> None:
        self._held_bytes += more
        self._held_from[address] += more
        if not self._held_from[address]:
            del self._held_from[address]
