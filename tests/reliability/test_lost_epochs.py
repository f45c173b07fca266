"""A service that lost acknowledged epochs gets them again from the client, and continues the same curve.

`failures.md` F14, protocol a6: after a restored backup, or a failover to a standby that lagged behind.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from faults.databases import file_of, integrity
from faults.oracle import INITIAL, POLICY, losses, rates
from faults.service import Service

EPOCHS, SAVED, LOST = 100, 30, 50


def test_a_backup_twenty_epochs_old_costs_no_run_its_curve(
    sqlite_url: str, start_service: Callable[..., Service], tmp_path: Path, tell: Callable[[str], None]
):
    """
    The backup is taken while the service writes. Each trainer is rejected once.
    """
    service = start_service(sqlite_url)
    with service.client() as http:
        trainers = [_Trainer(http, f"run-{seed}", seed) for seed in range(8)]
        for epoch in range(SAVED):
            _each(trainers, epoch)
        backup = _backup(file_of(sqlite_url), tmp_path / "backup.db")
        for epoch in range(SAVED, LOST):
            _each(trainers, epoch)

    service.stop()
    _restore(backup, file_of(sqlite_url))
    service.start()
    with service.client() as http:
        for trainer in trainers:
            trainer.http = http
        for epoch in range(LOST, EPOCHS):
            _each(trainers, epoch)
        curves = [trainer.stored() for trainer in trainers]
    service.stop()
    tell(
        f"{len(trainers)} runs set back from epoch {LOST} to {SAVED}: "
        f"{sum(trainer.sent_again for trainer in trainers)} reports sent again, "
        f"{sum(trainer.refused for trainer in trainers)} refusals"
    )

    for trainer, curve in zip(trainers, curves, strict=True):
        assert rates(trainer.losses) == trainer.rates
        assert rates(trainer.losses) == curve
    assert {1} == {trainer.refused for trainer in trainers}
    assert "ok" == integrity(sqlite_url)


def test_an_attempt_that_knows_more_than_the_service_is_not_given_a_wrong_state(
    sqlite_url: str, start_service: Callable[..., Service], tmp_path: Path
):
    """
    F7: a job restarted from a checkpoint that the restored service does not know sends its epochs first.
    """
    service = start_service(sqlite_url)
    with service.client() as http:
        trainer = _Trainer(http, "a", 1)
        for epoch in range(10):
            trainer.train(epoch)
        backup = _backup(file_of(sqlite_url), tmp_path / "backup.db")
        for epoch in range(10, 20):
            trainer.train(epoch)
    service.stop()
    _restore(backup, file_of(sqlite_url))
    service.start()
    begin = {"key": "attempt-2", "epoch": 20, "last_seq": trainer.last_seq}
    with service.client() as http:
        trainer.http = http
        refused = http.post("/v1/runs/a/attempts", json=begin)
        trainer.send_again(refused.json()["epoch"])
        begun = http.post("/v1/runs/a/attempts", json=begin)

    assert (409, "server_behind", 10) == (refused.status_code, refused.json()["code"], refused.json()["epoch"])
    assert 200 == begun.status_code
    assert rates(trainer.losses[:20])[-1] == begun.json()["decision"]["learning_rate"]


class _Trainer:
    """A trainer that stores its reports, as the client does, and sends them again if the service lacks them."""

    def __init__(self, http: httpx.Client, key: str, seed: int) -> None:
        self.http = http
        self.key = key
        self.losses = losses(seed, EPOCHS)
        self.rates: list[float] = []
        self.last_seq = 0
        self.refused = 0
        self.sent_again = 0
        http.put(f"/v1/runs/{key}", json={"policy": POLICY, "initial_learning_rate": INITIAL}).raise_for_status()

    def train(self, epoch: int) -> None:
        answer = self.http.post(f"/v1/runs/{self.key}/reports", json={**self._body(epoch), "last_seq": self.last_seq})
        if answer.status_code == 409 and answer.json()["code"] == "server_behind":
            self.refused += 1
            self.send_again(answer.json()["epoch"])
            answer = self.http.post(f"/v1/runs/{self.key}/reports", json=self._body(epoch))
        decision = answer.raise_for_status().json()
        self.last_seq = decision["seq"]
        self.rates.append(decision["learning_rate"])

    def send_again(self, first: int) -> None:
        """The answered reports from `first` on."""
        missing = [self._body(epoch) for epoch in range(first, len(self.rates))]
        answers = self.http.post(f"/v1/runs/{self.key}/reports/batch", json={"reports": missing}).raise_for_status()
        self.sent_again += len(missing)
        answered = [answer["learning_rate"] for answer in answers.json()["answers"]]

        assert self.rates[first:] == answered

    def stored(self) -> list[float]:
        """The rates that the service has stored for this run."""
        page = self.http.get(f"/v1/runs/{self.key}/history", params={"limit": 200}).raise_for_status().json()
        return [row["next_learning_rate"] for row in page["reports"]]

    def _body(self, epoch: int) -> dict[str, Any]:
        return {"epoch": epoch, "metrics": {"val_loss": self.losses[epoch]}}


def _each(trainers: list[_Trainer], epoch: int) -> None:
    for trainer in trainers:
        trainer.train(epoch)


def _backup(file: Path, to: Path) -> Path:
    """A consistent copy of a database during writes."""
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)
    return to


def _restore(backup: Path, file: Path) -> None:
    for beside in ("-wal", "-shm"):
        file.with_name(file.name + beside).unlink(missing_ok=True)
    shutil.copy(backup, file)
