"""A real service that is killed and started again while a real fit runs, whatever else the machine has to do."""

from dataclasses import replace
from typing import Any

import keras

from support.jobs import stands_still

# What a boundary between epochs may cost while nobody is there, and while somebody is, who may be slow.
HURRIED_S, PATIENT_S = 0.3, 60.0


class Outage(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Kills the service before the epoch `killed` and starts it before `started`; stands in front of `remote`.

    The breaker of `remote` does not rest: its clock stands still.
    """

    def __init__(self, service: Any, remote: Any, *, killed: int | None = None, started: int | None = None) -> None:
        super().__init__()
        self._service, self._remote = service, remote
        self._killed, self._started = killed, started
        remote._setup = replace(remote._setup, clock=stands_still)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self._killed:
            self.kill()
        if epoch == self._started:
            self.start()

    def kill(self) -> None:
        self._service.kill()
        self._remote._session._service._budget.seconds = HURRIED_S

    def start(self) -> None:
        self._service.start()
        self._remote._session._service._budget.seconds = PATIENT_S
