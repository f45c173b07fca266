"""The connections of one process by address, and which of them gives way when they are too many.

A connection without a request gives way first: its client connects again and loses nothing. It is one of the address
with the most connections, so that no address keeps the others out.
"""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

C = TypeVar("C")

# Seconds without a request before a connection gives way to a newer one of its own address: its request may be coming.
MIN_REST_S = 1.0


class ConnectionTable(Generic[C]):
    """The open connections. Not thread-safe.

    limit: the maximum of all connections. The last tenth is not for an address with more than half of the limit.
    clock: gives seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._addresses: dict[C, str] = {}
        self._counts: dict[str, int] = {}
        # Connections without a request by address, and since when: the oldest first.
        self._idle: dict[str, dict[C, float]] = {}

    def add(self, connection: C, address: str) -> tuple[bool, C | None]:
        """Add a connection without a request. Returns: whether it has room, and the connection to close for it."""
        count = self._counts.get(address, 0) + 1
        is_full = len(self._addresses) >= self.limit
        is_in_reserve = len(self._addresses) >= self.limit - self.limit // 10 and count > self.limit // 2
        closed = None
        if is_full or is_in_reserve:
            closed = self._find_idle(address, count, any_address=is_full)
            if closed is None:
                return False, None
            self.remove(closed)
        self._addresses[connection] = address
        self._counts[address] = self._counts.get(address, 0) + 1
        self.rest(connection)
        return True, closed

    def begin(self, connection: C) -> None:
        """The connection has a request now."""
        address = self._addresses.get(connection)
        if address is not None:
            self._forget_idle(connection, address)

    def rest(self, connection: C) -> None:
        """The connection has no request any more."""
        address = self._addresses.get(connection)
        if address is not None:
            self._idle.setdefault(address, {})[connection] = self._clock()

    def remove(self, connection: C) -> None:
        """The connection is closed. One that is not in the table is ignored."""
        address = self._addresses.pop(connection, None)
        if address is None:
            return
        self._forget_idle(connection, address)
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]

    def _find_idle(self, address: str, count: int, *, any_address: bool) -> C | None:
        """The oldest connection without a request of the address with the most connections, at least `count`."""
        addresses = self._idle if any_address else [address] if address in self._idle else []
        largest = max(addresses, key=lambda each: self._counts[each], default=None)
        if largest is None or (largest != address and self._counts[largest] < count):
            return None
        oldest, since = next(iter(self._idle[largest].items()))
        return None if largest == address and self._clock() - since < MIN_REST_S else oldest

    def _forget_idle(self, connection: C, address: str) -> None:
        idle = self._idle.get(address)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[address]
