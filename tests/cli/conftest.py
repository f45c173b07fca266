"""What all tests of the terminal share: a service that is up, and runs on it."""

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
    """A service of their own: what is said of all runs shall be said of these alone. Use a run key of your own."""
    file = shutil.copy(sqlite_template, tmp_path_factory.mktemp("terminal") / "remotelr.db")
    with serving(f"sqlite:///{file}") as running:
        yield running


@pytest.fixture(autouse=True)
def _at_the_shared_service(shared_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTELR_URL", shared_service.url)


@pytest.fixture(scope="session")
def trainers(shared_service: Service) -> Iterator[Client]:
    """What trainers ask with."""
    with Client(shared_service.url, trust_env=False, timeout_s=60) as client:
        yield client


@pytest.fixture
def trained(trainers: Client) -> Callable[..., Run]:
    """`trained("key", [0.9, 0.8])` is a run that has measured this, under way, told to train with 0.1 at first."""

    def train(key: str, losses: list[float], policy: dict[str, Any] | None = None, **rest: Any) -> Run:
        run = trainers.run(key, policy=policy or PLATEAU, initial_learning_rate=0.1, **rest)
        decision = run.begin(0)
        for epoch, loss in enumerate(losses):
            decision = run.report(epoch, {"val_loss": loss}, learning_rate=decision.learning_rate)
        return run

    return train


@pytest.fixture
def lossy() -> Iterator[Callable[..., str]]:
    """`lossy(url, lost=1)` is the address of a road to the service on which the first answers to orders are lost."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(url: str, lost: int) -> str:
        left = [lost]

        class Road(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                there = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
                there.request("POST", self.path, body, {name: self.headers[name] for name in self.headers})
                answer = there.getresponse()
                written = answer.read()
                there.close()
                if left[0] > 0:
                    left[0] -= 1
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                self.send_header("content-type", answer.headers["content-type"])
                self.send_header("content-length", str(len(written)))
                self.end_headers()
                self.wfile.write(written)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Road)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
