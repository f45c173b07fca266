"""The ranks of a torch.distributed process group, which exchange messages through the group's store.

The store and not a collective: it needs no device, it does not mix with the collectives of the training, and a rank
that does not come is an error after some seconds instead of a hang.
"""

import datetime as dt
import itertools
from typing import Any

import torch.distributed as dist

from remotelr.errors import RanksDisagree

# Rank 0 waits so long for the others: the training step before has synchronised them, but each may validate its own
# part of the data, and an uneven part must not end a training.
ARRIVAL_TIMEOUT_S = 300.0
# The others wait so long for rank 0, which may validate alone.
LEADER_TIMEOUT_S = 1800.0

_instances = itertools.count()


class TorchRanks:
    """All ranks of the default process group. All of them construct their objects in the same order.

    arrival_timeout_s: seconds that rank 0 waits for the other ranks. leader_timeout_s: seconds that they wait for it.

    Raises RuntimeError without an initialised process group.
    """

    def __init__(
        self, arrival_timeout_s: float = ARRIVAL_TIMEOUT_S, leader_timeout_s: float = LEADER_TIMEOUT_S
    ) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError("there is no process group: call torch.distributed.init_process_group first")
        self.rank = dist.get_rank()
        self.count = dist.get_world_size()
        self._arrival_timeout_s = arrival_timeout_s
        self._leader_timeout_s = leader_timeout_s
        # torch has no public name for the group's own store.
        store = dist.distributed_c10d._get_default_store()  # noqa: SLF001
        self._store = dist.PrefixStore(f"remotelr/{next(_instances)}", store)
        self._gathered = 0
        self._shared = 0
        self._unread: list[int] = []

    def gather(self, value: str) -> list[str]:
        """As `Ranks.gather`."""
        number, self._gathered = self._gathered, self._gathered + 1
        if self.rank != 0:
            self._store.set(f"gather/{number}/{self.rank}", value)
            return []
        keys = [f"gather/{number}/{rank}" for rank in range(1, self.count)]
        for rank, key in enumerate(keys, start=1):
            self._wait(key, self._arrival_timeout_s, f"rank {rank}")
        values = [value, *(self._store.get(key).decode() for key in keys)]
        for key in keys:
            self._store.delete_key(key)
        return values

    def share(self, value: str) -> str:
        """As `Ranks.share`."""
        number, self._shared = self._shared, self._shared + 1
        if self.rank == 0:
            self._store.set(f"share/{number}", value)
            self._forget()
            self._unread.append(number)
            return value
        self._wait(f"share/{number}", self._leader_timeout_s, "rank 0")
        shared: str = self._store.get(f"share/{number}").decode()
        self._store.add(f"readers/{number}", 1)
        return shared

    def _forget(self) -> None:
        """Delete the shared values that all ranks have read. Rank 0 may be far ahead of the others."""
        while self._unread and self._store.add(f"readers/{self._unread[0]}", 0) == self.count - 1:
            number = self._unread.pop(0)
            self._store.delete_key(f"share/{number}")
            self._store.delete_key(f"readers/{number}")

    def _wait(self, key: str, timeout_s: float, rank: str) -> None:
        try:
            self._store.wait([key], dt.timedelta(seconds=timeout_s))
        except RuntimeError as error:
            # Older releases of torch have one class for both.
            if isinstance(error, getattr(dist, "DistNetworkError", ())):
                raise RanksDisagree(
                    f"the process group has lost its store while {rank} was awaited: {error}"
                ) from error
            raise RanksDisagree(
                f"{rank} did not come to RemoteLR within {timeout_s:g} s: create the scheduler and call step() on "
                f"every rank; ranks that have not validated call step(None)"
            ) from error


def current_ranks() -> Any:
    """The ranks of the default process group; None for a single process."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return TorchRanks()
    return None
