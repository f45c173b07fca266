"""Fixtures of the command line's tests: a running service, and runs on it."""

import http.client
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remotelr import Client, Run
from support.fixtures.service import Service, serving

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 2, "flavor": "torch"}


@pytest.fixture(scope="session")
def shared_service(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for these tests only. Each test uses its own run keys."""
    file = shutil.copy(sqlite_template, tmp_path_factory.mktemp("terminal") / "remotelr.db")
    with serving(f"sqlite:///{file}") as running:
        yield running


@pytest.fixture(autouse=True)
def _at_the_shared_service(shared_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTELR_URL", shared_service.url)


@pytest.fixture(scope="session")
def trainers(shared_service: Service) -> Iterator[Client]:
    """The trainers' client."""
    with Client(shared_service.url, trust_env=False, timeout_s=60) as client:
        yield client


@pytest.fixture
def trained(trainers: Client) -> Callable[..., Run]:
    """`trained("key", [0.9, 0.8])` is a running run with these values of `val_loss` and the initial rate 0.1."""

    def train(key: str, losses: list[float], policy: dict[str, Any] | None = None, **rest: Any) -> Run:
        run = trainers.run(key, policy=policy or PLATEAU, initial_learning_rate=0.1, **rest)
        decision = run.begin(0)
        for epoch, loss in enumerate(losses):
            decision = run.report(epoch, {"val_loss": loss}, learning_rate=decision.learning_rate)
        return run

    return train


@pytest.fixture
def lossy() -> Iterator[Callable[..., str]]:
    """`lossy(url, lost=1)` is the URL of a proxy to the service that drops the first responses to POST."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(url: str, lost: int) -> str:
        remaining = [lost]

        class Proxy(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                service = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
                service.request("POST", self.path, body, {name: self.headers[name] for name in self.headers})
                response = service.getresponse()
                content = response.read()
                service.close()
                if remaining[0] > 0:
                    remaining[0] -= 1
                    self.close_connection = True
                    return
                self.send_response(response.status)
                self.send_header("content-type", response.headers["content-type"])
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
