"""A training loop of the user's own, with everything that the adapters for frameworks have."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from remotelr._http.transport import Transport
from remotelr._session.identity import ProcessIdentity
from remotelr._session.session import OnUnreachable
from remotelr._session.setup import set_up
from remotelr._training.policy_argument import document_of
from remotelr._training.ranks import Ranks
from remotelr._training.training import Reduce, Training
from remotelr.client import OnConflict
from remotelr.rules import Decision, Policy


def training(
    url: str | None = None,
    run: str | None = None,
    *,
    policy: Policy | Mapping[str, Any],
    initial_learning_rate: float | None = None,
    total_epochs: int | None = None,
    steps_per_epoch: int | None = None,
    experiment: str | None = None,
    tags: Mapping[str, str] | None = None,
    on_conflict: OnConflict = "error",
    on_unreachable: OnUnreachable = "local",
    timeout_s: float = 5.0,
    live: bool = False,
    state_file: str | os.PathLike[str] | None = None,
    spool_dir: str | os.PathLike[str] | None = None,
    checkpoint: Callable[[int], Any] | None = None,
    ranks: Ranks | None = None,
    reduce: Reduce = "rank0",
    token: str | None = None,
    allow_http: bool = False,
    verify: Any = True,
    headers: Mapping[str, str] | None = None,
    transport: Transport | None = None,
    verbose: bool = True,
) -> "TrainingLoop":
    """The training of run `run` in a loop of the user's own; a context manager that ends the run.

    >>> import remotelr
    >>> from remotelr.testing import InMemoryService
    >>> service = InMemoryService()
    >>> rates = []
    >>> with remotelr.training(
    ...     service.url, "mnist-7", policy={"type": "exponential", "decay_steps": 1, "decay_rate": 0.5},
    ...     initial_learning_rate=0.1, total_epochs=3, transport=service,
    ... ) as training:
    ...     for epoch in training.epochs():
    ...         rates.append(training.learning_rate())
    ...         training.report(val_loss=1 / (1 + epoch))
    >>> rates
    [0.1, 0.05, 0.025]

    While the service is unreachable, the same rules decide in this process, and a file keeps the reports until the
    service answers again. `Client` and `Run` are the plain REST layer, which raises ServiceUnreachable instead.

    url: address of the service; by default `REMOTELR_URL`. Without either, the rules decide in this process alone.
    run: the run's key, unique per training job; by default `REMOTELR_RUN`.
    initial_learning_rate: of the policy, if it names none. total_epochs, steps_per_epoch: of the run, if known.
    checkpoint: a function that loads the checkpoint of the end of an epoch (0-based), for a guard that rolls back.
    ranks: the processes of a distributed training, for example `remotelr.torch.TorchRanks()`; by default one.
    The other arguments are those of `remotelr.keras.RemoteLR` and `remotelr.torch.RemoteLR`.

    Raises InvalidPolicy, TypeError and ValueError here. Entering the context raises ServiceRefused; without a service
    PolicyConflict.
    """
    if live and ranks is not None and ranks.count > 1:
        raise ValueError(f"live=True needs a single process, got {ranks.count} ranks: they would differ in an epoch")
    setup = set_up(
        url,
        run,
        ProcessIdentity(),
        on_unreachable=on_unreachable,
        live=live,
        state_file=state_file,
        spool_dir=spool_dir,
        timeout_s=timeout_s,
        token=token,
        allow_http=allow_http,
        verify=verify,
        headers=headers,
        transport=transport,
    )
    members = {"policy": document_of(policy), "experiment": experiment, "tags": tags, "on_conflict": on_conflict}
    core = Training(setup, members, ranks=ranks, reduce=reduce, load=checkpoint, say=_print if verbose else _log)
    return TrainingLoop(
        core,
        initial_learning_rate=initial_learning_rate,
        total_epochs=total_epochs,
        steps_per_epoch=steps_per_epoch,
    )


class TrainingLoop:
    """A training loop of the user's own; made by `remotelr.training`.

    epoch: the present epoch (0-based); None outside of `epochs`. decision: the newest decision.
    stopped: the training must end. stop_reason: why, as a clause.
    """

    def __init__(self, training: Training, **lengths: Any) -> None:
        self._training = training
        self._lengths = lengths
        self._steps_per_epoch: int | None = lengths["steps_per_epoch"]
        self._initial = lengths["initial_learning_rate"]
        self._step = 0
        self._used: float | None = None
        self._is_reported = False
        self.epoch: int | None = None

    def __enter__(self) -> Self:
        self._training.open(**self._lengths)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._training.finish()
        else:
            self._training.abandon()

    def epochs(self, first: int = 0, *, step: int | None = None) -> Iterator[int]:
        """The epochs to train, 0-based: from `first` until `total_epochs`, or until the training must end.

        first: the first epoch that the checkpoint of this process does not contain.
        step: optimizer steps before it; by default `first` * `steps_per_epoch`.

        Raises ValueError where an epoch was not reported.
        """
        self._step = first * (self._steps_per_epoch or 0) if step is None else step
        total = self._lengths["total_epochs"]
        self._training.begin(first, self._step)
        number = first
        while not self.stopped and (total is None or number < total):
            self._training.roll_back(number)
            self.epoch, self._used, self._is_reported = number, None, False
            yield number
            if not self._is_reported:
                raise ValueError(f"epoch {number} was not reported: call training.report(...) at its end")
            number += 1
        self.epoch = None

    def learning_rate(self, step: int = 0) -> float:
        """The rate of the present epoch `step` optimizer steps after its beginning.

        Raises ValueError outside of `epochs`.
        """
        rate = self._training.learning_rate(self._present, step)
        if rate is None:
            # The service is away and on_unreachable="hold", or `REMOTELR_MODE` is `disabled`.
            rate = self._used if self._used is not None else self._held()
        if self._used is None:
            self._used = rate
        return rate

    def momentum(self, step: int = 0) -> float | None:
        """The momentum of the same step; None if the policy has none."""
        return self._training.momentum(self._present, step)

    def apply_live_commands(self) -> bool:
        """With `live`: apply the commands received meanwhile; returns True if the rate or `stopped` changed."""
        return self._training.apply_live_commands()

    def report(
        self, metrics: Mapping[str, Any] | None = None, *, steps: int | None = None, weight: float = 1.0, **named: Any
    ) -> None:
        """Report the present epoch, once. metrics and named: by name, as `report(val_loss=0.3)`.

        steps: optimizer steps of the epoch; by default `steps_per_epoch`. weight: of this rank in reduce="mean".

        Raises ValueError outside of `epochs`, and for a second report of an epoch.
        """
        epoch = self._present
        if self._is_reported:
            raise ValueError(f"epoch {epoch} was reported already: report each epoch once")
        self._step += (self._steps_per_epoch or 0) if steps is None else steps
        self._training.report(
            epoch, {**(metrics or {}), **named}, step=self._step, learning_rate=self._used, weight=weight
        )
        self._is_reported = True

    @property
    def decision(self) -> Decision | None:
        return self._training.decision

    @property
    def stopped(self) -> bool:
        return self._training.ended

    @property
    def stop_reason(self) -> str:
        return self._training.stop_reason

    @property
    def _present(self) -> int:
        if self.epoch is None:
            raise ValueError("no epoch is trained: use `for epoch in training.epochs():`")
        return self.epoch

    def _held(self) -> float:
        decision = self._training.decision
        rate = self._initial if decision is None else decision.learning_rate
        if rate is None:
            raise ValueError("no learning rate is known: give initial_learning_rate=")
        return float(rate)


def _print(message: str) -> None:
    print(message, flush=True)  # noqa: T201 - as trainers print


def _log(message: str) -> None:
    logging.getLogger("remotelr").info(message)
