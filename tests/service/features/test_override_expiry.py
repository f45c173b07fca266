"""Overrides that hold until a time: expired once, by the database's clock."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from remotelr.rules import Until
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import runs
from remotelr_service.features.training import override_expiry
from support.fixtures.processes import Process, damage

PAST = Until(time="2020-01-01T00:00:00+00:00")
FAR = Until(time="2100-01-01T00:00:00+01:00")


def begun(process: Process, key: str = "run") -> None:
    process.put(key)
    process.attempt(key, "first", 0)


def look(process: Process) -> None:
    process.ask(override_expiry.expire_due_overrides(process.writer, process.reads))


def kinds(process: Process, key: str = "run") -> list[Any]:
    return [event.payload["type"] for event in process.events(key) if event.kind == "command"]


def held(process: Process) -> list[str]:
    with reading(process.reads) as connection:
        return runs.list_expired_overrides(connection, 100)


@pytest.mark.parametrize("mode", ["pin", "one_shot"])
def test_a_rate_is_held_until_its_time_and_no_longer(process: Process, mode: str):
    begun(process)
    until = datetime.now(UTC) + timedelta(hours=1)
    process.command("run", "set_learning_rate", 0.3, mode=mode, until=Until(time=until.isoformat()))
    before = process.report("run", 0, 1.0).learning_rate
    process.command("run", "release")
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    process.command("run", "set_learning_rate", 0.3, mode=mode, until=Until(time=soon.isoformat()))
    while datetime.now(UTC) < soon + timedelta(seconds=0.1):
        time.sleep(0.05)
    after = process.report("run", 1, 1.0).learning_rate

    assert (0.3, 1.0) == (before, after)
    assert process.replayed("run") == process.stored_run("run")


def test_the_periodic_check_expires_an_override_once(process: Process):
    begun(process)
    process.command("run", "set_learning_rate", 0.3, until=PAST, actor="ada")
    due = held(process)
    look(process)
    look(process)
    last = process.events("run")[-1]

    assert (["run"], []) == (due, held(process))
    assert ["set_learning_rate", "release"] == kinds(process)
    assert {"type": "release", "only": "pin", "actor": "remotelr", "reason": "until"} == last.payload
    assert process.replayed("run") == process.stored_run("run")


def test_a_damaged_log_does_not_delay_the_overrides_of_other_runs(process: Process):
    for key in ("a", "b", "c"):
        begun(process, key)
        process.command(key, "set_learning_rate", 0.3, until=PAST)
    damage(process.url, "b")
    look(process)

    assert ["b"] == held(process)
    assert [["set_learning_rate", "release"]] * 2 == [kinds(process, key) for key in ("a", "c")]


def test_a_report_releases_an_expired_override_before_it_is_decided(process: Process):
    begun(process)
    process.command("run", "set_learning_rate", 0.3, until=PAST)

    assert 1.0 == process.report("run", 0, 1.0).learning_rate
    assert ["set_learning_rate", "release"] == kinds(process)


def test_a_command_after_an_expiry_applies_to_the_rate_without_the_override(process: Process):
    begun(process)
    process.command("run", "set_learning_rate", 0.3, until=PAST)
    process.command("run", "scale", factor=0.5)

    assert 0.5 == process.report("run", 0, 1.0).learning_rate


def test_a_time_that_is_far_is_not_due(process: Process):
    begun(process)
    process.command("run", "set_learning_rate", 0.3, until=FAR)
    look(process)

    assert 0.3 == process.report("run", 0, 1.0).learning_rate
    assert ["set_learning_rate"] == kinds(process)


@pytest.mark.parametrize("ending", ["release", "pin", "finish"])
def test_an_override_that_was_released_does_not_expire(process: Process, ending: str):
    begun(process)
    process.command("run", "set_learning_rate", 0.3, until=FAR)
    match ending:
        case "release":
            process.command("run", "release")
        case "pin":
            process.command("run", "set_learning_rate", 0.2)
        case _:
            process.finish("run", "completed")
    with reading(process.reads) as connection:
        stored = runs.find_run(connection, "run")

    assert stored is not None
    assert stored.override_expires_at is None


def test_concurrent_checks_of_replicas_expire_an_override_once(
    postgres_url: str, start_process: Callable[..., Process]
):
    here, there = start_process(postgres_url), start_process(postgres_url)
    for number in range(5):
        begun(here, f"run-{number}")
        here.command(f"run-{number}", "set_learning_rate", 0.3, until=PAST)

        async def both() -> None:
            await asyncio.gather(
                *(override_expiry.expire_due_overrides(each.writer, each.reads) for each in (here, there))
            )

        here.ask(both())
        look(here)

    assert [["set_learning_rate", "release"]] * 5 == [kinds(here, f"run-{number}") for number in range(5)]
