"""Fixtures of the reliability tests: databases to break, services to kill, and the figures printed at the end.

The default run has short forms. `REMOTELR_PROOF=1` (or `make proof`) runs the long ones.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from faults.databases import Server, breakable_server
from faults.service import Service
from support.fixtures.databases import _database

LONG = bool(os.environ.get("REMOTELR_PROOF"))

_figures = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    lines = config.stash.get(_figures, [])
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a line to the figures at the end of the run."""
    lines = request.config.stash.setdefault(_figures, [])
    return lambda line: lines.append(f"{request.node.name}: {line}")


@pytest.fixture(scope="session")
def long() -> bool:
    """Whether the long forms run."""
    return LONG


@pytest.fixture(autouse=True, scope="package")
def nothing_is_left_behind() -> Iterator[None]:
    """Ends every process that a test has started."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [each for each in psutil.Process().children(recursive=True) if each not in before and _serves(each)]

    assert left == []


def _serves(process: psutil.Process) -> bool:
    try:
        return "remotelr_service" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services as processes that end with the test."""
    started: list[Service] = []

    def start(database_url: str, *, begin_only: bool = False, **settings: Any) -> Service:
        service = Service(database_url, tmp_path, name=f"service-{len(started)}", **settings)
        started.append(service)
        if begin_only:
            service.begin()
        else:
            service.start()
        return service

    yield start
    for service in started:
        service.kill()


@pytest.fixture(scope="module")
def service(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for all tests of a module; a test may kill it, and then it is started again for the next one."""
    folder = tmp_path_factory.mktemp("service")
    service = Service(f"sqlite:///{shutil.copy(sqlite_template, folder / 'remotelr.db')}", folder)
    service.start()
    yield service
    service.kill()


@pytest.fixture(scope="session")
def breakable_postgres() -> Iterator[Server]:
    """A PostgreSQL server that a test may kill and must start again."""
    with breakable_server() as server:
        yield server


@pytest.fixture
def breakable_url(breakable_postgres: Server) -> Iterator[str]:
    """A migrated database on the server that may be killed."""
    from remotelr_service.db.migrate import upgrade

    for url in _database(breakable_postgres.url, template="template0"):
        upgrade(url)
        yield url
