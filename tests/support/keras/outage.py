"""A real service that is killed and started again during a real fit, on a machine of any load."""

from dataclasses import replace
from typing import Any

import keras

from support.jobs import stopped_clock

# The budget of an epoch while the service is down, and while it runs but may be slow.
HURRIED_S, PATIENT_S = 0.3, 60.0


class Outage(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Kills the service before the epoch `killed` and starts it before `started`; precedes `remote`.

    The breaker of `remote` does not pause, because its clock stands still.
    """

    def __init__(self, service: Any, remote: Any, *, killed: int | None = None, started: int | None = None) -> None:
        super().__init__()
        self._service, self._remote = service, remote
        self._killed, self._started = killed, started
        remote._setup = replace(remote._setup, clock=stopped_clock)

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
