"""A training job without a framework: a session that begins, reports and is killed as a test says.

Its clock is fixed, so no outcome depends on the speed of the machine.
"""

import random
from pathlib import Path

import pytest

from remotelr import Client
from remotelr._session.journal import Journal
from remotelr._session.session import Session
from remotelr._session.spool import Spool
from remotelr.testing import InMemoryService

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.97, "patience": 1, "cooldown": 1, "min_delta": 0.0}
PER_STEP = {
    "unit": "step",
    "schedule": {
        "type": "sequential",
        "milestones": [40],
        "schedules": [
            {"type": "linear", "initial_learning_rate": 0.01, "end_learning_rate": 0.1, "decay_steps": 40},
            PLATEAU,
        ],
    },
}
STEPS = 10
QUIET = pytest.mark.filterwarnings("ignore::remotelr.errors.RemoteLRWarning")


def stopped_clock() -> float:
    """A clock that never advances: no budget is used up, and no breaker pauses."""
    return 0.0


def losses(count: int) -> list[float]:
    rng = random.Random(7)
    return [round(1 / (1 + 0.05 * epoch) + rng.gauss(0, 0.05), 6) for epoch in range(count)]


class Job:
    """A training job: its service, its spool file, and the rates that it used. `start` begins a new process of it.

    lasting: the file stays when the run has ended. max_bytes: limit of the file's length.
    """

    def __init__(
        self, service: InMemoryService | None, spool: Path | None = None, policy=PLATEAU, *, lasting=False, **members
    ) -> None:
        self.service = service
        self.rates: dict[int, list[float]] = {}
        self.said: list[str] = []
        self.members = {"policy": policy, **members}
        self._spool = spool
        self._lasting = lasting

    def start(self, *, max_bytes: int = 2**20, total_epochs: int | None = None, **settings) -> "Job":
        client = None
        if self.service is not None:
            # A budget too short for a pause before a retry.
            client = Client(self.service.url, transport=self.service, timeout_s=0.05)
        journal = Journal(
            None if self._spool is None else Spool(self._spool, max_bytes=max_bytes), lasting=self._lasting
        )
        settings = {"clock": stopped_clock, **settings}
        self.session = Session(client, "job", self.members, journal=journal, say=self.said.append, **settings)
        self.session.open(initial_learning_rate=0.1, steps_per_epoch=STEPS, total_epochs=total_epochs)
        return self

    def die(self) -> None:
        """End the process as SIGKILL does: only the file and its lock are released."""
        if self.session._journal._spool is not None:
            self.session._journal._spool.close()

    def train(self, first: int, last: int, noise: float = 0.0) -> list[list[float]]:
        """Train the epochs from `first` to before `last`; returns the rates of all steps so far, by epoch."""
        measured = [loss + noise for loss in losses(last)]
        for epoch in range(first, last):
            self.session.begin(epoch, epoch * STEPS)
            steps = STEPS if self.session.per_step else 1
            self.rates[epoch] = [self.session.learning_rate(epoch, step) for step in range(steps)]
            self.session.renew_budget()
            self.session.report(
                epoch,
                {"val_loss": measured[epoch]},
                step=(epoch + 1) * STEPS if self.session.counts_steps else None,
                learning_rate=self.rates[epoch][0],
            )
        return [self.rates[epoch] for epoch in sorted(self.rates)]

    def train_offline(self, first: int, last: int) -> list[list[float]]:
        """Train these epochs during an outage of the service, which answers again afterwards."""
        assert self.service is not None
        self.service.away = True
        rates = self.train(first, last)
        self.service.away = False
        return rates


def trained_job(end: int, *args, **members) -> Job:
    """A started `Job(*args, **members)`, trained up to the epoch `end`."""
    job = Job(*args, **members).start()
    job.train(0, end)
    return job


def job_with_outage(begin: int, end: int, *args, **members) -> Job:
    """A `trained_job` up to the epoch `begin`, trained further during an outage up to `end`."""
    job = trained_job(begin, *args, **members)
    job.train_offline(begin, end)
    return job


def undisturbed(epochs: int, policy=PLATEAU) -> list[list[float]]:
    rates = Job(InMemoryService(), policy=policy).start().train(0, epochs)
    assert len({rate for each in rates for rate in each}) > 2
    return rates


def history(service: InMemoryService) -> list[tuple]:
    return [
        (event.epoch, event.payload["metrics"], event.payload.get("learning_rate"), event.notes)
        for event in service.events("job")
        if event.kind == "report" and event.superseded_by is None
    ]


def backup_of(service: InMemoryService) -> tuple:
    return service._runs["job"].run, list(service._runs["job"].log.events)


def restore(service: InMemoryService, backup: tuple) -> None:
    """Restore a backup of the service."""
    service._runs["job"].run, service._runs["job"].log.events = backup
