"""The ranks of one training, as an adapter for a framework offers them."""

from typing import Protocol


class Ranks(Protocol):
    """The processes of one training. All of them call the same methods in the same order.

    rank: of this process, 0-based. count: of the processes.
    """

    rank: int
    count: int

    def gather(self, value: str) -> list[str]:
        """On rank 0 the values of all ranks, by rank; elsewhere an empty list.

        Raises RanksDisagree on rank 0 if a rank does not come in time.
        """

    def share(self, value: str) -> str:
        """The value of rank 0. Raises RanksDisagree elsewhere if rank 0 does not come in time."""


class SingleRank:
    """A training of one process."""

    rank = 0
    count = 1

    def gather(self, value: str) -> list[str]:
        return [value]

    def share(self, value: str) -> str:
        return value
