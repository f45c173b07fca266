"""The callback: it sets the rates, reports the epochs, and carries out the decisions."""

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras

from remotelr._http.transport import Transport
from remotelr._session.identity import ProcessIdentity
from remotelr._session.session import OnUnreachable, Session
from remotelr._session.setup import set_up
from remotelr.client import FinalStatus, OnConflict
from remotelr.errors import warn
from remotelr.keras.adopt import adopt, first_rate, replace_rate
from remotelr.keras.checkpoints import Checkpoints, CheckpointSource
from remotelr.keras.messages import say, say_command, say_reduction, say_rollback, say_setting, say_stop
from remotelr.keras.momentum import move_momentum
from remotelr.keras.optimizers import (
    batches_of,
    batches_per_step_of,
    check_settable,
    innermost,
    optimizers_of,
    rate_of,
    rates_by_name,
    reset_non_finite,
    updates_of,
)
from remotelr.keras.policy_argument import policy_of
from remotelr.keras.progress import EpochProgress
from remotelr.keras.rate_table import RateTable, install
from remotelr.rules import Policy

# The service's limit on total_epochs.
_MAX_EPOCHS = 10**7

_PLATEAU = ("monitor", "factor", "patience", "mode", "min_delta", "cooldown", "min_lr")


class RemoteLR(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Sets the optimizer's learning rate to the one that a RemoteLR service decides, epoch by epoch.

    Before an epoch the callback sets its rate, even after a checkpoint restored another one. After it, the metrics
    are reported, and the answer is the rate of the next epoch. A training that is killed and started again with the
    same `run` continues the same curve. A policy that counts steps is evaluated here for every batch, without a
    request.

    If the service is unreachable, training goes on by the same rules in this process, after at most `timeout_s` per
    epoch and a warning. A file keeps the reports, and the service receives them when it answers again. Its decisions
    then count, and the curve is the one of an undisturbed run.

    url: address of the service; by default `REMOTELR_URL`. Without either, the rules decide in this process alone.
    run: the run's key, unique per training job; by default `REMOTELR_RUN`, else a new one, which is printed. A job that
        shall continue its run after a restart needs a key of its own.
    policy: a document (`{"type": "cosine", …}`), a policy of `remotelr.rules`, or a Keras
        `LearningRateSchedule`. By default Keras's ReduceLROnPlateau, with monitor, factor, patience, mode,
        min_delta, cooldown and min_lr named and defaulted as there.
    verbose: 1 prints each change of the rate, as Keras does. One line at the start and one at the end are always
        printed.
    experiment, tags: of the run. on_conflict: if the run exists with another policy: `error`, `keep` its own,
        `replace` it and keep the state, or `restart` with a new state.
    rank, world_size: of this process in the run. attempt_key: equal in all ranks and new after every restart; by
        default the id of Slurm, or of torchelastic on one node; each new start of torchrun needs a new --rdzv-id.
    on_unreachable: while the service is unreachable, `local` decides here, `hold` keeps the last rate, `raise` ends
        the training with ServiceUnreachable. Several ranks always have the same rate: they hold one that depends on
        metrics and decide one that follows from the epoch alone.
    timeout_s: seconds that all requests of one epoch may take together, > 0.
    live: receive commands, `stop` too, while an epoch runs, and apply them at the next batch. A thread waits for
        them; needs world_size=1.
    state_file: the file that carries the run from one process to the next, with or without a service, for example
        beside the checkpoint. spool_dir: directory of that file if none is given; the file is deleted when the run
        has ended. By default `REMOTELR_SPOOL_DIR`, or the user's directory for program state.
    checkpoint: path of `ModelCheckpoint`, as `checkpoints/{epoch:03d}.weights.h5`, or a function that loads the
        checkpoint of the end of an epoch (0-based). It is used if the policy's guard rolls the run back; without it
        training goes on with the present weights, and a warning.
    token: by default `REMOTELR_TOKEN`, or the content of the file `REMOTELR_TOKEN_FILE`. verify, allow_http, headers:
        as in `Client`. transport: sends the requests instead of HTTP, for tests.

    `REMOTELR_MODE` overrides the arguments: `online`, `local` (no service) or `disabled` (the callback has no
    effect).

    The optimizer needs a float as its learning rate; it is the run's initial rate if the policy names none.
    Several optimizers (`MultiOptimizer`) keep the ratio of their rates.

    A step is one update of the weights: with `gradient_accumulation_steps=4` it is four batches (Keras's schedules
    count batches). The training step reads a table of the epoch's rates, also within `steps_per_execution`. If the
    number of batches is not known, or the policy has a momentum, the rate is set before each batch or execution.

    A policy's momentum (one_cycle, cyclic) is set on `remotelr.keras.SGD`, and on Keras's SGD if its step is not
    compiled (the torch backend, `run_eagerly`). Otherwise one warning says that it stays constant.

    Raises InvalidPolicy and ValueError from the constructor. When training begins, raises ServiceRefused, TypeError
    or (without a service) PolicyConflict; later only ServiceUnreachable with on_unreachable="raise".
    """

    def __init__(
        self,
        url: str | None = None,
        run: str | None = None,
        policy: "Policy | keras.optimizers.schedules.LearningRateSchedule | Mapping[str, Any] | None" = None,
        monitor: str = "val_loss",
        *,
        factor: float = 0.1,
        patience: int = 10,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        verbose: int = 0,
        experiment: str | None = None,
        tags: Mapping[str, str] | None = None,
        on_conflict: OnConflict = "error",
        rank: int = 0,
        world_size: int = 1,
        attempt_key: str | None = None,
        on_unreachable: OnUnreachable = "local",
        timeout_s: float = 5.0,
        live: bool = False,
        checkpoint: CheckpointSource | None = None,
        state_file: str | os.PathLike[str] | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        token: str | None = None,
        allow_http: bool = False,
        verify: Any = True,
        headers: Mapping[str, str] | None = None,
        transport: Transport | None = None,
    ) -> None:
        super().__init__()
        plateau = dict(zip(_PLATEAU, (monitor, factor, patience, mode, min_delta, cooldown, min_lr), strict=True))
        self.policy = policy_of(policy, plateau, _DEFAULTS)
        self._identity = ProcessIdentity(rank=rank, world_size=world_size, attempt_key=attempt_key, number=0)
        self._setup = set_up(
            url,
            run,
            self._identity,
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
        self.run, self.url = self._setup.run, self._setup.url
        self.verbose = verbose
        self._members = {"policy": self.policy, "experiment": experiment, "tags": tags, "on_conflict": on_conflict}
        self._chosen: list[float] = []
        self._session: Session
        self._epoch: EpochProgress
        # Of the present epoch, one for each optimizer: its training step needs no rate from a callback.
        self._tables: list[RateTable] = []
        self._checkpoints = Checkpoints(checkpoint)
        self._rolled_back_at: int | None = None
        # The rate at the end of the epoch before.
        self._rate_left: float | None = None
        self._warned_of_writer = False
        self._fixed_momentum: str | None = None

    @classmethod
    def from_callbacks(
        cls,
        callbacks: Sequence[Any],
        url: str | None = None,
        run: str | None = None,
        *,
        model: Any = None,
        epochs: int | None = None,
        **settings: Any,
    ) -> list[Any]:
        """The callbacks with RemoteLR in place of those that set the rate, with the same rates.

        `ReduceLROnPlateau` becomes the policy, and so does a `LearningRateSchedule` in the optimizer of `model`,
        which gets a float instead. The function of a `LearningRateScheduler` becomes a table of its rates over
        `epochs`. What has no exact equivalent stays unchanged. One message says which.

        model: compiled; without it the optimizer is not examined. settings: of `RemoteLR`.

        Raises ValueError for what Keras rejects too, and if a function needs `epochs`.
        """
        optimizer = getattr(model, "optimizer", None)
        config = {} if optimizer is None else optimizer.get_config()
        schedule = config.get("learning_rate") if isinstance(config.get("learning_rate"), Mapping) else None
        rates = [] if schedule is not None else [rate_of(each) for each in optimizers_of(optimizer)]
        adoption = adopt(callbacks, schedule=schedule, learning_rate=rates[0] if rates else None, epochs=epochs)
        if adoption.policy is not None:
            remote = cls(url, run, adoption.policy, **{"verbose": adoption.verbose, **settings})
            adoption.callbacks.insert(adoption.index, remote)
            if schedule is not None:
                replace_rate(model, first_rate(adoption.policy))
        say(adoption.message)
        return adoption.callbacks

    def set_model(self, model: Any) -> None:
        """Read the user's rates: Keras gives the model before any callback restores a checkpoint."""
        super().set_model(model)
        self._chosen = [rate_of(optimizer) for optimizer in optimizers_of(getattr(model, "optimizer", None))]

    def on_train_begin(self, logs: Any = None) -> None:
        if self._disabled:
            return
        optimizer = getattr(self.model, "optimizer", None)
        check_settable(optimizer)
        if len(self._chosen) != len(optimizers_of(optimizer)):
            # A MultiOptimizer may get its optimizers only when it is built.
            self._chosen = [rate_of(each) for each in optimizers_of(optimizer)]
        self._new_session()
        # A loop that calls this callback alone sets no parameters, as for Keras's own callbacks.
        params = self.params or {}
        batches, epochs = params.get("steps"), params.get("epochs")
        self._session.open(
            initial_learning_rate=self._chosen[0] or None,
            steps_per_epoch=None if batches is None else max(batches // batches_per_step_of(optimizer), 1),
            # A larger number means "until a callback stops the training".
            total_epochs=epochs if epochs and epochs <= _MAX_EPOCHS else None,
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._disabled:
            return
        # Not in on_train_begin: BackupAndRestore sets the first epoch there.
        optimizer, session = self.model.optimizer, self._session
        updates = updates_of(optimizer)
        if session.begin(epoch, step=updates) and self._identity.rank == 0:
            say(session.start_line())
        decided_step = session.step_of(epoch)
        self._epoch = EpochProgress(
            number=epoch,
            step=self._epoch.step_after(updates) if decided_step is None else decided_step,
            updates=updates,
            batches_per_step=batches_per_step_of(optimizer),
            batches_held=batches_of(optimizer) % batches_per_step_of(optimizer),
        )
        self._warn_of_another_writer(rate_of(optimizers_of(optimizer)[0]))
        self._roll_back(epoch)
        learning_rate = session.learning_rate(epoch, step=0)
        if learning_rate is not None:
            momentum = session.momentum(epoch, step=0)
            self._set(learning_rate)
            self._set_momentum(momentum)
            self._tables = self._set_tables(updates) if session.per_step and momentum is None else []
            if self.verbose and session.decision is not None:
                say_setting(session.decision, learning_rate)
        self._epoch.learning_rate = rate_of(optimizers_of(optimizer)[0])
        self._stop_if_ended(epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._disabled:
            return
        self._epoch.batches = batch + 1
        commanded = self._session.apply_live_commands()
        if not (commanded or (self._session.per_step and not self._tables)):
            return
        epoch, step = self._epoch.number, self._epoch.steps_before(batch)
        learning_rate = self._session.learning_rate(epoch, step)
        if learning_rate is not None and learning_rate != self._epoch.set_to:
            self._set(learning_rate)
        if commanded and self._tables:
            self._tables = self._set_tables(updates_of(self.model.optimizer))
        # Separately: the momentum may change while the rate is pinned or at a bound.
        self._set_momentum(self._session.momentum(epoch, step))
        if commanded:
            if self.verbose:
                say_command(epoch, batch, self._epoch.set_to)
            self._stop_if_ended(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._disabled:
            return
        logs = {} if logs is None else logs
        optimizer, session = self.model.optimizer, self._session
        logs.update(rates_by_name(optimizer))
        for table in self._tables:
            table.finish()
        session.renew_budget()
        if session.stopped:
            return  # a live stop cut the epoch short: it is not reported
        session.report(
            epoch,
            logs,
            step=self._epoch.step_after(updates_of(optimizer)) if session.counts_steps else None,
            # With a policy that counts steps, the decided rate is that of the first step.
            learning_rate=self._epoch.learning_rate if session.per_step else rate_of(optimizers_of(optimizer)[0]),
        )
        if self.verbose and session.decision is not None and session.decision.epoch == epoch + 1:
            say_reduction(session.decision)
        self._roll_back(epoch + 1)
        # As Keras's ReduceLROnPlateau: a model that is saved now, and a next `fit`, have the decided rate. Not 0, with
        # which no run can begin.
        learning_rate = session.learning_rate(epoch + 1, step=0)
        if learning_rate:
            self._set(learning_rate)
        self._rate_left = rate_of(optimizers_of(optimizer)[0])
        self._stop_if_ended(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        if self._disabled:
            return
        status: FinalStatus = "stopped" if self._session.stopped else "completed"
        self._session.finish(status)
        if self._identity.rank == 0:
            say(self._session.end_line(status))

    @property
    def _disabled(self) -> bool:
        return self._setup.mode == "disabled"

    def _new_session(self) -> None:
        if self._identity.number > 0:
            # If the previous `fit` raised, Keras has not called on_train_end.
            self._session.abandon()
        self._identity = replace(self._identity, number=self._identity.number + 1)
        self._rolled_back_at = self._rate_left = None
        self._epoch = EpochProgress()
        self._session = self._setup.session(self._members, self._identity, say)

    def _set(self, learning_rate: float) -> None:
        # `self.model`, not a model kept from before: on JAX the optimizer's state is outside its variables while an
        # epoch runs, and Keras writes it back when a callback reads `self.model`.
        for optimizer, ratio in zip(optimizers_of(self.model.optimizer), self._ratios(), strict=True):
            optimizer.learning_rate = learning_rate * ratio
        self._epoch.set_to = learning_rate

    def _set_tables(self, updates: int) -> list[RateTable]:
        """Give the optimizers the rates of the rest of the epoch; an empty list if not all of them can have a table.

        updates: of the optimizer so far.
        """
        batches, model, epoch = self.params.get("steps"), self.model, self._epoch
        if batches is None:
            return []
        last = epoch.steps_before(batches)
        tables = [install(model, each, max(last, 1)) for each in optimizers_of(model.optimizer)]
        rates = [self._session.learning_rate(epoch.number, step) for step in range(updates - epoch.updates, last)]
        known, usable = [rate for rate in rates if rate is not None], [table for table in tables if table is not None]
        if not known or len(known) < len(rates) or len(usable) < len(tables):
            return []
        for table, ratio in zip(usable, self._ratios(), strict=True):
            table.set([rate * ratio for rate in known], updates)
        return usable

    def _ratios(self) -> list[float]:
        """The rates of several optimizers in relation to the run's."""
        first, *others = self._chosen
        return [1.0, *(rate / first if first else 1.0 for rate in others)]

    def _set_momentum(self, momentum: float | None) -> None:
        if momentum is None or self._fixed_momentum or momentum == self._epoch.momentum:
            return
        model = self.model
        # A model that is not built has no momentum yet: the next batch sets it.
        self._epoch.momentum = momentum if model.built else None
        reasons = [move_momentum(model, innermost(each), momentum) for each in optimizers_of(model.optimizer)]
        self._fixed_momentum = next((reason for reason in reasons if reason), None)
        if self._fixed_momentum:
            warn(f"the policy's momentum cannot be set: {self._fixed_momentum}.")

    def _warn_of_another_writer(self, found: float) -> None:
        """Warn once of a rate that was set after this callback has set one at the end of the epoch before."""
        left, self._rate_left = self._rate_left, None
        if left is not None and left != found and not self._warned_of_writer:
            self._warned_of_writer = True
            warn(
                f"something else set the optimizer's learning rate to {found:.6g} after RemoteLR had set {left:.6g}, "
                f"for example a ReduceLROnPlateau beside it. The rates of RemoteLR count: remove the other one, or "
                f"exchange it by RemoteLR.from_callbacks."
            )

    def _stop_if_ended(self, epoch: int) -> None:
        if self._session.stopped or self._session.lost:
            say_stop(epoch, self._session.stop_reason)
            self.model.stop_training = True

    def _roll_back(self, epoch: int) -> None:
        """Load the checkpoint that the decision for `epoch` names, once."""
        back_to = self._session.rollback_to(epoch)
        if back_to is None or self._rolled_back_at == epoch:
            return
        self._rolled_back_at = epoch
        # Read before loading: on JAX that writes the state of the training step back into the variables.
        model = self.model
        failure = self._checkpoints.load(model, back_to)
        if failure is None:
            reset_non_finite(model.optimizer)
            say_rollback(epoch, back_to)
            return
        warn(
            f"the weights of the end of epoch {back_to + 1} could not be loaded for a rollback: {failure}. "
            f"Training goes on with the weights it has."
        )


_DEFAULTS = {name: inspect.signature(RemoteLR).parameters[name].default for name in _PLATEAU}
