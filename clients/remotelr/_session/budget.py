"""The time budget of all calls between two epochs."""

import time
from collections.abc import Callable
from typing import Self

# The budget while the service counts as away.
_SHORT_S = 1.0


class Budget:
    """Seconds that pass only inside `with budget:`, so the trainer's own work costs nothing.
    seconds: of each boundary between epochs, > 0. clock: monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._left_s = seconds
        self._withheld_s = 0.0
        self._used_since_s: float | None = None

    def renew(self, *, short: bool = False) -> None:
        """Grant the whole budget. short: at most one second of it until `extend`."""
        self._left_s = min(self.seconds, _SHORT_S) if short else self.seconds
        self._withheld_s = self.seconds - self._left_s

    def extend(self) -> None:
        """Grant what `short` withheld: the service answers."""
        self._left_s, self._withheld_s = self._left_s + self._withheld_s, 0.0

    def left_s(self) -> float:
        """The seconds that are left now, >= 0."""
        used_s = 0.0 if self._used_since_s is None else self._clock() - self._used_since_s
        return max(self._left_s - used_s, 0.0)

    def __enter__(self) -> Self:
        self._used_since_s = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        self._left_s, self._used_since_s = self.left_s(), None
