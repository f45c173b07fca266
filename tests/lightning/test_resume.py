"""A Lightning process that is killed, and one that resumes from its checkpoint."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning.pytorch", reason="lightning is not installed: `make adapters` runs these tests")
pytest.importorskip("torch.optim", reason="torch is not installed: `make adapters` runs these tests")

from support.fixtures.service import Service

TESTS = Path(__file__).parents[1]
RATES = {
    "plateau": [rate for rate in (0.1, 0.1, 0.05, 0.025) for _ in range(5)],
    "cosine": [0.1 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)],
}


def job(folder: Path, *arguments: str, dies_at: int) -> list[float]:
    """The rates that the process used."""
    done = subprocess.run(
        [sys.executable, "-m", "support.lightning.jobs", str(folder), *arguments, str(dies_at)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TESTS), "REMOTELR_SPOOL_DIR": str(folder / "spools")},
    )
    assert (-9 if dies_at else 0) == done.returncode, done.stderr
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("rate ")]


@pytest.mark.parametrize("policy", ["plateau", "cosine"])
@pytest.mark.parametrize(("kind", "resumes_at"), [("epoch", 10), ("validation", 10), ("batch", 12)])
def test_a_killed_training_resumes_with_the_rates_of_one_that_was_not_killed(
    tmp_path: Path, shared_service: Service, policy: str, kind: str, resumes_at: int
) -> None:
    """From checkpoints at the epoch's end, between validation and that end, and in the middle of an epoch."""
    arguments = (shared_service.url, f"lightning-{policy}-{kind}", policy, kind)

    job(tmp_path, *arguments, dies_at=13)
    rates = job(tmp_path, *arguments, dies_at=0)

    assert pytest.approx(RATES[policy][resumes_at:], rel=1e-12, abs=1e-17) == rates
