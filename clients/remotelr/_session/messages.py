"""Whoever watches a training: what is told them, and that it is told once."""

import warnings
from collections.abc import Callable

from remotelr.errors import RemoteLRWarning


class People:
    """say: how they are told of what is no warning."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: set[str] = set()

    def say(self, message: str) -> None:
        self._say(f"RemoteLR: {message}")

    def warn(self, message: str) -> None:
        warnings.warn(f"RemoteLR: {message}", RemoteLRWarning, stacklevel=2)

    def warn_once(self, cause: str, message: str) -> None:
        """Of a cause they have not been warned of."""
        if cause not in self._told:
            self._told.add(cause)
            self.warn(message)
