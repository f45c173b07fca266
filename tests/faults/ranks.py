"""Jobs of several ranks that post to any replica, twice, late, out of order, and from superseded attempts."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any

import httpx

from faults.oracle import INITIAL, POLICY, Plateau, loss_of

PAUSE_S = (0.01, 0.1)
JITTER_S = 0.01
DUPLICATES = 0.1
# The maximal wait for the decision of an epoch, whichever process is paused.
STUCK_S = 180.0


@dataclass
class Job:
    """One run of `ranks` ranks, and the answers to each of them.

    rates: epoch to every rate that any rank got for it. zombie_posts: rejections of superseded attempts.
    """

    key: str
    seed: int
    ranks: int
    epochs: int
    aggregate: str
    rates: dict[int, set[float]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    reports: int = 0
    slowest_s: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        noise = random.Random(self.seed + 1)
        self.weights = [100.0 - 30.0 * rank % 97 for rank in range(self.ranks)]
        self.losses = [[loss_of(epoch, noise) for _ in range(self.ranks)] for epoch in range(self.epochs)]

    @property
    def spec(self) -> dict[str, Any]:
        policy = {"schedule": POLICY, "aggregate": {"ranks": self.aggregate, "reduce": "weighted_mean"}}
        return {"policy": policy, "initial_learning_rate": INITIAL, "world_size": self.ranks}

    def wanted(self) -> dict[int, float]:
        """The rate that every rank must get for each epoch."""
        plateau = Plateau()
        return {epoch + 1: plateau.report(self._loss(epoch)) for epoch in range(self.epochs)}

    def _loss(self, epoch: int) -> float:
        values = self.losses[epoch]
        if self.aggregate == "rank0":
            return values[0]
        return fsum(value * weight for value, weight in zip(values, self.weights, strict=True)) / fsum(self.weights)

    def body(self, attempt: int, rank: int, epoch: int) -> dict[str, Any]:
        metrics = {"val_loss": self.losses[epoch][rank]}
        return {"epoch": epoch, "metrics": metrics, "attempt": attempt, "rank": rank, "weight": self.weights[rank]}

    def check(self) -> list[str]:
        """The faults: ranks with different rates, or with another rate than the oracle."""
        wrong = {
            epoch: (self.rates.get(epoch), rate)
            for epoch, rate in self.wanted().items()
            if self.rates.get(epoch) != {rate}
        }
        return self.faults + ([f"{self.key}: actual and expected {wrong}"] if wrong else [])


class Race:
    """Runs jobs against replicas. One per event loop.

    timeout_s: how long a rank waits for an answer before it asks another replica.
    """

    def __init__(self, http: httpx.AsyncClient, urls: Sequence[str]) -> None:
        self._http = http
        self._urls = urls

    async def run(self, job: Job, *, preempted_at: int | None = None) -> None:
        """Train to the end. At `preempted_at` another attempt begins, two epochs back; the first is a zombie then."""
        await self._until(job, "PUT", "", job.spec)
        await self._attempt(job, "attempt-1", 0)
        if preempted_at is None:
            await self._live(job, attempt=1, epochs=range(job.epochs))
            return
        await self._live(job, attempt=1, epochs=range(preempted_at))
        first = max(0, preempted_at - 2)
        async with asyncio.TaskGroup() as group:
            taken_over = asyncio.Event()
            for rank in range(job.ranks):
                group.create_task(self._zombie(job, rank, preempted_at - 1, taken_over))
            await self._attempt(job, "attempt-2", first)
            taken_over.set()
            group.create_task(self._live(job, attempt=2, epochs=range(first, job.epochs)))

    async def _live(self, job: Job, attempt: int, epochs: range) -> None:
        async with asyncio.TaskGroup() as group:
            for rank in range(job.ranks):
                group.create_task(self._rank(job, attempt, rank, epochs))

    async def _rank(self, job: Job, attempt: int, rank: int, epochs: range) -> None:
        async with asyncio.TaskGroup() as group:
            for epoch in epochs:
                await asyncio.sleep(job.random.uniform(0, JITTER_S))
                began = time.monotonic()
                await self._report(job, attempt, rank, epoch)
                job.slowest_s = max(job.slowest_s, time.monotonic() - began)
                job.reports += 1
                if job.random.random() < DUPLICATES:
                    # Beside what comes next, so it overtakes or is overtaken.
                    again = job.random.randrange(epochs.start, epoch + 1)
                    group.create_task(self._report(job, attempt, rank, again))

    async def _report(self, job: Job, attempt: int, rank: int, epoch: int) -> None:
        answer = await self._until(job, "POST", "/reports", job.body(attempt, rank, epoch), wait=True)
        if answer["epoch"] != epoch + 1:
            job.faults.append(f"{job.key}: rank {rank} reported epoch {epoch} and was answered {answer}")
        job.rates.setdefault(epoch + 1, set()).add(answer["learning_rate"])

    async def _attempt(self, job: Job, name: str, epoch: int) -> None:
        await self._until(job, "POST", "/attempts", {"key": name, "epoch": epoch})

    async def _zombie(self, job: Job, rank: int, epoch: int, taken_over: asyncio.Event) -> None:
        """A rank of the superseded attempt: after the acknowledgement of the new attempt every report is rejected.

        It reports ten times, and until one rejection: the new attempt may begin late.
        """
        deadline, tries, refused = time.monotonic() + STUCK_S, 0, 0
        while (tries < 10 or not refused) and time.monotonic() < deadline:
            tries += 1
            surely = taken_over.is_set()
            answer = await self._try(job, "POST", "/reports", job.body(1, rank, epoch))
            if answer is None or answer.status_code == 503:
                continue
            stale = answer.status_code == 409 and answer.json()["code"] == "stale_attempt"
            if surely and not stale:
                job.faults.append(f"{job.key}: a superseded attempt was answered {answer.status_code} {answer.text}")
            if stale:
                refused += 1
                job.seen["zombie refused"] += 1
            await asyncio.sleep(job.random.uniform(*PAUSE_S))

    async def _until(
        self, job: Job, method: str, path: str, body: dict[str, Any], *, wait: bool = False
    ) -> dict[str, Any]:
        """The answer to the same bytes, sent until there is one; 202 is none yet."""
        deadline, tries = time.monotonic() + STUCK_S, 0
        while time.monotonic() < deadline:
            tries += 1
            answer = await self._try(job, method, path, body)
            if answer is not None and answer.status_code in (200, 201):
                return answer.json()
            if answer is not None and answer.status_code not in (202, 503):
                raise AssertionError(f"{method} {job.key}{path} {body}: {answer.status_code} {answer.text}")
            await asyncio.sleep(job.random.uniform(*PAUSE_S) * min(tries, 5))
        raise AssertionError(f"{job.key} is stuck: {method} {path} {body} was not answered in {STUCK_S:g} s")

    async def _try(self, job: Job, method: str, path: str, body: dict[str, Any]) -> httpx.Response | None:
        url = f"{job.random.choice(self._urls)}/v1/runs/{job.key}{path}"
        headers = {"content-type": "application/json"}
        try:
            answer = await self._http.request(method, url, content=json.dumps(body), headers=headers)
        except httpx.TransportError as error:
            job.seen[type(error).__name__] += 1
            return None
        job.seen[str(answer.status_code)] += 1
        return answer


def race(urls: Sequence[str], jobs: Sequence[Job], *, timeout_s: float, preempt: Callable[[int], int | None]) -> None:
    """Run all jobs at once to their end. preempt: of a job's number, the epoch at which it is taken over."""

    async def all_at_once() -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        async with httpx.AsyncClient(timeout=timeout_s, limits=limits, trust_env=False) as http:
            runner = Race(http, urls)
            async with asyncio.TaskGroup() as group:
                for number, job in enumerate(jobs):
                    group.create_task(runner.run(job, preempted_at=preempt(number)))

    asyncio.run(all_at_once())
