"""A Trainer of two processes under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "transformers.trainer_callback", reason="transformers is not installed: `make adapters` runs these tests"
)
pytest.importorskip("torch.optim", reason="torch is not installed: `make adapters` runs these tests")

from support.ports import free_port

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("policy", ["plateau", "cosine"])
def test_both_ranks_have_one_rate_at_every_step_and_one_of_them_reports(tmp_path: Path, policy: str) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]

    done = subprocess.run(
        [*torchrun, "-m", "support.transformers.ranks", str(tmp_path), policy],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        # pytorch#135712: a shared store makes restarts and starts unreliable.
        env={**os.environ, "PYTHONPATH": str(TESTS), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"},
    )

    assert 0 == done.returncode, done.stderr[-3000:]
    (first, requests), (second, others) = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert 20 == len(first)
    assert 3 < len(set(first)) or policy == "plateau"
    assert first == second
    assert requests > 0
    assert 0 == others
