"""What the calls at one boundary between epochs may take, all together."""

import time
from collections.abc import Callable
from typing import Self

# A try at a service that counts as away.
_SHORT_S = 1.0


class Budget:
    """Seconds that run while they are used: `with budget:` around what is to be counted.

    What others do between our calls is not taken from it. clock: seconds that only grow.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._left_s = seconds
        self._withheld_s = 0.0
        self._used_since_s: float | None = None

    def renew(self, *, short: bool = False) -> None:
        """All of it again. short: no more than a second of it, until somebody answers."""
        self._left_s = min(self.seconds, _SHORT_S) if short else self.seconds
        self._withheld_s = self.seconds - self._left_s

    def extend(self) -> None:
        """Somebody answers: what `short` withheld may be used."""
        self._left_s, self._withheld_s = self._left_s + self._withheld_s, 0.0

    def left_s(self) -> float:
        """What is left at this moment, >= 0."""
        used_s = 0.0 if self._used_since_s is None else self._clock() - self._used_since_s
        return max(self._left_s - used_s, 0.0)

    def __enter__(self) -> Self:
        self._used_since_s = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        self._left_s, self._used_since_s = self.left_s(), None
