"""A real service for real optimizers. The folder is not named `torch`: without PyTorch that name would import it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fixtures.service import Service
from support.pytorch.processes import Jobs


@pytest.fixture
def url(shared_service: Service) -> str:
    """The address of a service that stays up."""
    return shared_service.url


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A run of the test's own."""
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")[:190]


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher of the tests must not look like a launcher of a training."""
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _own_spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that the last test has left is still in use of its file."""
    monkeypatch.setenv("REMOTELR_SPOOL_DIR", str(tmp_path))


@pytest.fixture
def new_job(tmp_path: Path) -> Iterator[Callable[..., Jobs]]:
    """Makes training jobs that end with the test."""
    jobs: list[Jobs] = []

    def make(**arguments: Any) -> Jobs:
        jobs.append(Jobs(tmp_path / f"job-{len(jobs)}", **arguments))
        return jobs[-1]

    yield make
    for each in jobs:
        each.kill()
