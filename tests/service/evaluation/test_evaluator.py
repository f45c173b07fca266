"""Long evaluations run in a process of their own: with the results of this one, bounded, and killed on time."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from remotelr.rules import InvalidPolicy, policy_from_json, preview
from remotelr_service.errors import EvaluationTooLong, Overloaded
from remotelr_service.evaluation.evaluator import Evaluator, check_cost

NOISY = {"type": "cosine", "initial_learning_rate": 0.1, "decay_steps": 90, "noise": {"pct": 0.01}}


def arguments(policy: dict[str, Any], count: int) -> dict[str, Any]:
    return {"policy": policy, "initial_learning_rate": 0.1, "count": count}


def test_the_process_gives_the_curve_that_this_process_gives():
    async def both() -> list[float]:
        evaluator = Evaluator(timeout_s=60)
        try:
            found: dict[str, Any] = await evaluator.run("preview", arguments(NOISY, 40))
        finally:
            await evaluator.close()
        return found["learning_rates"]

    assert list(preview(policy_from_json(NOISY), 0.1, 40).learning_rates) == asyncio.run(both())


def test_a_refusal_of_the_rules_is_raised_with_its_path():
    async def refused() -> None:
        evaluator = Evaluator(timeout_s=60)
        try:
            await evaluator.run("preview", arguments({"type": "cosine"}, 4))
        finally:
            await evaluator.close()

    with pytest.raises(InvalidPolicy) as error:
        asyncio.run(refused())

    assert "decay_steps" in error.value.path


@pytest.mark.parametrize("limit", ["_cpu_limit_s", "_timeout_s"])
def test_an_evaluation_that_takes_too_long_is_ended_and_the_next_one_is_answered(limit: str):
    async def both() -> list[float]:
        evaluator = Evaluator(timeout_s=60)
        try:
            await evaluator.run("preview", arguments(NOISY, 1))
            setattr(evaluator, limit, 0.3)
            with pytest.raises(EvaluationTooLong, match=r"longer than 0\.3 s"):
                await evaluator.run("preview", arguments(NOISY, 100_000))
            setattr(evaluator, limit, 60)
            found: dict[str, Any] = await evaluator.run("preview", arguments(NOISY, 2))
        finally:
            await evaluator.close()
        return found["learning_rates"]

    assert 2 == len(asyncio.run(both()))
    assert [] == workers()


def test_a_caller_that_goes_away_ends_its_evaluation():
    async def gone() -> None:
        evaluator = Evaluator(timeout_s=60)
        try:
            task = asyncio.ensure_future(evaluator.run("preview", arguments(NOISY, 100_000)))
            await asyncio.to_thread(until, workers)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

            assert [] == workers()
        finally:
            await evaluator.close()

    asyncio.run(gone())


def test_more_evaluations_than_the_queue_holds_are_rejected_at_once():
    async def crowded() -> None:
        evaluator = Evaluator(timeout_s=60, queue_size=1)
        try:
            first = asyncio.ensure_future(evaluator.run("preview", arguments(NOISY, 10)))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="1 long evaluations wait"):
                await evaluator.run("preview", arguments(NOISY, 10))
            await first
        finally:
            await evaluator.close()

    asyncio.run(crowded())


def test_more_positions_than_any_evaluation_may_have_are_refused_with_the_number_that_may_be():
    assert check_cost(100, 100, "count")
    assert not check_cost(100_000, 1_000, "count")
    with pytest.raises(EvaluationTooLong, match=r"count: 100,000 positions of 200,000 .* evaluate 2,000 positions"):
        check_cost(100_000, 200_000, "count")


def until(found: Callable[[], Any]) -> None:
    while not found():
        time.sleep(0.01)


def workers() -> list[int]:
    """The evaluation processes of this process."""
    return [
        each.pid
        for each in psutil.Process(os.getpid()).children()
        if each.status() != psutil.STATUS_ZOMBIE and "remotelr_service.evaluation.worker" in each.cmdline()
    ]
