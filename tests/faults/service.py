"""`remotelr serve` as a process that is killed, paused and started again, on the same port and the same database."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import httpx

from support.ports import free_port

# Everything here has to hold on a machine that has much else to do: limits only end what would never end.
START_S = 90.0
SAYS_S = 60.0
CLIENT_S = 30.0


class Service:
    """A service process and its restarts. `url` stays the same.

    python: folders that come first on its PYTHONPATH. wrapped: words to put before the command (`strace …`).
    """

    def __init__(
        self,
        database_url: str,
        folder: Path,
        *,
        name: str = "service",
        python: Sequence[Path] = (),
        wrapped: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = folder / f"{name}.log"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None
        self._folder = folder
        port = self.url.rpartition(":")[2]
        self._command = [*wrapped, sys.executable, "-m", "remotelr_service", "serve", "--port", port]
        self._environment = {
            **os.environ,
            "REMOTELR_DATABASE_URL": database_url,
            "REMOTELR_LOG_LEVEL": "warning",
            **(environment or {}),
        }
        if python:
            self._environment["PYTHONPATH"] = os.pathsep.join(map(str, python))

    def begin(self) -> None:
        """Start the process, and do not wait for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )

    def start(self) -> float:
        """Start the process. Gives the seconds until it answered."""
        began = time.monotonic()
        self.begin()
        self.await_ready()
        return time.monotonic() - began

    def await_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while not self.says("/livez", 200):
            assert self.process.poll() is None, f"the service ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"the service does not answer:\n{self.log.read_text()}"
            time.sleep(0.03)

    def says(self, path: str, status: int) -> bool:
        """Whether it answers `path` with `status`, within ten seconds."""
        # Not by httpx: each client of it loads the certificates of the world first, which a poll cannot afford.
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=10.0)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == status
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def await_says(self, path: str, status: int, within_s: float = SAYS_S) -> float:
        """Wait for that answer. Gives the seconds it took."""
        began = time.monotonic()
        while not self.says(path, status):
            assert time.monotonic() - began < within_s, f"{path} is not {status} after {within_s:g} s"
            time.sleep(0.05)
        return time.monotonic() - began

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, at once; a paused process too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """SIGTERM. Gives the exit code."""
        self._signal(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(START_S)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=CLIENT_S, trust_env=False)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
