"""Event streams: no event is lost or repeated after disconnects, reconnects and slow reads."""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest

from remotelr_service.db import engine
from remotelr_service.db.queries import feed
from remotelr_service.features.streams import sse
from remotelr_service.http.context import Context
from remotelr_service.live import all_feed, hub, replica_signals, run_feed, subscribers
from support.fixtures.service import Service, serving
from support.fixtures.sse import Listener, StreamEvent, listen

LONG_S = 60.0


def put(http: httpx.Client, run: str, **rest: Any) -> None:
    body = {"policy": {"type": "constant"}, "initial_learning_rate": 0.1, **rest}
    assert http.put(f"/v1/runs/{run}", json=body).status_code == 201


def report(http: httpx.Client, run: str, epoch: int) -> None:
    answer = http.post(f"/v1/runs/{run}/reports", json={"epoch": epoch, "metrics": {"val_loss": 1.0}})
    assert answer.status_code == 200, answer.text


def places(items: list[StreamEvent]) -> list[tuple[str, int, str]]:
    return [each.place for each in items if each.event not in ("begin", "lost")]


def log_of(http: httpx.Client, run: str) -> list[tuple[str, int, str]]:
    """The expected stream of a run."""
    found, after = [], 0
    while True:
        page = http.get(f"/v1/runs/{run}/events", params={"after": after, "limit": 200}).json()
        found += [(run, event["seq"], event["kind"]) for event in page["events"]]
        if page["next"] is None:
            return found
        after = page["next"]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def context_of(service: Service) -> Context:
    ctx: Context = service.server.config.app.state.context  # type: ignore[union-attr]
    return ctx


# The content of streams.


def test_a_stream_sends_the_events_of_a_run_with_their_seq(service: Service):
    put(service.http, "live")
    with Listener(f"{service.url}/v1/runs/live/stream") as listener:
        begin = service.http.post("/v1/runs/live/attempts", json={"key": "a", "epoch": 0})
        assert begin.status_code == 200, begin.text
        report(service.http, "live", 0)
        service.http.post("/v1/runs/live/commands", json={"type": "set_learning_rate", "value": 0.01, "reason": "why"})
        report(service.http, "live", 1)
        service.http.post("/v1/runs/live/finish", json={"status": "completed"})
        items = listener.wait(lambda items: len(items) == 6)

    assert ["begin", "attempt", "decision", "command", "decision", "finished"] == [each.event for each in items]
    assert ["1", "2", "3", "4", "5", "6"] == [each.id for each in items]
    assert 0.01 == items[4].data["decision"]["learning_rate"]
    assert all(each.data["sentence"].endswith(".") for each in items[1:])


def test_a_stream_sends_the_events_of_all_or_only_selected_runs(service: Service):
    http = service.http
    put(http, "a", experiment="one", tags={"model": "x"})
    put(http, "b", experiment="two", tags={"model": "x"})
    put(http, "c", experiment="one", tags={"model": "y"})
    paths = ["", "?experiment=one", "?tag=model:x", "?experiment=one&tag=model:x&status=running", "?status=failed"]
    with ExitStack() as opened:
        listeners = [opened.enter_context(Listener(f"{service.url}/v1/stream{path}")) for path in paths]
        for epoch in range(3):
            for run in "abc":
                report(http, run, epoch)
        http.post("/v1/runs/c/finish", json={"status": "failed"})
        items = [
            {place[0] for place in places(each.wait(lambda items, count=count: len(items) >= count))}
            for each, count in zip(listeners, [11, 8, 7, 4, 2], strict=True)
        ]

    assert [{"a", "b", "c"}, {"a", "c"}, {"a", "b"}, {"a"}, {"c"}] == items


def test_a_stream_from_seq_0_sends_the_whole_log(service: Service):
    put(service.http, "old")
    for epoch in range(4):
        report(service.http, "old", epoch)
    items = listen(f"{service.url}/v1/runs/old/stream?after=0", lambda items: len(items) == 6)
    rest = listen(f"{service.url}/v1/runs/old/stream", lambda items: len(items) == 3, last_id="3")

    assert log_of(service.http, "old") == places(items)
    assert [4, 5] == [each.data["seq"] for each in rest[1:]]


