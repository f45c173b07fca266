"""Protocol (c) of failures.md: a training loop behind a network with every known fault.

healthy ──trouble──▶ alone, by the same rules ──healed──▶ the service knows every epoch, as if nothing had been

The rates equal those of an independent oracle, and no wait exceeds the budget.
"""

import gc
import re
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from faults import hostile, oracle, proxy
from faults.proxy import Behaviour, Proxy
from faults.service import Service
from reliability.conftest import LONG
from remotelr import Client
from remotelr._session.breaker import FAILURES
from remotelr._session.journal import Journal
from remotelr._session.session import Session
from remotelr._session.spool import Spool
from remotelr.errors import RemoteLRWarning
from support.leak_check import open_files, open_threads

# Maximal duration of an epoch boundary under a fault. Without a fault it may be longer: the machine is busy.
TIMEOUT_S, PATIENT_S = (2.0 if LONG else 0.15), 30.0
# Maximal delay of a deadline: the wait for its thread, on a busy machine.
SLACK_S = 3.0
EPOCH_S = 0.005
HEALTHY, TROUBLED = (10, 50) if LONG else (3, 20)
TLS = Path(proxy.__file__).with_name("tls")
TOKEN = "rlr_abcdefghijklmnopqrstuvwxyz0123456789"
LOSSES = oracle.losses(seed=4, count=20_000)
RATES = [oracle.INITIAL, *oracle.rates(LOSSES)]


class World:
    """A service, the proxy in front of it, and a training job that knows the proxy alone.

    rates: used in each epoch. took_s: what each boundary between epochs cost during the trouble. warned, said: to
    the user.
    """

    def __init__(self, service: Service, run: str, folder: Path, *, tls: bool = False) -> None:
        self.run = run
        self.rates: list[float | None] = []
        self.took_s: list[float] = []
        self.warned: list[str] = []
        self.said: list[str] = []
        self.monkeypatch = pytest.MonkeyPatch()
        self.certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificate.load_cert_chain(TLS / "right.pem")
        self.proxy = Proxy(service_address(service), tls=self.certificate if tls else None)
        self._verify = ssl.create_default_context(cafile=TLS / "right.pem") if tls else True
        self._spool = folder / "spool"
        self._timeout_s = PATIENT_S
        self.begin()

    @contextmanager
    def troubled(self, trouble: "Trouble", timeout_s: float = TIMEOUT_S) -> Iterator[None]:
        """Under a fault, with a short budget."""
        self._hurry(timeout_s)
        with trouble(self):
            yield
            # Before that no answer can come.
            self._timeout_s = PATIENT_S
        self._hurry(PATIENT_S)

    def _hurry(self, timeout_s: float) -> None:
        self._timeout_s = self.session._service._budget.seconds = timeout_s

    def begin(self) -> None:
        """One process of the job."""
        client = Client(
            self.proxy.url,
            timeout_s=self._timeout_s,
            headers={"authorization": f"Bearer {TOKEN}"},
            verify=self._verify,
        )
        journal = Journal(Spool(self._spool))
        self.session = Session(client, self.run, {"policy": oracle.POLICY}, journal=journal, say=self.said.append)
        with self._watched():
            self.session.open(initial_learning_rate=oracle.INITIAL)

    def train(self, epochs: int) -> None:
        """In the way of a framework's callback."""
        for epoch in range(len(self.rates), len(self.rates) + epochs):
            with self._watched():
                self.session.begin(epoch, epoch)
                self.rates.append(self.session.learning_rate(epoch, 0))
            time.sleep(EPOCH_S)
            with self._watched():
                self.session.renew_budget()
                self.session.report(epoch, {"val_loss": LOSSES[epoch]}, step=None, learning_rate=self.rates[epoch])

    def train_until_answered(self) -> None:
        deadline = time.monotonic() + 120
        while self.session.decision is None or self.session.decision.local:
            assert time.monotonic() < deadline, f"still unanswered: {self.warned}"
            self.train(1)
            time.sleep(10 * EPOCH_S)

    def end(self) -> None:
        with self._watched():
            self.session.finish("completed")

    def close(self) -> None:
        self.session.abandon()
        self.proxy.close()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        began = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        if self._timeout_s == TIMEOUT_S:
            self.took_s.append(time.monotonic() - began)
        self.warned += [str(each.message) for each in caught]
        assert {each.category for each in caught} <= {RemoteLRWarning}


Trouble = Callable[[World], AbstractContextManager[Any]]


def network(behaviour: Behaviour) -> Trouble:
    @contextmanager
    def trouble(world: World) -> Iterator[None]:
        world.proxy.turn(behaviour)
        yield
        world.proxy.turn(proxy.plain)

    return trouble


