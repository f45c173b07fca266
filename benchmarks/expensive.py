"""The cost of expensive policies for the other runs: their reports/s beside the worst report, and the worst preview.

The worst policy is a chain that is as close to the budget of `remotelr.rules.policy.cost` as it can be. Eight trainers
report to it, with a pause of 1 s after a 503, or four clients ask for the longest preview of it without a pause.
"""

import contextlib
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.servers import Server, database, service
from benchmarks.table import Line, at_least, interleaved, ratio
from remotelr.rules import policy_from_json
from remotelr.rules.policy.cost import MAX_COST, cost_of
from remotelr_service.evaluation import evaluator

CONNECTIONS = 64
TRAINERS = 8
PREVIEWS = 4
# Epochs between two reports, so that a recursive formula is evaluated as far as it looks ahead.
JUMP = 20_000
SETTLE_S = 5.0
_NUMBERS = itertools.count()


def measure(folder: Path, server: str, *, seconds: float, rounds: int) -> Iterator[Line]:
    """server: the URL of a PostgreSQL."""
    policy = worst_policy()
    cost = cost_of(policy_from_json(policy).schedule)
    preview = {"policy": policy, "initial_learning_rate": 0.1, "count": evaluator.MAX_COST // cost}
    with ExitStack() as stack:
        services = {
            "SQLite": stack.enter_context(service(f"sqlite:///{folder}/expensive.db", folder)),
            "PostgreSQL": stack.enter_context(service(stack.enter_context(database(server, "expensive")), folder)),
        }
        for name, each in services.items():
            counts: dict[str, list[int]] = {"reports": [], "previews": []}
            found = interleaved(
                {
                    "alone": _reports_per_second(each, seconds),
                    "reports": _reports_per_second(
                        each, seconds, [_reporter(each, policy)] * TRAINERS, counts["reports"]
                    ),
                    "previews": _reports_per_second(
                        each, seconds, [_previewer(each, preview, 2 * seconds)] * PREVIEWS, counts["previews"]
                    ),
                },
                rounds,
            )
            alone = statistics.median(found["alone"])
            for disturbance in ("reports", "previews"):
                yield at_least(
                    f"reports/s beside the worst {disturbance} : alone, {name}",
                    f"{statistics.median(found[disturbance]):,.0f}/s beside {alone:,.0f}/s, "
                    f"{cost:,} parts a position, {statistics.median(counts[disturbance]):.0f} {disturbance} answered",
                    ratio(found[disturbance], found["alone"]),
                    0.9,
                )


def worst_policy() -> dict[str, Any]:
    """The document of a chain of recursive formulas and noise that costs as much as a policy may."""
    recursive = {"type": "expression", "initial_learning_rate": 1.0, "expression": "lr * cos(0)"}
    noisy = {"type": "constant", "learning_rate": 1.0, "noise": {"pct": 0.01}}
    schedules = [recursive]
    for node in (recursive, noisy):
        while cost_of(policy_from_json(_chain(schedules)).schedule) + _own_cost(node) <= MAX_COST:
            schedules.append(node)
    return _chain(schedules)


def _chain(schedules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "chained", "initial_learning_rate": 0.1, "schedules": schedules}


def _own_cost(node: dict[str, Any]) -> int:
    return cost_of(policy_from_json(_chain([node])).schedule)


def _reports_per_second(
    server: Server, seconds: float, disturb: Sequence[Callable[[], int]] = (), counts: list[int] | None = None
) -> Callable[[], float]:
    """A measure of the other runs. disturb: called without a pause meanwhile; each gives how many were answered."""

    def one() -> float:
        run = f"x{next(_NUMBERS)}-{{}}"
        server.create_runs(run, CONNECTIONS)
        over = threading.Event()
        answered: list[int] = []

        def go_on(once: Callable[[], int]) -> None:
            while not over.is_set():
                answered.append(once())

        threads = [threading.Thread(target=go_on, args=(each,), daemon=True) for each in disturb]
        for thread in threads:
            thread.start()
        if threads:
            # Runs are created, and the share of expensive runs is used, before the measurement begins.
            time.sleep(SETTLE_S)
        try:
            return server.load(run, connections=CONNECTIONS, seconds=seconds).per_second
        finally:
            over.set()
            for thread in threads:
                thread.join()
            if counts is not None:
                counts.append(sum(answered))

    return one


def _reporter(server: Server, policy: dict[str, Any]) -> Callable[[], int]:
    """Reports the next epoch of a run of its own each time it is called; each thread has its run."""
    local = threading.local()

    def once() -> int:
        try:
            if not hasattr(local, "path"):
                path = f"/v1/runs/worst-{next(_NUMBERS)}"
                server.ask("PUT", path, {"policy": policy, "initial_learning_rate": 0.1})
                server.ask("POST", f"{path}/attempts", {"key": "bench", "epoch": 0})
                local.path, local.epoch = path, 0
            server.ask("POST", f"{local.path}/reports", {"epoch": local.epoch, "metrics": {"val_loss": 1.0}})
            local.epoch += JUMP
        except RuntimeError:
            # 503: the share of expensive runs is used. Retry-After says 1 s at least.
            time.sleep(1.0)
            return 0
        return 1

    return once


def _previewer(server: Server, document: dict[str, Any], timeout_s: float) -> Callable[[], int]:
    """Asks for the preview each time it is called. It hangs up after timeout_s seconds, which ends the evaluation."""

    def once() -> int:
        with contextlib.suppress(RuntimeError, OSError):
            server.ask("POST", "/v1/policies/preview", document, timeout_s)
            return 1
        return 0

    return once
