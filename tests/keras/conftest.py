"""A real service for real fits."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from remotelr import Client
from remotelr.keras import RemoteLR
from support.fixtures.service import Service
from support.ports import free_port

# Keras 3.15 turns its variables into arrays in a way NumPy 2 warns of; its own callbacks do so all the time.
KERAS_AND_NUMPY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings(KERAS_AND_NUMPY))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without a `timeout_s` of its own waits as long as a busy machine takes."""
    for each in (Client, RemoteLR):
        monkeypatch.setitem(each.__init__.__kwdefaults__, "timeout_s", 60.0)


@pytest.fixture
def url(shared_service: Service) -> str:
    """The address of a service that stays up."""
    return shared_service.url


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A run of the test's own."""
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")[:190]


class MortalService:
    """`remotelr serve` as a process, on one port and one database across its restarts."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._database_url = database_url
        self._log = folder / "service.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "remotelr_service", "serve", "--port", self.url.rpartition(":")[2]]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--database-url", self._database_url], stdout=log, stderr=log, cwd=self._log.parent
            )
        deadline = time.monotonic() + 100
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/livez", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def mortal_service(sqlite_url: str, tmp_path: Path) -> Iterator[MortalService]:
    """A service that is not running yet, and that a test may kill and start again."""
    service = MortalService(sqlite_url, tmp_path)
    yield service
    service.kill()