@contextmanager
def refused(world: World) -> Iterator[None]:
    world.proxy.shut()
    yield
    world.proxy.open()


@contextmanager
def syn_dropped(world: World) -> Iterator[None]:
    with refused(world), hostile.swallows_connections(world.proxy.address):
        yield


@contextmanager
def flooded(world: World) -> Iterator[None]:
    with network(hostile.hundred_megabytes)(world):
        yield
    # The buffers of two sockets may contain sent bytes that are not read.
    assert 0 < world.proxy.happened["most sent"] < 32 * 2**20


@contextmanager
def redirected(world: World) -> Iterator[None]:
    with Proxy(("127.0.0.1", 9), proxy.captive_portal) as elsewhere, network(hostile.moved_to(elsewhere.url))(world):
        yield
        assert elsewhere.happened["answered"] == 0


@contextmanager
def name_unknown(world: World) -> Iterator[None]:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with world.monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", unknown)
        # Only a new connection resolves the name.
        world.proxy.cut()
        yield


@contextmanager
def name_server_stalled(world: World) -> Iterator[None]:
    """A name resolution cannot be interrupted."""
    answered, look_up = threading.Event(), socket.getaddrinfo

    def stalled(*arguments: Any, **named: Any) -> Any:
        answered.wait(60)
        return look_up(*arguments, **named)

    with world.monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", stalled)
        world.proxy.cut()
        yield
    answered.set()


@contextmanager
def certificate_of_another_host(world: World) -> Iterator[None]:
    world.certificate.load_cert_chain(TLS / "wrong.pem")
    world.proxy.cut()
    yield
    world.certificate.load_cert_chain(TLS / "right.pem")


@contextmanager
def proxy_variables(world: World) -> Iterator[None]:
    """A process of the job in an environment with a proxy that does not exist."""
    with world.monkeypatch.context() as patch:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        patch.setenv("NO_PROXY", "")
        patch.setenv("no_proxy", "")
        world.session.abandon()
        world.begin()
        yield
    world.session.abandon()
    world.begin()


@contextmanager
def wall_clock_jumps(world: World) -> Iterator[None]:
    """The clock jumps by 30 days and back while the service is unavailable, as after an NTP synchronisation."""
    now, days = time.time, iter(range(10**9))

    with world.monkeypatch.context() as patch, refused(world):
        patch.setattr(time, "time", lambda: now() + (-1) ** next(days) * 30 * 86_400)
        yield


# One warning, one message when it answers again, and hardly any tries in between.
AWAY: dict[str, Trouble] = {
    "refused": refused,
    "reset on connect": network(proxy.reset_on_connect),
    "reset after the request": network(proxy.reset_after_request),
    "reset before the service": network(proxy.reset_before_service),
    "reset in the middle of the answer": network(proxy.reset_mid_response),
    "black hole": network(proxy.blackhole),
    "SYN dropped": syn_dropped,
    "one byte at a time": network(proxy.Drip(TIMEOUT_S / 6)),
    "half closed": network(proxy.half_close),
    "closed before the answer": network(proxy.close_before_response),
    "truncated answer": network(proxy.truncate),
    "HTML with status 200": network(proxy.captive_portal),
    "JSON that ends too soon": network(proxy.garbage),
    "not HTTP": network(proxy.not_http),
    "rate null": network(hostile.Forged({"learning_rate": None})),
    "rate -1": network(hostile.Forged({"learning_rate": -1})),
    'rate "NaN"': network(hostile.Forged({"learning_rate": "NaN"})),
    "rate 1e9": network(hostile.Forged({"learning_rate": 1e9})),
    "redirect to another host": redirected,
    "429 for an hour": network(proxy.too_many),
    "503 for an hour": network(proxy.come_back_much_later),
    "500": network(proxy.internal_error),
    "100 MB": flooded,
    "gzip bomb": network(hostile.gzip_bomb),
    "unknown name": name_unknown,
    "stalled name server": name_server_stalled,
    "wrong certificate": certificate_of_another_host,
    "wall clock jumps": wall_clock_jumps,
}


