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
    say = _print if verbose else _log
    core = Training(setup, members, ranks=ranks, reduce=reduce, load=checkpoint, say=say)
    return TrainingLoop(
        core,
        _unsaid if ranks is not None and ranks.rank != 0 else say,
        initial_learning_rate=initial_learning_rate,
        total_epochs=total_epochs,
        steps_per_epoch=steps_per_epoch,
    )


class TrainingLoop:
    """A training loop of the user's own; made by `remotelr.training`.

    epoch: the present epoch (0-based); None outside of `epochs`. decision: the newest decision.
    stopped: the training must end. stop_reason: why, as a clause.
    """

    def __init__(self, training: Training, say: Callable[[str], None], **lengths: Any) -> None:
        self._training = training
        self._say = say
        self._lengths = lengths
        self._steps_per_epoch: int | None = lengths["steps_per_epoch"]
        self._initial = lengths["initial_learning_rate"]
        self._step = 0
        self._first: float | None = None
        self._used: float | None = None
        self._newest: float | None = None
        self._is_open = self._is_begun = self._is_reported = False
        self.epoch: int | None = None

    def __enter__(self) -> Self:
        self._training.open(**self._lengths)
        self._is_open, self._is_begun, self.epoch = True, False, None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_open, self.epoch = False, None
        if kind is None:
            self._training.finish()
        else:
            self._training.abandon()

    def epochs(self, first: int = 0, *, step: int | None = None) -> Iterator[int]:
        """The epochs to train, 0-based: from `first` until `total_epochs`, or until the training must end.

        first: the first epoch that the checkpoint of this process does not contain.
        step: optimizer steps before it; by default those of the run, else `first` * `steps_per_epoch`.

        Raises ValueError outside of the context, for a second call in it, and where an epoch was not reported.
        """
        if not self._is_open:
            raise ValueError("the training is not open: use `with remotelr.training(...) as training:`")
        if self._is_begun:
            raise ValueError("the epochs were begun already: use a new `with remotelr.training(...)` to train again")
        self._is_begun = True
        self._step = first * (self._steps_per_epoch or 0) if step is None else step
        total = self._lengths["total_epochs"]
        self._training.begin(first, self._step)
        known = self.decision
        if step is None and known is not None and known.epoch == first and known.step is not None:
            self._step = known.step
        number = first
        while not self.stopped and (total is None or number < total):
            self._training.roll_back(number)
            self.epoch, self._is_reported = number, False
            self._first = self._used = None
            yield number
            self._check_reported(number)
            number += 1
        self.epoch = None
        if self.stopped:
            self._say(f"RemoteLR: training ends before epoch {number}: {self.stop_reason}.")

    def learning_rate(self, step: int = 0) -> float:
        """The rate of the present epoch `step` optimizer steps after its beginning.

        Without a decision for the epoch, the newest rate: the service is unreachable with on_unreachable="hold" or
        "raise", or `REMOTELR_MODE` is `disabled`.

        Raises ValueError outside of `epochs`.
        """
        rate = self._training.learning_rate(self._present, step)
        if rate is None:
            rate = self._held()
        if step == 0 and self._first is None:
            self._first = rate
        self._used = self._newest = rate
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

        An epoch that a live command has stopped is not reported.

        steps: optimizer steps of the epoch; by default `steps_per_epoch`. weight: of this rank in reduce="mean", >= 0.

        Raises ValueError outside of `epochs`, for a second report of an epoch, and if a policy that counts steps does
        not get their number. With on_unreachable="raise" it raises ServiceUnreachable; the report is kept, and sent
        with the next one.
        """
        epoch = self._present
        if self._is_reported:
            raise ValueError(f"epoch {epoch} was reported already: report each epoch once")
        made = self._steps_per_epoch if steps is None else steps
        if made is None and self.decision is not None and self.decision.step is not None:
            raise ValueError("the policy counts optimizer steps: give report(steps=...) or steps_per_epoch=")
        # Also when the report raises: it is kept then, and a second one would be another.
        self._is_reported = True
        if self.stopped:
            return
        self._step += made or 0
        # With a policy that counts steps, the decided rate is that of the first step.
        used = self._first if self._training.per_step else self._used
        self._training.report(epoch, {**(metrics or {}), **named}, step=self._step, learning_rate=used, weight=weight)

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

    def _check_reported(self, epoch: int) -> None:
        # A live stop cuts the epoch short.
        if not (self._is_reported or self.stopped or self._training.is_disabled):
            raise ValueError(f"epoch {epoch} was not reported: call training.report(...) at its end")

    def _held(self) -> float:
        if self._newest is not None:
            return self._newest
        decision = self.decision
        rate = self._initial if decision is None else decision.learning_rate
        if rate is None:
            raise ValueError("no learning rate is known: give initial_learning_rate=")
        return float(rate)


def _print(message: str) -> None:
    print(message, flush=True)  # noqa: T201 - as trainers print


def _unsaid(_: str) -> None:
    """Another rank says it."""


def _log(message: str) -> None:
    logging.getLogger("remotelr").info(message)