def test_a_stream_sends_a_stall_after_the_last_event_of_the_run(service: Service):
    from datetime import UTC, datetime, timedelta

    from remotelr_service.features.runs.stalls import Stalls

    put(service.http, "quiet")
    for epoch in range(4):
        report(service.http, "quiet", epoch)
    ctx = context_of(service)
    with Listener(f"{service.url}/v1/runs/quiet/stream") as one, Listener(f"{service.url}/v1/stream") as all_of_them:
        stalls = Stalls(ctx.writer, ctx.reads)
        _run(service, stalls.check(datetime.now(UTC) + timedelta(seconds=100)))
        report(service.http, "quiet", 4)
        items = one.wait(lambda items: len(items) == 3)
        of_all_runs = all_of_them.wait(lambda items: len(items) == 3)
    again = listen(f"{service.url}/v1/runs/quiet/stream", lambda items: len(items) == 3, last_id="5")
    behind = listen(f"{service.url}/v1/runs/quiet/stream", lambda items: len(items) == 2, last_id="5s")

    assert [("stalled", "5s"), ("decision", "6")] == [(each.event, each.id) for each in items[1:]]
    assert ["stalled", "decision"] == [each.event for each in of_all_runs[1:]]
    assert items[1].data["sentence"].startswith("Run quiet has not reported since ")
    assert [["5s", "6"], ["6"]] == [[each.id for each in found[1:]] for found in (again, behind)]


# Nothing lost, nothing doubled.


def test_a_client_that_is_disconnected_repeatedly_gets_every_event_once(database_url: str):
    """
    With two replicas on PostgreSQL: each connection is cut after some events, and goes on at any of them.
    """
    rng = random.Random(7)
    count = 1 if database_url.startswith("sqlite") else 2
    with ExitStack() as opened:
        replicas = [opened.enter_context(serving(database_url)) for _ in range(count)]
        first = replicas[0]
        put(first.http, "zero")
        runs = [f"run-{number}" for number in range(8)]
        begins = listen(f"{first.url}/v1/stream", lambda _: True)[0].id
        threads = [
            threading.Thread(target=_train, args=(replicas[number % count].url, run, 25))
            for number, run in enumerate(runs)
        ]
        for each in threads:
            each.start()
        total, received, last_id, cuts = 8 * 26, [], begins, 0
        while len(received) < total:
            until = min(rng.randrange(1, 30), total - len(received))
            found = listen(
                f"{rng.choice(replicas).url}/v1/stream", lambda items, until=until: len(items) > until, last_id
            )
            assert found[0].event == "begin"
            received += found[1:]
            last_id, cuts = received[-1].id, cuts + 1
        for each in threads:
            each.join()
        logs = {run: log_of(first.http, run) for run in runs}

    assert cuts > 5
    assert logs == {run: [each.place for each in received if each.data["run"] == run] for run in runs}


def test_a_client_that_reconnects_to_a_run_gets_every_event_once(service: Service):
    put(service.http, "run")
    training = threading.Thread(target=_train, args=(service.url, "run", 60, False))
    training.start()
    received: list[StreamEvent] = []
    while len(received) < 60:
        last_id = received[-1].id if received else "1"
        until = min(7, 60 - len(received))
        url = f"{service.url}/v1/runs/run/stream"
        received += listen(url, lambda items, until=until: len(items) > until, last_id)[1:]
    training.join()

    assert log_of(service.http, "run")[1:] == places(received)


def test_an_event_committed_late_is_sent_late_and_not_lost(postgres_url: str, monkeypatch: pytest.MonkeyPatch):
    """
    One replica takes a position in the order and commits late; another one is faster. A subscriber that received
    the later event gets the earlier one too, also if it reconnects to another replica.
    """
    monkeypatch.setattr(all_feed, "HOLE_WAIT_S", 0.3)
    monkeypatch.setattr(engine, "POSTGRES_IDLE_TIMEOUT_MS", 60_000)
    with serving(postgres_url) as slow, serving(postgres_url) as fast:
        put(slow.http, "slow")
        put(slow.http, "fast")
        with Listener(f"{slow.url}/v1/stream") as one, Listener(f"{fast.url}/v1/stream") as another:
            pending = _Holding(slow, "slow", epoch=0)
            report(fast.http, "fast", 0)
            early = [each.wait(lambda items: len(items) == 2)[1] for each in (one, another)]
            pending.commit()
            late = [each.wait(lambda items: len(items) == 3)[2] for each in (one, another)]
        found = [listen(f"{fast.url}/v1/stream", lambda items: len(items) == 2, each.id)[1] for each in early]
        report(fast.http, "fast", 1)
        after = listen(f"{slow.url}/v1/stream", lambda items: len(items) == 2, late[0].id)

    assert [("fast", 2, "report")] * 2 == [each.place for each in early]
    assert all("!" in each.id for each in early), early
    assert [("slow", 2, "report")] * 4 == [each.place for each in late + found]
    assert [("fast", 3, "report")] == places(after)


