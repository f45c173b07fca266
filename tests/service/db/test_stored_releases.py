"""What earlier releases stored is read by this one: upgraded, replayed bit for bit, and gone on with (F21).

`tests/assets/make.py` saved it. A file of a released version never changes; a rate that differs here is a bug here.
"""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import psycopg
import pytest

from assets.make import ASSETS, go_on
from remotelr_service.db import migrate
from support.fixtures.processes import Process

RELEASES = sorted(file.stem for file in ASSETS.glob("*.json"))


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["sqlite", "postgresql"])
def stored(request: pytest.FixtureRequest, release: str, tmp_path: Path) -> str:
    """The URL of a database as the release left it, brought to this release."""
    if request.param == "sqlite":
        url = f"sqlite:///{shutil.copy(ASSETS / f'{release}.sqlite', tmp_path / 'stored.db')}"
    else:
        url = request.getfixturevalue("empty_postgres_url")
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            connection.execute((ASSETS / f"{release}.sql").read_bytes())
    migrate.upgrade(url)
    return url


def expected(release: str) -> dict[str, list[dict[str, object]]]:
    return json.loads((ASSETS / f"{release}.json").read_text())


def test_this_release_is_among_them():
    assert version("remotelr-service") in RELEASES, "run `python tests/assets/make.py`"


def test_runs_go_on_with_the_rates_they_would_have_had(stored: str, release: str, start_process):
    process: Process = start_process(stored)
    wanted = expected(release)

    assert wanted == {key: go_on(process, key) for key in wanted}


def test_histories_replay_bit_for_bit(stored: str, release: str, start_process):
    """
    Every decision of every event is taken again, and the run that comes of it is the stored one.
    """
    process: Process = start_process(stored)

    for key in expected(release):
        assert process.replayed(key) == process.stored_run(key)


def test_the_saved_databases_contain_attempts_commands_and_non_finite_metrics(stored: str, release: str, start_process):
    process: Process = start_process(stored)
    runs = {key: process.stored_run(key) for key in expected(release)}
    events = [event for key in runs for event in process.events(key)]

    assert {"created", "attempt", "report", "command"} <= {event.kind for event in events}
    assert {0, 2} == {run.attempt for run in runs.values()}
    assert any('"nan"' in json.dumps(event.payload) for event in events)
    assert {"mid-wait", "mid-cooldown", "two-attempts", "overridden", "diverged"} <= set(runs)
