"""A real Trainer of Lightning on tiny models. Without Lightning the tests are skipped by name."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTELR_SPOOL_DIR", str(tmp_path / "spools"))


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher of the tests must not look like a launcher of a training."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
