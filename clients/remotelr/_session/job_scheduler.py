"""What the job scheduler calls this life of the job: the part of an attempt's key that all its ranks share."""

import re
from collections.abc import Mapping

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
