"""Which process of a run this is, and what its attempt is called."""

import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

# Each pair names the job and counts its restarts. Both are the same in every rank, and change with a restart.
_RESTARTS = (("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"), ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))


def restart_id(environ: Mapping[str, str]) -> str | None:
    """`<job>.<restart>` as torchelastic or Slurm count them, else None.

    Kubernetes has nothing of the kind: a pod's name and uid stay when its container restarts, and
    differ between the ranks of an indexed job.
    """
    for job, restarts in _RESTARTS:
        # torchrun says "none" where nobody chose an id: no name of anything.
        if environ.get(job, "none") != "none":
            return _as_key(f"{environ[job]}.{environ.get(restarts) or '0'}")
    return None


def _as_key(name: str) -> str:
    """The name with what no key may hold left out."""
    return re.sub(r"[^A-Za-z0-9._:-]", "-", name).lstrip("._:-")[:150]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """Which process of the run this is, and which of its lives.

    attempt_key: names this life of the job in all its ranks; the scheduler's restart id, or random, when not given.
    number: 1 for the first attempt of this process, 2 for its second…
    """

    rank: int = 0
    world_size: int = 1
    attempt_key: str | None = None
    number: int = 1

    def name(self) -> str:
        """The key of its attempt."""
        known = self.attempt_key or restart_id(os.environ)
        if known is not None and (self.attempt_key or self.world_size > 1):
            return known if self.number == 1 else f"{known}.{self.number}"
        # Random for a lone process even under a scheduler: a script may start us twice in one of its lives.
        return f"{known or 'attempt'}-{uuid.uuid4().hex[:12]}"
