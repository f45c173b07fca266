"""Tests of `remotelr.optax`: real optimizers in real compiled steps. Without optax they are skipped by name."""

import pytest


@pytest.fixture(autouse=True)
def _spools(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTELR_SPOOL_DIR", f"{tmp_path}/spools")
