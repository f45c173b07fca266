"""The callback itself: it sets the rates, reports the epochs, and does what the answers say."""

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras

from remotelr._http.transport import Transport
from remotelr._session.identity import ProcessIdentity
from remotelr._session.metrics import reportable
from remotelr._session.session import OnUnreachable, Session
from remotelr._session.setup import refuse_nameless_ranks, set_up
from remotelr.client import OnConflict
from remotelr.errors import RemoteLRWarning
from remotelr.keras.adopt import adopt, first_rate, with_rate
from remotelr.keras.checkpoints import Checkpoints, Kept
from remotelr.keras.messages import say, say_order, say_reduction, say_rollback, say_setting, say_stop
from remotelr.keras.momentum import move_momentum
from remotelr.keras.optimizers import (
    batches_of,
    batches_per_step_of,
    innermost,
    optimizers_of,
    rate_of,
    rates_by_name,
    refuse_unsettable,
    reset_non_finite,
    updates_of,
)
from remotelr.keras.policy_argument import policy_of
from remotelr.keras.progress import Epoch
from remotelr.rules import Policy

# The longest run the service takes.
_MAX_EPOCHS = 10**7

_PLATEAU = ("monitor", "factor", "patience", "mode", "min_delta", "cooldown", "min_lr")


class RemoteLR(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Sets the optimizer's learning rate to what a RemoteLR service decides, epoch by epoch.

    Before an epoch its rate is set, whatever a checkpoint has restored; after it the metrics are
    reported, and the answer is the next epoch's rate. A training that is killed and started again
    with the same `run` goes on with the curve it would have had. A policy that counts steps is
    evaluated here for every batch, without a request.

    When the service cannot be reached, training goes on by the same rules in this process, after at most
    `timeout_s` per epoch, and a warning. What was to be reported is kept in a file, and told to the
    service once it is back: its decisions count again, and the curve is the one it would have been.

    url: address of the service; `REMOTELR_URL` when not given. Without either there is no service: the
        rules decide in this process alone.
    run: the run's key, unique per training job; `REMOTELR_RUN` when not given.
    policy: a document (`{"type": "cosine", …}`), a policy of `remotelr.rules`, or a Keras
        `LearningRateSchedule`. Without one the policy is Keras's own ReduceLROnPlateau, with
        monitor, factor, patience, mode, min_delta, cooldown and min_lr named and defaulted as there.
    verbose: 1 prints each change of the rate, as Keras does.
    experiment, tags: of the run. on_conflict: what to do when the run exists with another policy:
        `error`, `keep` its own, `replace` it, or `restart` with a fresh state.
    rank, world_size: of this process in the run. attempt_key: the same in all ranks and new with every
        restart of them; the id of torchelastic or Slurm when not given.
    on_unreachable: what to do while the service cannot be reached: `local` decides here, `hold` keeps the last
        rate, `raise` ends the training with ServiceUnreachable. Several ranks never part: what depends on
        metrics they hold, what follows from the epoch alone each decides alike.
    timeout_s: what the service may cost at one epoch, over all attempts to reach it.
    live: hear of commands while an epoch runs, and obey at its next batch, `stop` too. A thread waits for them;
        the batches do not.
    state_file: where the run is kept from one life of the job to the next, without a service or while it is
        away; beside the checkpoint is a good place. spool_dir: where it is kept when no file is given, only
        with a service and until the run ends; `REMOTELR_SPOOL_DIR`, or where programs keep their state.
    checkpoint: where `ModelCheckpoint` keeps them, as `checkpoints/{epoch:03d}.weights.h5`, or a function that is given
        the number of an epoch (0-based) and loads what the model was at its end. A guard of the policy may tell a
        run to go back to one; without it training goes on with the weights it has, and a warning says so.
    token: what the service lets us in by; `REMOTELR_TOKEN`, or what the file `REMOTELR_TOKEN_FILE` holds, when not
        given. verify: certificates to trust. Both, and allow_http, as `Client` has them.
    headers: sent with every request. transport: what carries requests instead of HTTP, for tests.

    `REMOTELR_MODE` = `online`, `local` (no service, whatever `url` says) or `disabled` (the callback does
    nothing at all) overrules the arguments.

    The optimizer needs a float as its learning rate: it is the run's initial rate where the policy
    names none. Several optimizers (`MultiOptimizer`) keep the ratio of their rates.

    A step, for a policy that counts them, is one update of the weights: with
    `gradient_accumulation_steps=4` that is four batches (Keras's own schedules count the batches). With
    `steps_per_execution` the rate is set once per execution, to that of its first step.

    A momentum that the policy moves (one_cycle, cyclic) is set on `remotelr.keras.SGD`, and on Keras's own SGD
    where its step is not compiled (the torch backend, `run_eagerly`); else one warning says that it stays.

    Raises InvalidPolicy and ValueError when it is made, and ServiceRefused, TypeError or (without a service)
    PolicyConflict when training begins; nothing after that, unless `on_unreachable` says so.
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
        checkpoint: Kept | None = None,
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
        self._setup = set_up(
            url,
            run,
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
        self._life = ProcessIdentity(rank=rank, world_size=world_size, attempt_key=attempt_key, number=0)
        refuse_nameless_ranks(self._life)
        if live and world_size > 1:
            raise ValueError("the ranks of a run would hear of a command at different batches: live is for one process")
        self._members = {"policy": self.policy, "experiment": experiment, "tags": tags, "on_conflict": on_conflict}
        self._chosen: list[float] = []
        self._session: Session
        self._epoch: Epoch
        self._checkpoints = Checkpoints(checkpoint)
        self._rolled_back_at: int | None = None
        self._warned = False
        self._unmoved: str | None = None

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
        """The callbacks with RemoteLR in the place of what set the rate, and the rates as they were.

        `ReduceLROnPlateau` becomes the policy, and so does a `LearningRateSchedule` in the optimizer of `model`,
        which is given a float instead. The function of a `LearningRateScheduler` becomes a table of the rates it
        gives for `epochs`; it stays, and everything with it, where no table can say what it does. One message
        tells which.

        model: compiled; without it nothing is known of its optimizer. settings: of `RemoteLR`.
        Raises ValueError for what Keras refuses as well, and where a function needs `epochs`.
        """
        optimizer = getattr(model, "optimizer", None)
        config = {} if optimizer is None else optimizer.get_config()
        schedule = config.get("learning_rate") if isinstance(config.get("learning_rate"), Mapping) else None
        rates = [] if schedule is not None else [rate_of(each) for each in optimizers_of(optimizer)]
        taken = adopt(callbacks, schedule=schedule, learning_rate=rates[0] if rates else None, epochs=epochs)
        if taken.policy is not None:
            remote = cls(url, run, taken.policy, **{"verbose": taken.verbose, **settings})
            taken.callbacks.insert(taken.place, remote)
            if schedule is not None:
                with_rate(model, first_rate(taken.policy))
        say(taken.said)
        return taken.callbacks

    def set_model(self, model: Any) -> None:
        """Keras gives the model before any callback restores a checkpoint: its rates are those the user chose."""
        super().set_model(model)
        self._chosen = [rate_of(optimizer) for optimizer in optimizers_of(getattr(model, "optimizer", None))]

    def on_train_begin(self, logs: Any = None) -> None:
        if self._idle:
            return
        optimizer = getattr(self.model, "optimizer", None)
        refuse_unsettable(optimizer)
        if len(self._chosen) != len(optimizers_of(optimizer)):
            # A MultiOptimizer may learn of its optimizers only when it is built.
            self._chosen = [rate_of(each) for each in optimizers_of(optimizer)]
        self._begin_life()
        batches, epochs = self.params.get("steps"), self.params.get("epochs")
        self._session.open(
            initial_learning_rate=self._chosen[0] or None,
            steps_per_epoch=None if batches is None else max(batches // batches_per_step_of(optimizer), 1),
            # "Until something stops it" is no length.
            total_epochs=epochs if epochs and epochs <= _MAX_EPOCHS else None,
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._idle:
            return
        # Not earlier: only now has BackupAndRestore said at which epoch training really begins.
        optimizer = self.model.optimizer
        updates = updates_of(optimizer)
        self._session.begin(epoch, step=updates)
        decided_step = self._session.step_of(epoch)
        self._epoch = Epoch(
            number=epoch,
            step=self._epoch.step_after(updates) if decided_step is None else decided_step,
            updates=updates,
            batches_per_step=batches_per_step_of(optimizer),
            batches_held=batches_of(optimizer) % batches_per_step_of(optimizer),
        )
        self._roll_back(epoch)
        learning_rate = self._session.learning_rate(epoch, step=0)
        if learning_rate is not None:
            self._set(learning_rate)
            self._set_momentum(self._session.momentum(epoch, step=0))
            if self.verbose and self._session.decision is not None:
                say_setting(self._session.decision, learning_rate)
        self._epoch.learning_rate = rate_of(optimizers_of(optimizer)[0])
        self._obey(epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._idle:
            return
        self._epoch.batches = batch + 1
        ordered = self._session.hear()
        if not (ordered or self._session.per_step):
            return
        epoch, step = self._epoch.number, self._epoch.steps_before(batch)
        learning_rate = self._session.learning_rate(epoch, step)
        if learning_rate is not None and learning_rate != self._epoch.set_to:
            self._set(learning_rate)
        # By itself: the rate may be held, or stand at a bound, while the momentum goes on.
        self._set_momentum(self._session.momentum(epoch, step))
        if ordered:
            if self.verbose:
                say_order(epoch, batch, self._epoch.set_to)
            self._obey(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._idle:
            return
        logs = {} if logs is None else logs
        optimizer, session = self.model.optimizer, self._session
        logs.update(rates_by_name(optimizer))
        session.renew_budget()
        if session.stopped:
            return  # what a stop cut short is no epoch
        metrics = reportable(logs, first=session.monitors())
        self._warn_of_missing(metrics)
        session.report(
            epoch,
            metrics,
            step=self._epoch.step_after(updates_of(optimizer)) if session.counts_steps else None,
            # The service decided the rate of the first step; the last one's differs when the policy counts steps.
            learning_rate=self._epoch.learning_rate if session.per_step else rate_of(optimizers_of(optimizer)[0]),
        )
        if self.verbose and session.decision is not None and session.decision.epoch == epoch + 1:
            say_reduction(session.decision)
        self._roll_back(epoch + 1)
        self._obey(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        if not self._idle:
            self._session.finish("stopped" if self._session.stopped else "completed")

    @property
    def _idle(self) -> bool:
        return self._setup.mode == "disabled"

    def _begin_life(self) -> None:
        if self._life.number > 0:
            # A `fit` that raised has told nobody that it ended.
            self._session.abandon()
        elif self._setup.implied:
            say(
                "RemoteLR: no service is given, so the same rules decide in this process alone. With `url=` or "
                "REMOTELR_URL others can see and change the run."
            )
        self._life = replace(self._life, number=self._life.number + 1)
        self._warned = False
        self._rolled_back_at = None
        self._epoch = Epoch()
        self._session = self._setup.session(self._members, self._life, say)

    def _set(self, learning_rate: float) -> None:
        # `self.model`, not a model kept from before: on JAX the state of the optimizer is outside its
        # variables while an epoch runs, and Keras brings it back when a callback asks for the model.
        optimizers = optimizers_of(self.model.optimizer)
        for optimizer, chosen in zip(optimizers, self._chosen, strict=False):
            alike = len(optimizers) == 1 or not self._chosen[0]
            optimizer.learning_rate = learning_rate if alike else learning_rate * (chosen / self._chosen[0])
        self._epoch.set_to = learning_rate

    def _set_momentum(self, momentum: float | None) -> None:
        if momentum is None or self._unmoved or momentum == self._epoch.momentum:
            return
        model = self.model
        # What is not built yet has none to move.
        self._epoch.momentum = momentum if model.built else None
        reasons = [move_momentum(model, innermost(each), momentum) for each in optimizers_of(model.optimizer)]
        self._unmoved = next((reason for reason in reasons if reason), None)
        if self._unmoved:
            warnings.warn(
                f"RemoteLR: the policy moves the momentum too, but {self._unmoved}.", RemoteLRWarning, stacklevel=2
            )

    def _obey(self, epoch: int) -> None:
        if not (self._session.stopped or self._session.lost):
            return
        say_stop(epoch, self._session.why_stopped)
        self.model.stop_training = True

    def _roll_back(self, epoch: int) -> None:
        """Before `epoch`, load the checkpoint that the decision for it asks for; once."""
        back_to = self._session.rollback_to(epoch)
        if back_to is None or self._rolled_back_at == epoch:
            return
        self._rolled_back_at = epoch
        # Asked for first: on JAX that brings the state of the training step back into its variables.
        model = self.model
        failure = self._checkpoints.load(model, back_to)
        if failure is None:
            reset_non_finite(model.optimizer)
            say_rollback(epoch, back_to)
            return
        warnings.warn(
            f"RemoteLR: the run was told to go back to the end of epoch {back_to + 1}, which was not possible: "
            f"{failure}. Training goes on with the weights it has.",
            RemoteLRWarning,
            stacklevel=2,
        )

    def _warn_of_missing(self, metrics: Mapping[str, float]) -> None:
        missing = [name for name in self._session.monitors() if name not in metrics]
        if missing and not self._warned:
            self._warned = True
            warnings.warn(
                f"RemoteLR: the policy looks at `{missing[0]}`, which this epoch does not have. It was reported "
                f"without it, and counts for no plateau. Available metrics are: {','.join(metrics)}.",
                RemoteLRWarning,
                stacklevel=2,
            )


_DEFAULTS = {name: inspect.signature(RemoteLR).parameters[name].default for name in _PLATEAU}
