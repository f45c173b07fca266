"""Stalled runs: detected, marked, shown, and unmarked by the next report."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from remotelr_service.db.queries.stalls import Pace
from remotelr_service.features.runs import stalls
from remotelr_service.features.runs.runs import get_run, list_runs, put_run
from remotelr_service.features.runs.stalls import MIN_STALL_S, Stalls, stall_deadline, typical_epoch_s
from remotelr_service.http.context import Context
from support.fixtures.service import Service
from support.rules.run_histories import spec

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def decided(*seconds: float, attempt: int = 1) -> list[tuple[int, int, datetime]]:
    """Epochs 0, 1, 2… decided at these seconds, newest first."""
    return [(attempt, epoch, NOON + timedelta(seconds=at)) for epoch, at in enumerate(seconds)][::-1]


def test_an_epoch_usually_takes_the_median_of_the_last_ones():
    assert 10.0 == typical_epoch_s(decided(0, 10, 20, 500, 510))


def test_the_time_between_two_attempts_is_not_an_epoch():
    second = [(2, 5, NOON + timedelta(seconds=9_010)), (2, 4, NOON + timedelta(seconds=9_000))]

    assert 10.0 == typical_epoch_s([*second, *decided(0, 10, 20)])


def test_epochs_that_went_unreported_share_the_time():
    assert 10.0 == typical_epoch_s([(1, 5, NOON + timedelta(seconds=50)), *decided(0, 10, 20)])


@pytest.mark.parametrize("seconds", [(), (0,), (0, 10)])
def test_two_epochs_are_too_few_for_a_typical_duration(seconds: tuple[float, ...]):
    assert typical_epoch_s(decided(*seconds)) is None


@pytest.mark.parametrize(("every_s", "limit_s"), [(0.05, MIN_STALL_S), (60.0, 180.0), (3_600.0, 10_800.0)])
def test_three_times_the_usual_time_is_too_long_and_half_a_minute_never_is(every_s: float, limit_s: float):
    pace = Pace(NOON, decided(0, every_s, 2 * every_s, 3 * every_s))

    assert NOON + timedelta(seconds=limit_s) == stall_deadline(pace)


# On a database.


@pytest.fixture
def ctx(database_url: str) -> Iterator[Context]:
    opened = Context.open(database_url)
    yield opened
    opened.close()


def later(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def train(ctx: Context, key: str, first: int, count: int) -> None:
    from remotelr.rules import Report
    from remotelr_service.features.training.reports import report

    for epoch in range(first, first + count):
        await report(ctx.writer, key, Report(epoch=epoch, metrics={"val_loss": 1.0}))


def stalled(ctx: Context) -> list[str]:
    return [view.run.key for view in list_runs(ctx.reads, stalled=True).runs]


def test_a_stalled_run_is_marked_once_until_its_next_report(ctx: Context):
    async def story() -> None:
        one, another = Stalls(ctx.writer, ctx.reads), Stalls(ctx.writer, ctx.reads)
        await put_run(ctx.writer, "quiet", spec({"type": "constant"}))
        began = datetime.now(UTC)
        await train(ctx, "quiet", 0, 5)
        assert [] == await one.check()
        assert [] == await one.check(began + timedelta(seconds=MIN_STALL_S - 5))
        assert (["quiet"], 1) == (await one.check(later(MIN_STALL_S + 5)), one.count)
        assert get_run(ctx.reads, "quiet").stored.stalled_at is not None
        assert [] == await one.check(later(MIN_STALL_S + 10)) == await another.check(later(MIN_STALL_S + 10))
        assert ["quiet"] == stalled(ctx)
        await train(ctx, "quiet", 5, 1)
        assert ([], 0) == (await one.check(), one.count)
        assert ([], False) == (stalled(ctx), get_run(ctx.reads, "quiet").stored.stalled_at is not None)

    asyncio.run(story())


def test_concurrent_checks_of_replicas_mark_a_run_once(ctx: Context):
    async def story() -> list[list[str]]:
        await put_run(ctx.writer, "quiet", spec({"type": "constant"}))
        await train(ctx, "quiet", 0, 5)
        replicas = [Stalls(ctx.writer, ctx.reads) for _ in range(4)]
        return await asyncio.gather(*(each.check(later(60)) for each in replicas))

    assert [[], [], [], ["quiet"]] == sorted(asyncio.run(story()))


def test_a_finished_run_or_one_without_typical_epochs_is_not_stalled(ctx: Context):
    from remotelr_service.features.runs.runs import finish_run

    async def story() -> list[str]:
        for key in ("finished", "new"):
            await put_run(ctx.writer, key, spec({"type": "constant"}))
        await train(ctx, "finished", 0, 5)
        await finish_run(ctx.writer, "finished", "completed")
        return await Stalls(ctx.writer, ctx.reads).check(later(1e6))

    assert [] == asyncio.run(story())


def test_an_unchanged_run_is_not_read_again_before_its_stall_deadline(ctx: Context):
    """
    Ten thousand runs with hour-long epochs must not cost one query each in every check.
    """
    from sqlalchemy import event

    asked: list[str] = []

    async def story() -> None:
        await put_run(ctx.writer, "slow", spec({"type": "constant"}))
        await train(ctx, "slow", 0, 2)
        watching = Stalls(ctx.writer, ctx.reads)
        await watching.check(later(MIN_STALL_S + 1))
        event.listen(ctx.reads, "before_cursor_execute", lambda *call: asked.append(call[2]))
        await watching.check(later(MIN_STALL_S + 2))

    asyncio.run(story())

    assert not [statement for statement in asked if "events" in statement], asked


def test_a_check_reads_some_runs_and_the_next_check_continues(ctx: Context, monkeypatch: pytest.MonkeyPatch):
    """
    The cost of a check does not depend on the number of runs.
    """
    monkeypatch.setattr(stalls, "_RUNS_PER_CHECK", 2)
    keys = [f"run-{number}" for number in range(5)]

    async def story() -> list[list[str]]:
        for key in keys:
            await put_run(ctx.writer, key, spec({"type": "constant"}))
            await train(ctx, key, 0, 4)
        watching = Stalls(ctx.writer, ctx.reads)
        return [await watching.check(later(60)) for _ in range(4)]

    assert [keys[:2], keys[2:4], keys[4:], []] == asyncio.run(story())


def test_the_list_shows_and_filters_stalled_runs(shared_service: Service):
    http: httpx.Client = shared_service.http
    body = {"policy": {"type": "constant"}, "initial_learning_rate": 0.1, "experiment": "lively"}
    http.put("/v1/runs/lively", json=body).raise_for_status()

    assert http.get("/v1/runs/lively").json()["stalled"] is False
    assert [] == http.get("/v1/runs?stalled=true&experiment=lively").json()["runs"]
    listed = http.get("/v1/runs?stalled=false&experiment=lively").json()["runs"]
    assert ["lively"] == [run["run"] for run in listed]
    assert "\nremotelr_runs_stalled " in http.get("/metrics").text
