"""Many trainers at once, which retry until they are answered, repeat reports late, and check every answer.

Each trainer has a run and an oracle of its own. It records the first answer for every epoch. An answer
that differs from the oracle, or from an earlier answer, is recorded as a fault of the service.
"""

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from faults.oracle import INITIAL, POLICY, Plateau, loss_of

# How long a trainer pauses before it sends the same again; up to four times that when it goes on.
PAUSE_S = (0.02, 0.15)
# One report in ten is sent again: mostly one of the last three epochs, one time in five any.
DUPLICATES, WINDOW, MUCH_LATER = 0.1, 3, 0.2
# A trainer that is not answered for so long has found a service that does not come back.
PATIENCE_S = 300.0

Fault = str


class NotAnswered(Exception):
    """A trainer got no answer for `PATIENCE_S`."""


@dataclass
class Trainer:
    """One run and what its trainer knows of it.

    answers: the first decision acknowledged for each epoch. faults: the differences found, as text.
    seen: how often the service answered what, and how often it did not.
    """

    key: str
    seed: int
    answers: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.noise = random.Random(self.seed + 1)
        self.plateau = Plateau()

    async def train(self, ask: "Ask", go_on: Callable[[int], bool]) -> None:
        """Create the run, and report epochs as long as `go_on(epochs done)` says so."""
        await ask(self, "PUT", "", {"policy": POLICY, "initial_learning_rate": INITIAL})
        while go_on(len(self.answers)):
            await self._next(ask)
            if self.random.random() < DUPLICATES:
                await self._again(ask)

    def report(self, epoch: int) -> dict[str, Any]:
        """The body of the report, the same whenever it is sent."""
        return {"epoch": epoch, "metrics": {"val_loss": self.losses[epoch]}}

    async def _next(self, ask: "Ask") -> None:
        epoch = len(self.answers)
        self.losses.append(loss_of(epoch, self.noise))
        wanted = self.plateau.report(self.losses[epoch])
        answer = await ask(self, "POST", "/reports", self.report(epoch))
        self.answers.append(answer)
        if (answer["epoch"], answer["learning_rate"]) != (epoch + 1, wanted):
            self.faults.append(f"{self.key}: epoch {epoch} was answered {answer}, the oracle says {wanted!r}")

    async def _again(self, ask: "Ask") -> None:
        known = len(self.answers)
        first = 0 if self.random.random() < MUCH_LATER else max(0, known - WINDOW)
        epoch = self.random.randrange(first, known)
        answer = await ask(self, "POST", "/reports", self.report(epoch))
        self.duplicates += 1
        if {**answer, "replayed": False} != {**self.answers[epoch], "replayed": False}:
            self.faults.append(f"{self.key}: epoch {epoch} was answered {self.answers[epoch]}, and later {answer}")