def test_an_event_committed_during_a_catch_up_is_sent(monkeypatch: pytest.MonkeyPatch):
    streams = all_feed.AllStreams(None)  # type: ignore[arg-type]  # `ask` answers instead of it
    before, after = hub.Cursor(1), hub.Cursor(3)
    streams._cursor = before
    entries = [_entry(2), _entry(3)]

    async def ask(_: Any, question: Any) -> Any:
        if question is feed.highest_position_taken:
            return after.high
        page = [each for each in entries if not question.keywords["cursor"].contains(each.position)]
        if streams._cursor == after:
            return page
        # The page was read before 2 was committed; live subscribers have both events by then.
        streams._cursor = after
        for subscriber in streams._subscribers:
            subscriber.put(all_feed._Batch(before, entries, ["2", "3"], after), 2)
        return page[1:]

    async def start() -> None:
        pass

    async def receive() -> list[int | None]:
        items: list[int | None] = []
        async for step in streams.follow(all_feed.Selection(), before, idle_s=0.0):
            items += [each.entry.position for each in step.items]
            if step.id == "3" and not step.items:
                break
        return items

    monkeypatch.setattr(all_feed, "run_query", ask)
    monkeypatch.setattr(streams.poller, "start", start)

    assert asyncio.run(asyncio.wait_for(receive(), LONG_S)) == [3, 2]


