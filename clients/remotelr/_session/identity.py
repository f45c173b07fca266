"""The identity of a trainer process in its run, and the key of its attempt."""

import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

# The variables of a job's id and of its restart count.
_RESTARTS = (("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"), ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """One process of a run.
    rank: 0-based, < world_size.
    attempt_key: equal in all ranks and new after every restart; by default the scheduler's restart id, if all ranks
        have the same.
    number: the attempts of this process so far, this one included.
    """

    rank: int = 0
    world_size: int = 1
    attempt_key: str | None = None
    number: int = 1

    def name(self) -> str:
        """The key of this process's attempt."""
        known = self.attempt_key or (shared_restart_id(os.environ) if self.world_size > 1 else None)
        if known is not None:
            return known if self.number == 1 else f"{known}.{self.number}"
        # Random for a single process: a job's script may start its trainer twice without a restart of the job.
        return f"{restart_id(os.environ) or 'attempt'}-{uuid.uuid4().hex[:12]}"

    def check(self) -> None:
        """Raises ValueError if the ranks have no common attempt key."""
        if self.world_size > 1 and self.attempt_key is None and shared_restart_id(os.environ) is None:
            raise ValueError(
                f"attempt_key is missing: give the same attempt_key to all {self.world_size} ranks of the run, and a "
                f"new one after every restart"
            )


def restart_id(environ: Mapping[str, str]) -> str | None:
    """`<job>.<restart>` of torchelastic or Slurm, else None.
    Kubernetes has no such id: a pod's name and uid stay when its container restarts, and differ between the ranks of
    an indexed job.
    """
    for job, restarts in _RESTARTS:
        # torchrun sets "none" if no id was chosen.
        if environ.get(job, "none") != "none":
            return _as_key(f"{environ[job]}.{environ.get(restarts) or '0'}")
    return None


def shared_restart_id(environ: Mapping[str, str]) -> str | None:
    """The `restart_id` that all ranks have; None if they may have different ones.

    torchelastic counts restarts on each node by itself, and a node that joins is no restart (pytorch/pytorch#108158).
    On one node it is new after every restart of a worker; a new start of torchrun needs a new --rdzv-id.
    """
    several_nodes = int(environ.get("GROUP_WORLD_SIZE") or 1) > 1
    return None if several_nodes and environ.get("TORCHELASTIC_RUN_ID", "none") != "none" else restart_id(environ)


def _as_key(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._:-]", "-", name).lstrip("._:-")[:150]
