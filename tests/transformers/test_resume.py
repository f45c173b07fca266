"""A Trainer process that is killed, and one that resumes from its checkpoint."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "transformers.trainer_callback", reason="transformers is not installed: `make adapters` runs these tests"
)
pytest.importorskip("torch.optim", reason="torch is not installed: `make adapters` runs these tests")

from support.fixtures.service import Service

TESTS = Path(__file__).parents[1]
RATES = {
    "plateau": [rate for rate in (0.1, 0.1, 0.05, 0.025) for _ in range(5)],
    "cosine": [0.1 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)],
}


def job(folder: Path, url: str, key: str, policy: str, *, save_steps: int, dies_at: int) -> list[float]:
    """The rates that the process used."""
    arguments = [str(folder), url, key, policy, str(save_steps), str(dies_at)]
    done = subprocess.run(
        [sys.executable, "-m", "support.transformers.jobs", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TESTS), "REMOTELR_SPOOL_DIR": str(folder / "spools")},
    )
    assert (-9 if dies_at else 0) == done.returncode, done.stderr
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("rate ")]


@pytest.mark.parametrize("policy", ["plateau", "cosine"])
@pytest.mark.parametrize(("save_steps", "resumes_at"), [(10, 10), (6, 12)], ids=["at an evaluation", "between two"])
def test_a_killed_training_resumes_with_the_rates_of_one_that_was_not_killed(
    tmp_path: Path, shared_service: Service, policy: str, save_steps: int, resumes_at: int
) -> None:
    url = shared_service.url
    key = f"resumed-{policy}-{save_steps}"

    job(tmp_path, url, key, policy, save_steps=save_steps, dies_at=13)
    rates = job(tmp_path, url, key, policy, save_steps=save_steps, dies_at=0)

    assert pytest.approx(RATES[policy][resumes_at:], rel=1e-12, abs=1e-17) == rates
