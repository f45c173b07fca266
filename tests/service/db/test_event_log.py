"""The log in the database and the log in memory are one log: every question has the same answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remotelr.rules import Log, MemoryLog, RulesError
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import runs
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.db.writer.prefetch import list_counts, list_reported
from remotelr_service.db.writer.transaction import WriteTransaction
from support.fixtures.processes import Process
from support.rules.run_histories import PLATEAU, Story

KINDS: tuple[Any, ...] = ("created", "attempt", "report", "timeout", "command", "policy", "finished")
EPOCHS = range(-1, 9)
POLICIES = [
    None,
    {"schedule": PLATEAU, "aggregate": {"ranks": "quorum", "quorum": 2, "timeout_s": 1}},
]

happenings = st.lists(
    st.one_of(
        st.tuples(st.just("report"), st.integers(0, 6), st.sampled_from([1.0, 0.5]), st.integers(0, 2)),
        st.tuples(st.just("expire")),
        st.tuples(st.just("attempt"), st.integers(0, 6)),
        st.tuples(st.just("command"), st.sampled_from([0.5, 0.25])),
        st.tuples(st.just("put"), st.integers(1, 3)),
        st.tuples(st.just("finish")),
    ),
    max_size=20,
)
per_example = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(per_example, max_examples=40)
@given(policy=st.sampled_from(POLICIES), story=happenings)
def test_the_stored_log_answers_as_the_one_in_memory(process: Process, policy: Any, story: list[Any]):
    played = play(policy, story)
    key = store_story(process, played)
    with stored_log(process, key) as log:
        assert answers(played.log) == answers(log)


@settings(per_example, max_examples=40)
@given(
    policy=st.sampled_from(POLICIES),
    story=happenings,
    asked=st.sets(st.tuples(st.integers(0, 8), st.integers(0, 2)), min_size=1),
)
def test_prefetched_events_equal_the_events_of_the_log(
    process: Process, policy: Any, story: list[Any], asked: set[tuple[int, int]]
):
    played = play(policy, story)
    key = store_story(process, played)
    with reading(process.reads) as connection:
        stored = runs.find_run(connection, key)
        assert stored is not None
        log = EventLog(connection, stored)
        log.fill(asked, list_reported(connection, {stored.id: asked}))
        epochs = {epoch for epoch, _ in asked}
        for _, epoch, count in list_counts(connection, {stored.id: epochs}):
            log.fill_count(epoch, count)

    # The connection is closed: prefetched events are not read again.
    assert what_is_read(played.log, asked) == what_is_read(log, asked)


def what_is_read(log: Log, asked: set[tuple[int, int]]) -> list[Any]:
    found = [(log.report(*point), log.decided(point[0]), log.count(point[0])) for point in asked]
    return [nameless(answers) for answers in found]


@settings(per_example, max_examples=10)
@given(policy=st.sampled_from(POLICIES), story=happenings)
def test_a_log_sees_what_its_own_transaction_has_appended(process: Process, policy: Any, story: list[Any]):
    """
    The log is read after every event, while the database has not received the events before it.
    """
    played = play(policy, story)
    key = uuid4().hex

    def action(tx: WriteTransaction) -> list[Any]:
        memory, found = MemoryLog(), []
        for outcome in played.outcomes:
            append(tx, key, outcome)
            memory.append(outcome.event)
            found.append((answers(memory), answers(tx.log(key))))
        return found

    for expected, actual in process.ask(process.writer.submit(action, key)):
        assert expected == actual


class Recorded(Story):
    """A story that keeps every outcome."""

    def _take(self, outcome: Any) -> Any:
        if not hasattr(self, "outcomes"):
            self.outcomes: list[Any] = []
        if outcome.event is not None:
            self.outcomes.append(outcome)
        return super()._take(outcome)


def play(policy: dict[str, Any] | None, story: list[Any]) -> Recorded:
    played = Recorded(policy, world_size=3)
    for what, *details in story:
        try:
            match what, details:
                case "report", (epoch, value, rank):
                    played.report(epoch, value, rank=rank)
                case "expire", ():
                    played.expire()
                case "attempt", (epoch,):
                    played.attempt(epoch, gap=True)
                case "command", (factor,):
                    played.command("scale", factor, key=f"{played.run.seq} times {factor}")
                case "put", (patience,):
                    played.put({"type": "reduce_on_plateau", "patience": patience}, "replace", world_size=3)
                case _:
                    played.finish("completed")
        except RulesError:
            continue
    return played


def store_story(process: Process, played: Recorded) -> str:
    key = uuid4().hex

    def action(tx: WriteTransaction) -> None:
        for outcome in played.outcomes:
            append(tx, key, outcome)

    process.ask(process.writer.submit(action, key))
    return key


def append(tx: WriteTransaction, key: str, outcome: Any) -> None:
    """Store an outcome of the rules under the key of this test's run."""

    renamed = replace(outcome, run=replace(outcome.run, key=key))
    if outcome.event.kind == "created":
        tx.create(renamed, experiment=None, tags={})
    else:
        tx.append(tx.get(key), renamed)


@contextmanager
def stored_log(process: Process, key: str) -> Iterator[Log]:
    with reading(process.reads) as connection:
        stored = runs.find_run(connection, key)
        assert stored is not None
        yield EventLog(connection, stored)


def answers(log: Log) -> list[Any]:
    """The answers to every question a log can be asked, with the run's name left out."""
    keys = [event.key for event in log.since("attempt", 0)] + [event.key for event in log.since("command", 0)]
    seqs = range(1, len([event for kind in KINDS for event in log.since(kind, 0)]) + 2)
    found = [
        log.has_reports(),
        *(log.reports(epoch) for epoch in EPOCHS),
        *(log.report(epoch, rank) for epoch in EPOCHS for rank in range(3)),
        *(log.count(epoch) for epoch in EPOCHS),
        *(log.next_reported(epoch) for epoch in EPOCHS),
        *(log.decided(epoch) for epoch in EPOCHS),
        *(log.snapshot(epoch) for epoch in range(9)),
        *(log.keyed(kind, key) for kind in ("attempt", "command") for key in [*keys, "unknown"] if key is not None),
        *(log.since(kind, seq) for kind in KINDS for seq in (0, *seqs)),
        *(log.policy(seq) for seq in seqs),
    ]
    return [nameless(answer) for answer in found]


def nameless(answer: Any) -> Any:

    if isinstance(answer, list | tuple):
        return [nameless(each) for each in answer]
    if not is_dataclass(answer) or answer.decision is None:
        return answer
    return replace(answer, decision=replace(answer.decision, run=""))