@pytest.fixture
def begin(service: Service, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Starts worlds, and checks that their threads and files are gone at the end."""
    worlds: list[World] = []
    run = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")
    before = left_open()

    def start(**settings: Any) -> World:
        worlds.append(World(service, run, tmp_path, **settings))
        return worlds[-1]

    yield start
    for world in worlds:
        world.close()
    worlds.clear()
    gc.collect()
    await_nothing_more_than(before)


def service_address(service: Service) -> tuple[str, int]:
    return "127.0.0.1", int(service.url.rpartition(":")[2])


def left_open() -> tuple[int, int]:
    return open_threads(), open_files()


def await_nothing_more_than(before: tuple[int, int]) -> None:
    deadline = time.monotonic() + 60
    while not all(now <= then for now, then in zip(left_open(), before, strict=True)):
        assert time.monotonic() < deadline, (before, left_open(), threading.enumerate(), psutil.Process().open_files())
        time.sleep(0.02)


def check(world: World, service: Service, tell: Callable[[str], None]) -> None:
    """Checks that hold for every fault."""
    took_s = sorted(world.took_s) or [0.0]
    longest_s, all_s = took_s[-1], sum(took_s)
    tell(f"{len(world.rates)} epochs, {longest_s:.2f} s at most at a boundary, {all_s:.1f} s in all")
    assert world.rates == RATES[: len(world.rates)]
    # A late answer is late at each try before the breaker opens; a busy machine seldom is.
    assert took_s[-FAILURES:][0] <= TIMEOUT_S + SLACK_S
    with Client(service.url, timeout_s=60.0, trust_env=False) as client:
        stored = [row for row in client.get_run(world.run).history() if row.superseded_by is None]
    assert [(row.epoch, row.metrics["val_loss"], row.used_learning_rate, row.next_learning_rate) for row in stored] == [
        (epoch, LOSSES[epoch], RATES[epoch], RATES[epoch + 1]) for epoch in range(len(world.rates))
    ]
    assert TOKEN not in "".join(world.warned + world.said)


@pytest.mark.parametrize("trouble", AWAY.values(), ids=AWAY.keys())
def test_a_training_does_not_notice(begin, service, tell, trouble, capfd):
    world = begin(tls=trouble is certificate_of_another_host)
    world.train(HEALTHY)
    with world.troubled(trouble):
        world.train(TROUBLED)
        opened = world.session._service._breaker.is_open
    world.train_until_answered()
    world.train(HEALTHY)
    world.end()

    check(world, service, tell)
    assert opened
    assert len(world.warned) == 1
    assert "Training goes on by the same rules here." in world.warned[0]
    assert world.said == [f"RemoteLR: {world.proxy.url} answers again."]
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize(
    "trouble",
    [
        network(proxy.Slow(TIMEOUT_S / 4, spread_s=TIMEOUT_S / 5)),
        network(proxy.Throttle(1000)),
        network(proxy.Sometimes(proxy.reset_after_request, 0.5)),
        network(hostile.Flapping(TIMEOUT_S / 2)),
    ],
    ids=["latency", "1 kB/s", "every second connection", "flapping"],
)
def test_a_service_that_answers_now_and_then_is_used_as_far_as_it_goes(begin, service, tell, trouble):
    world = begin()
    world.train(HEALTHY)
    with world.troubled(trouble):
        world.train(TROUBLED)
    world.train_until_answered()
    world.train(HEALTHY)
    world.end()

    check(world, service, tell)
    assert world.said == [f"RemoteLR: {world.proxy.url} answers again."] * len(world.warned)


def test_a_token_that_is_revoked_in_the_middle_of_a_run_is_one_warning(begin, service, tell):
    world = begin()
    world.train(HEALTHY)
    # The connection is refused at once, so the budget is not short.
    with world.troubled(network(hostile.unauthorized), PATIENT_S):
        world.train(TROUBLED)
    world.train_until_answered()
    world.end()

    check(world, service, tell)
    assert len(world.warned) == 1
    assert "this token was revoked" in world.warned[0]
    assert world.said == []


def test_a_proxy_of_the_environment_that_is_not_there_is_a_service_that_is_away(begin, service, tell):
    world = begin()
    world.train(HEALTHY)
    with world.troubled(proxy_variables):
        world.train(TROUBLED)
    world.train_until_answered()
    world.end()

    check(world, service, tell)
    assert len(world.warned) == 1


def test_a_training_that_ends_just_after_the_service_is_back_has_sent_every_report(begin, service, tell):
    """The breaker may be open for seconds; the end of the run is tried anyway."""
    world = begin()
    world.train(HEALTHY)
    with world.troubled(network(proxy.blackhole)):
        world.train(TROUBLED)
    with world.monkeypatch.context() as patch:
        # A busy machine may need more than the second of such a try.
        patch.setattr("remotelr._session.budget._SHORT_S", PATIENT_S)
        world.end()

    check(world, service, tell)
    assert len(world.warned) == 1


def test_no_duration_of_the_client_is_taken_from_a_clock_that_can_be_set():
    """The in-memory service reads the time for its events, which is no measurement of a duration."""
    sources = Path(oracle.__file__).parents[2] / "clients" / "remotelr"
    files = list(sources.rglob("*.py"))
    found = {
        file.name
        for file in files
        if file.name != "testing.py"
        and re.search(r"\btime\.time\(|datetime\.(now|utcnow|today)|from time import", file.read_text())
    }

    assert len(files) > 50
    assert found == set()