def test_a_stream_waits_for_a_pending_commit_before_later_events(postgres_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(all_feed, "HOLE_WAIT_S", LONG_S)
    monkeypatch.setattr(engine, "POSTGRES_IDLE_TIMEOUT_MS", 60_000)
    with serving(postgres_url) as slow, serving(postgres_url) as fast:
        put(slow.http, "slow")
        put(slow.http, "fast")
        with Listener(f"{fast.url}/v1/stream") as listener:
            pending = _Holding(slow, "slow", epoch=0)
            report(fast.http, "fast", 0)
            pending.commit()
            items = listener.wait(lambda items: len(items) == 3)

    assert [("slow", 2, "report"), ("fast", 2, "report")] == places(items)
    assert not any("!" in each.id for each in items)


def test_a_rolled_back_transaction_does_not_block_a_stream(postgres_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(all_feed, "HOLE_WAIT_S", LONG_S)
    monkeypatch.setattr(engine, "POSTGRES_IDLE_TIMEOUT_MS", 60_000)
    with serving(postgres_url) as service:
        put(service.http, "run")
        with Listener(f"{service.url}/v1/stream") as listener:
            _Holding(service, "run", epoch=0).fail()
            report(service.http, "run", 0)
            items = listener.wait(lambda items: len(items) == 2)

    assert [("run", 2, "report")] == places(items)
    assert "!" not in items[1].id


def test_commits_of_other_replicas_reach_a_stream_without_polling(postgres_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subscribers, "POLL_S", 10 * LONG_S)
    with serving(postgres_url) as here, serving(postgres_url) as there:
        put(here.http, "run")
        with Listener(f"{there.url}/v1/runs/run/stream") as listener:
            for epoch in range(3):
                report(here.http, "run", epoch)
            items = listener.wait(lambda items: len(items) == 4)

    assert [2, 3, 4] == [each.data["seq"] for each in items[1:]]


def test_signals_come_again_after_their_connection_was_lost(postgres_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subscribers, "POLL_S", 10 * LONG_S)
    monkeypatch.setattr(replica_signals, "RECONNECT_S", 0.1)
    lost = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'remotelr signals' "
    lost += "AND datname = current_database()"
    with serving(postgres_url) as here, serving(postgres_url) as there:
        put(here.http, "run")
        with Listener(f"{there.url}/v1/runs/run/stream") as listener:
            report(here.http, "run", 0)
            listener.wait(lambda items: len(items) == 2)
            with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
                assert connection.execute(lost).fetchall()
            for epoch in range(1, 5):
                report(here.http, "run", epoch)
            items = listener.wait(lambda items: len(items) == 6)

    assert [2, 3, 4, 5, 6] == [each.data["seq"] for each in items[1:]]


def test_concurrent_streams_get_the_events_of_their_own_runs(service: Service):
    runs = [f"run-{number}" for number in range(5)]
    for run in runs:
        put(service.http, run)
    with ExitStack() as opened:
        listeners = [opened.enter_context(Listener(f"{service.url}/v1/runs/{run}/stream")) for run in runs]
        for epoch in range(10):
            for run in runs[: 1 + epoch % 5]:
                report(service.http, run, epoch // 5)
        logs = [log_of(service.http, run)[1:] for run in runs]
        items = [
            each.wait(lambda items, log=log: len(items) > len(log)) for each, log in zip(listeners, logs, strict=True)
        ]

    assert logs == [places(each) for each in items]


def test_a_slow_subscriber_gets_missed_events_from_the_log(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subscribers, "MAX_QUEUED", 3)
    monkeypatch.setattr(all_feed, "PAGE", 4)
    monkeypatch.setattr(run_feed, "PAGE", 4)
    put(service.http, "run")
    with Listener(f"{service.url}/v1/stream") as listener, Listener(f"{service.url}/v1/runs/run/stream") as of_run:
        reports = [{"epoch": epoch, "metrics": {}} for epoch in range(50)]
        assert 200 == service.http.post("/v1/runs/run/reports/batch", json={"reports": reports}).status_code
        items = [each.wait(lambda items: len(items) >= 51) for each in (listener, of_run)]

    assert [log_of(service.http, "run")[1:]] * 2 == [places(each) for each in items]


def test_a_cursor_of_another_history_gives_the_event_lost(service: Service):
    put(service.http, "run")
    lost = [listen(f"{service.url}/v1/stream", lambda _: True, "99")[0]]
    lost += [listen(f"{service.url}/v1/runs/run/stream", lambda _: True, "99")[0]]

    assert ["lost", "lost"] == [each.event for each in lost]
    assert ["1", "1"] == [each.id for each in lost]


# Rejected and disconnected clients.


def test_a_stream_of_an_unknown_run_is_rejected_with_a_problem(shared_service: Service):
    http = shared_service.http
    unknown = http.get("/v1/runs/unknown/stream")
    wrong = [http.get("/v1/stream", headers={"Last-Event-ID": each}) for each in ("x", "1!", "1!5-3", "-1", "9" * 30)]

    assert (404, "run_not_found") == (unknown.status_code, unknown.json()["code"])
    assert {(422, "invalid_request")} == {(each.status_code, each.json()["code"]) for each in wrong}


def test_the_head_of_a_stream_is_a_head(shared_service: Service):
    answer = shared_service.http.head("/v1/stream")

    assert (200, b"") == (answer.status_code, answer.content)


def test_so_many_streams_and_no_more(sqlite_url: str):
    with serving(sqlite_url, max_streams=1) as service, Listener(f"{service.url}/v1/stream"):
        refused = service.http.get("/v1/stream")

    assert (503, "overloaded") == (refused.status_code, refused.json()["code"])


def test_the_stream_of_a_run_ends_when_the_run_is_deleted(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_feed, "CHECK_S", 0.0)
    put(service.http, "gone")
    with Listener(f"{service.url}/v1/runs/gone/stream") as listener:
        assert 204 == service.http.delete("/v1/runs/gone").status_code

        assert ["begin"] == [each.event for each in listener.ended()]


def test_a_client_that_does_not_read_is_disconnected_without_blocking_others(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sse, "SEND_TIMEOUT_S", 3.0)
    with serving(sqlite_url) as service:
        put(service.http, "run")
        ctx = context_of(service)
        with Listener(f"{service.url}/v1/stream") as reading, _deaf(service.url):
            wait_until(lambda: ctx.streams.count == 2)
            metrics = {f"metric_{number}": 1.0 for number in range(60)}
            for first in range(0, 20_000, 500):
                reports = [{"epoch": epoch, "metrics": metrics} for epoch in range(first, first + 500)]
                answer = service.http.post("/v1/runs/run/reports/batch", json={"reports": reports})
                assert answer.status_code == 200, answer.text
                if ctx.streams.count == 1:
                    break
            wait_until(lambda: ctx.streams.count == 1)
            expected = log_of(service.http, "run")[1:]
            items = reading.wait(lambda items: len(items) > len(expected))

    assert expected == places(items)


def test_streams_say_that_they_are_alive(sqlite_url: str, monkeypatch: pytest.MonkeyPatch):
    from remotelr_service.features.streams import endpoints

    monkeypatch.setattr(endpoints, "HEARTBEAT_S", 0.01)
    with serving(sqlite_url) as service:
        put(service.http, "run")
        for path in ("/v1/stream", "/v1/runs/run/stream"):
            with httpx.stream("GET", service.url + path, timeout=LONG_S, trust_env=False) as answer:
                assert any(line == ": heartbeat" for line in answer.iter_lines())


def test_streams_end_with_the_service_without_delaying_its_end(database_url: str, start_service):
    service = start_service(database_url, REMOTELR_SHUTDOWN_TIMEOUT_S="300")
    service.wait_ready()
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http:
        put(http, "run")
    with ExitStack() as opened:
        listeners = [opened.enter_context(Listener(f"{service.url}/v1/stream")) for _ in range(10)]
        listeners += [opened.enter_context(Listener(f"{service.url}/v1/runs/run/stream")) for _ in range(10)]
        opened.enter_context(_deaf(service.url))
        took_s = service.end()
        items = [each.ended() for each in listeners]

    assert [1] * 20 == list(map(len, items))
    assert 0 == service.process.returncode
    # A second, as a rule; a stream that held it up would take the 300 above.
    assert took_s < 60


def test_a_stream_holds_no_thread_and_no_connection_to_the_database(service: Service):
    """
    `python -m benchmarks streams` measures the effect of 500 streams on reports; this is the reason.
    """
    put(service.http, "run")
    ctx = context_of(service)
    with ExitStack() as opened:
        opened.enter_context(_open(service.url, "/v1/stream"))
        wait_until(lambda: ctx.streams.count == 1)
        report(service.http, "run", 0)
        threads = threading.active_count()
        for path in ("/v1/stream", "/v1/runs/run/stream") * 100:
            opened.enter_context(_open(service.url, path))
        wait_until(lambda: ctx.streams.count == 201)
        wait_until(lambda: ctx.database.reads.pool.checkedout() == 0)  # type: ignore[attr-defined]

        assert threading.active_count() <= threads + 50, "asyncio.to_thread has a few, whatever is asked"
    wait_until(lambda: ctx.streams.count == 0)


def _train(url: str, run: str, epochs: int, is_new: bool = True) -> None:
    with httpx.Client(base_url=url, timeout=LONG_S, trust_env=False) as http:
        if is_new:
            put(http, run)
        for epoch in range(epochs):
            report(http, run, epoch)


def _run(service: Service, work: Any) -> Any:
    """The result of `work` in the event loop of the service."""
    loop = context_of(service).streams._loop
    assert loop is not None
    return asyncio.run_coroutine_threadsafe(work, loop).result(LONG_S)


def _entry(position: int) -> feed.Entry:
    what = feed.Stall(seq=position, attempt=1, epoch=0, reported_at=datetime.now(UTC), typical_epoch_s=1.0)
    return feed.Entry(
        run_id=1,
        run="run",
        experiment=None,
        tags="{}",
        status="running",
        position=position,
        content=what,
        created_at=what.reported_at,
    )


class _Holding:
    """A report that has its place in the order of all, and is not committed yet."""

    def __init__(self, service: Service, run: str, epoch: int) -> None:
        self._go_on = threading.Event()
        self._fails = False
        holds = threading.Event()

        def action(tx: Any) -> None:
            from remotelr import rules

            if self._go_on.is_set():
                return
            stored = tx.find(run)
            tx.append(
                stored, rules.report(stored.run, rules.Report(epoch=epoch, metrics={"val_loss": 1.0}), tx.log(run))
            )
            tx.flush()
            # psycopg sends flushed statements with the next query.
            tx.connection.exec_driver_sql("SELECT 1")
            holds.set()
            assert self._go_on.wait(LONG_S)
            if self._fails:
                raise ValueError("rolled back")

        loop = context_of(service).streams._loop

        assert loop is not None
        self._done = asyncio.run_coroutine_threadsafe(context_of(service).writer.submit(action, run), loop)
        assert holds.wait(LONG_S)

    def commit(self) -> None:
        self._go_on.set()
        self._done.result(LONG_S)

    def fail(self) -> None:
        self._fails = True
        self.commit()


class _open:  # noqa: N801  # used like a function
    """An open stream without a reader. small: with the smallest possible socket buffers."""

    def __init__(self, url: str, path: str, *, small: bool = False) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._socket = socket.socket()
        if small:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        self._socket.connect((host, int(port)))
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert self._socket.recv(12) == b"HTTP/1.1 200"

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _deaf(url: str) -> _open:
    return _open(url, "/v1/stream", small=True)