class Ask:
    """Sends one request until it is answered. The body is the same bytes each time.

    urls: the replicas; each try goes to any of them.
    """

    def __init__(self, http: httpx.AsyncClient, urls: Sequence[str]) -> None:
        self._http = http
        self._urls = urls

    async def __call__(self, trainer: Trainer, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        content = json.dumps(body)
        began, tries = time.monotonic(), 0
        while time.monotonic() - began < PATIENCE_S:
            tries += 1
            url = f"{trainer.random.choice(self._urls)}/v1/runs/{trainer.key}{path}"
            try:
                answer = await self._http.request(
                    method, url, content=content, headers={"content-type": "application/json"}
                )
            except httpx.TransportError as error:
                trainer.seen[type(error).__name__] += 1
            else:
                trainer.seen[str(answer.status_code)] += 1
                if answer.status_code in (200, 201):
                    return answer.json()
                if answer.status_code != 503 or "retry-after" not in answer.headers:
                    raise AssertionError(f"{method} {url} {body} was answered {answer.status_code}: {answer.text}")
            await asyncio.sleep(trainer.random.uniform(*PAUSE_S) * min(tries, 4))
        raise NotAnswered(f"{trainer.key} was not answered for {PATIENCE_S:g} s: {dict(trainer.seen)}")


class Fleet:
    """Trainers in a thread of their own, until `stop`.

        with Fleet(urls, trainers=16) as fleet:
            fleet.reach(10)         # every trainer has ten epochs acknowledged
            ...                     # break something
        fleet.acknowledged, fleet.faults

    least: epochs that every trainer trains before it stops.
    """

    def __init__(
        self, urls: Sequence[str], *, trainers: int, seed: int = 0, least: int = 0, timeout_s: float = 30.0
    ) -> None:
        self.trainers = [Trainer(f"run-{seed}-{number}", seed * 1_000 + number) for number in range(trainers)]
        self._urls = urls
        self._least = least
        self._timeout_s = timeout_s
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="trainers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def go_on(self, reports: int) -> None:
        """Wait until every trainer has gone on by so many reports from where the first of them is."""
        self.reach(max(len(trainer.answers) for trainer in self.trainers) + reports)

    def reach(self, epochs: int, within_s: float = 180.0) -> None:
        """Wait until every trainer has so many epochs acknowledged."""
        deadline = time.monotonic() + within_s
        while min(len(trainer.answers) for trainer in self.trainers) < epochs:
            if not self._thread.is_alive():
                raise AssertionError("the trainers have ended") from self._error
            assert time.monotonic() < deadline, f"the trainers did not reach epoch {epochs}: {dict(self.seen)}"
            time.sleep(0.01)

    @property
    def acknowledged(self) -> int:
        """Reports that were answered with a decision, each epoch once."""
        return sum(len(trainer.answers) for trainer in self.trainers)

    @property
    def duplicates(self) -> int:
        return sum(trainer.duplicates for trainer in self.trainers)

    @property
    def faults(self) -> list[Fault]:
        return [fault for trainer in self.trainers for fault in trainer.faults]

    @property
    def seen(self) -> Counter[str]:
        return sum((trainer.seen for trainer in self.trainers), Counter())

    def summary(self, faults: list[Fault]) -> str:
        """What the trainers saw, as a part of a sentence."""
        return f"{self.acknowledged} reports acknowledged, {len(faults)} faults; seen {dict(self.seen)}"

    def check(self, http: httpx.Client) -> list[Fault]:
        """The faults of all logs: lost acknowledged reports, epochs counted twice, other rates."""
        return self.faults + [fault for trainer in self.trainers for fault in check_run(trainer, http)]

    def _work(self) -> None:
        try:
            asyncio.run(self._train())
        except BaseException as error:  # noqa: BLE001  # it is raised again where the fleet is waited for
            self._error = error

    async def _train(self) -> None:
        # The service closes connections that were idle for five seconds: a request at that moment would fail.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=len(self.trainers), keepalive_expiry=1.0)
        async with httpx.AsyncClient(timeout=self._timeout_s, limits=limits, trust_env=False) as http:
            ask = Ask(http, self._urls)
            async with asyncio.TaskGroup() as group:
                for trainer in self.trainers:
                    group.create_task(trainer.train(ask, self._go_on))

    def _go_on(self, done: int) -> bool:
        return done < self._least or not self._stop.is_set()


def check_run(trainer: Trainer, http: httpx.Client) -> list[Fault]:
    """The faults of the run's stored history, of its head, and of its log."""
    rows = pages(http, f"/v1/runs/{trainer.key}/history", "reports")
    run = read(http, f"/v1/runs/{trainer.key}")
    acknowledged = [(answer["seq"], answer["epoch"] - 1, answer["learning_rate"]) for answer in trainer.answers]
    kept = [(row["seq"], row["epoch"], row["next_learning_rate"]) for row in rows]
    faults = []
    if acknowledged != kept:
        lost, more = sorted(set(acknowledged) - set(kept)), sorted(set(kept) - set(acknowledged))
        faults.append(f"{trainer.key}: acknowledged but not kept {lost}, kept but never acknowledged {more}")
    if [row["metrics"]["val_loss"] for row in rows] != trainer.losses:
        faults.append(f"{trainer.key}: the losses kept are not those that were reported")
    plateau = trainer.plateau
    if (run["epoch"], run["learning_rate"]) != (plateau.reports, plateau.rate):
        faults.append(f"{trainer.key} is at {run['epoch']}, {run['learning_rate']}, the oracle at {plateau}")
    if run["decision"]["plateau"] != plateau.state:
        faults.append(f"{trainer.key} remembers {run['decision']['plateau']}, the oracle {plateau.state}")
    return faults


def read(http: httpx.Client, path: str, **asked: Any) -> dict[str, Any]:
    """The answer; the request is retried after a 503."""
    deadline = time.monotonic() + 60
    while (answer := http.get(path, params=asked)).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def pages(http: httpx.Client, path: str, rows: str) -> list[dict[str, Any]]:
    """Every row of a resource that comes in pages."""
    found: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = read(http, path, after=after, limit=200)
        found += page[rows]
        after = page["next"]
    return found
