"""RemoteLR for Keras 3, on any of its backends: a callback that sets the rate the service decides.

model.fit(x, y, validation_data=(x_val, y_val), epochs=50, callbacks=[
    RemoteLR("http://127.0.0.1:8000", run="mnist-7", factor=0.5, patience=5),
    BackupAndRestore("/checkpoints/mnist-7"),
])

In this order: an epoch is then reported before its checkpoint says that it is over. A job that is killed between
the two trains the epoch again, and the run goes back to before it.
"""

import inspect
import logging
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from remotelr._keras_momentum import SGD, move_momentum
from remotelr._life import Life
from remotelr._session import OnUnreachable, Session
from remotelr._setup import refuse_nameless_ranks, set_up
from remotelr._takeover import first_rate, take_over, with_rate
from remotelr._transport import Transport
from remotelr.client import OnConflict
from remotelr.errors import RemoteLRWarning
from remotelr.rules import Policy, policy_from_json, policy_to_json
from remotelr.rules.codec import node_to_json

__all__ = ["SGD", "RemoteLR"]

# What the service takes: names of metrics, how many of them, and the longest run.
_METRIC_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,99}")
_MAX_METRICS = 64
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
        state_file: str | os.PathLike[str] | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        headers: Mapping[str, str] | None = None,
        transport: Transport | None = None,
    ) -> None:
        super().__init__()
        plateau = dict(zip(_PLATEAU, (monitor, factor, patience, mode, min_delta, cooldown, min_lr), strict=True))
        self.policy = _policy(policy, plateau)
        self._setup = set_up(
            url,
            run,
            on_unreachable=on_unreachable,
            live=live,
            state_file=state_file,
            spool_dir=spool_dir,
            timeout_s=timeout_s,
            headers=headers,
            transport=transport,
        )
        self.run, self.url = self._setup.run, self._setup.url
        self.verbose = verbose
        self._life = Life(rank=rank, world_size=world_size, attempt_key=attempt_key, number=0)
        refuse_nameless_ranks(self._life)
        if live and world_size > 1:
            raise ValueError("the ranks of a run would hear of a command at different batches: live is for one process")
        self._members = {"policy": self.policy, "experiment": experiment, "tags": tags, "on_conflict": on_conflict}
        self._chosen: list[float] = []
        self._session: Session
        self._epoch: _Epoch
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
        rates = [] if schedule is not None else [_rate_of(each) for each in _optimizers(optimizer)]
        taken = take_over(callbacks, schedule=schedule, learning_rate=rates[0] if rates else None, epochs=epochs)
        if taken.policy is not None:
            remote = cls(url, run, taken.policy, **{"verbose": taken.verbose, **settings})
            taken.callbacks.insert(taken.place, remote)
            if schedule is not None:
                with_rate(model, first_rate(taken.policy))
        _say(taken.said)
        return taken.callbacks

    def set_model(self, model: Any) -> None:
        """Keras gives the model before any callback restores a checkpoint: its rates are those the user chose."""
        super().set_model(model)
        self._chosen = [_rate_of(optimizer) for optimizer in _optimizers(getattr(model, "optimizer", None))]

    def on_train_begin(self, logs: Any = None) -> None:
        if self._idle:
            return
        optimizer = getattr(self.model, "optimizer", None)
        _refuse_unsettable(optimizer)
        if len(self._chosen) != len(_optimizers(optimizer)):
            # A MultiOptimizer may learn of its optimizers only when it is built.
            self._chosen = [_rate_of(each) for each in _optimizers(optimizer)]
        self._begin_life()
        batches, epochs = self.params.get("steps"), self.params.get("epochs")
        self._session.open(
            initial_learning_rate=self._chosen[0] or None,
            steps_per_epoch=None if batches is None else max(batches // _batches_per_step(optimizer), 1),
            # "Until something stops it" is no length.
            total_epochs=epochs if epochs and epochs <= _MAX_EPOCHS else None,
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._idle:
            return
        # Not earlier: only now has BackupAndRestore said at which epoch training really begins.
        optimizer = self.model.optimizer
        updates = _updates(optimizer)
        self._session.begin(epoch, step=updates)
        decided_step = self._session.step_of(epoch)
        self._epoch = _Epoch(
            number=epoch,
            step=self._epoch.step_after(updates) if decided_step is None else decided_step,
            updates=updates,
            batches_per_step=_batches_per_step(optimizer),
            batches_held=_batches(optimizer) % _batches_per_step(optimizer),
        )
        learning_rate = self._session.learning_rate(epoch, step=0)
        if learning_rate is not None:
            self._set(learning_rate)
            self._set_momentum(self._session.momentum(epoch, step=0))
            self._announce_setting(epoch, learning_rate)
        self._epoch.learning_rate = _rate_of(_optimizers(optimizer)[0])
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
            self._set_momentum(self._session.momentum(epoch, step))
        if ordered:
            self._announce_order(batch)
            self._obey(self._epoch.number)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._idle:
            return
        logs = {} if logs is None else logs
        optimizer, session = self.model.optimizer, self._session
        logs.update(_rates_by_name(optimizer))
        session.renew_budget()
        if session.stopped:
            return  # what a stop cut short is no epoch
        metrics = _reportable(logs, first=session.monitors())
        self._warn_of_missing(metrics)
        session.report(
            epoch,
            metrics,
            step=self._epoch.step_after(_updates(optimizer)) if session.counts_steps else None,
            # The service decided the rate of the first step; the last one's differs when the policy counts steps.
            learning_rate=self._epoch.learning_rate if session.per_step else _rate_of(_optimizers(optimizer)[0]),
        )
        self._announce_plateau(epoch)
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
            _say(
                "RemoteLR: no service is given, so the same rules decide in this process alone. With `url=` or "
                "REMOTELR_URL others can see and change the run."
            )
        self._life = replace(self._life, number=self._life.number + 1)
        self._warned = False
        self._epoch = _Epoch()
        self._session = self._setup.session(self._members, self._life, _say)

    def _set(self, learning_rate: float) -> None:
        # `self.model`, not a model kept from before: on JAX the state of the optimizer is outside its
        # variables while an epoch runs, and Keras brings it back when a callback asks for the model.
        optimizers = _optimizers(self.model.optimizer)
        for optimizer, chosen in zip(optimizers, self._chosen, strict=False):
            alike = len(optimizers) == 1 or not self._chosen[0]
            optimizer.learning_rate = learning_rate if alike else learning_rate * (chosen / self._chosen[0])
        self._epoch.set_to = learning_rate

    def _set_momentum(self, momentum: float | None) -> None:
        if momentum is None or self._unmoved:
            return
        model = self.model
        reasons = [move_momentum(model, _innermost(each), momentum) for each in _optimizers(model.optimizer)]
        self._unmoved = next((reason for reason in reasons if reason), None)
        if self._unmoved:
            warnings.warn(
                f"RemoteLR: the policy moves the momentum too, but {self._unmoved}.", RemoteLRWarning, stacklevel=2
            )

    def _obey(self, epoch: int) -> None:
        if not (self._session.stopped or self._session.lost):
            return
        why = "a newer attempt has taken the run over" if self._session.lost else "the run was told to stop"
        _say(f"\nEpoch {epoch + 1}: RemoteLR stops training: {why}.")
        self.model.stop_training = True

    def _announce_setting(self, epoch: int, learning_rate: float) -> None:
        decision = self._session.decision
        if self.verbose == 0 or decision is None or decision.reason == "plateau":
            return
        if decision.changed or decision.reason == "start":
            _say(f"\nEpoch {epoch + 1}: RemoteLR setting learning rate to {learning_rate}.")

    def _announce_order(self, batch: int) -> None:
        if self.verbose:
            where = f"Epoch {self._epoch.number + 1}, batch {batch + 1}"
            _say(f"\n{where}: RemoteLR setting learning rate to {self._epoch.set_to}, as was ordered.")

    def _announce_plateau(self, epoch: int) -> None:
        decision = self._session.decision
        if self.verbose == 0 or decision is None or decision.epoch != epoch + 1:
            return
        if decision.changed and decision.reason == "plateau":
            _say(f"\nEpoch {epoch + 1}: RemoteLR reducing learning rate to {decision.learning_rate}.")

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


@dataclass(slots=True)
class _Epoch:
    """Where the epoch stands, in batches and in optimizer steps.

    step: optimizer steps of the run before it. updates: what the optimizer had counted by then.
    batches_held: batches before it whose gradients wait to be applied. batches: begun so far.
    learning_rate: what it began with. set_to: the newest rate set in it.
    """

    number: int = 0
    step: int = 0
    updates: int = 0
    batches_per_step: int = 1
    batches_held: int = 0
    batches: int = 0
    learning_rate: float | None = None
    set_to: float | None = None

    def steps_before(self, batch: int) -> int:
        """Updates made in this epoch before that batch."""
        return (self.batches_held + batch) // self.batches_per_step

    def step_after(self, updates: int) -> int:
        """Steps of the run by its end. updates: what the optimizer has counted by now.

        A training step of one's own may never move the optimizer's counter; then the batches count.
        """
        made = updates - self.updates
        return self.step + (made if made > 0 else self.steps_before(self.batches))


def _policy(policy: Any, plateau: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical document of whatever the user gave. Raises InvalidPolicy and ValueError."""
    if policy is None:
        return policy_to_json(policy_from_json({"type": "reduce_on_plateau", "flavor": "keras", **plateau}))
    given = [name for name, value in plateau.items() if value != _DEFAULTS[name]]
    if given:
        raise ValueError(f"{', '.join(given)} belong to the plateau that stands for a missing policy: put them into it")
    if isinstance(policy, Policy):
        return policy_to_json(policy)
    if isinstance(policy, keras.optimizers.schedules.LearningRateSchedule):
        schedule = {"type": type(policy).__name__, **policy.get_config()}
        # Keras's name for the graph, not for the curve.
        schedule.pop("name", None)
        return policy_to_json(policy_from_json({"schedule": schedule, "unit": "step"}))
    document = policy if isinstance(policy, Mapping) else node_to_json(policy)
    return policy_to_json(policy_from_json(dict(document)))


def _refuse_unsettable(optimizer: Any) -> None:
    if not _optimizers(optimizer):
        raise TypeError("the model has no optimizer whose rate could be set: give one to compile()")
    for each in _optimizers(optimizer):
        if not isinstance(each.learning_rate, keras.Variable):
            raise TypeError(
                f"the optimizer {each.name!r} follows a learning-rate schedule of its own, so nobody else can set its "
                f"rate. Give the schedule to RemoteLR as `policy=`, and the optimizer a float: "
                f"keras.optimizers.{type(each).__name__}(learning_rate=0.01)"
            )


def _optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that have a rate: those inside a MultiOptimizer, or the one there is."""
    if optimizer is None:
        return []
    return list(optimizer.optimizers) if hasattr(optimizer, "optimizers") else [optimizer]


def _rate_of(optimizer: Any) -> float:
    return float(_value(optimizer.learning_rate))


def _rates_by_name(optimizer: Any) -> dict[str, float]:
    """The rates as Keras names them in its logs."""
    if hasattr(optimizer, "optimizers"):
        return {f"learning_rate_{each.name}": _rate_of(each) for each in optimizer.optimizers}
    return {"learning_rate": _rate_of(optimizer)}


def _updates(optimizer: Any) -> int:
    """Updates of the weights so far; unlike the raw counter not the batches of an accumulated gradient."""
    return int(_value(optimizer.iterations))


def _batches_per_step(optimizer: Any) -> int:
    return getattr(_innermost(optimizer), "gradient_accumulation_steps", None) or 1


def _batches(optimizer: Any) -> int:
    """Batches so far: Keras calls the raw counter `iteration`, and checkpoints carry it."""
    counters = [variable for variable in _innermost(optimizer).variables if variable.name == "iteration"]
    return int(_value(counters[0])) if counters else 0


def _value(variable: Any) -> Any:
    # Its value, not the variable: NumPy 2 warns of how Keras 3.15 turns a variable into an array.
    return keras.ops.convert_to_numpy(variable.value if isinstance(variable, keras.Variable) else variable)


def _innermost(optimizer: Any) -> Any:
    """The optimizer that makes the steps; mixed precision wraps it in one that scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _reportable(logs: Mapping[str, Any], first: tuple[str, ...]) -> dict[str, float]:
    """The metrics the service takes, those the policy looks at first."""
    names = sorted(logs, key=lambda name: name not in first)
    metrics = {
        name: float(logs[name])
        for name in names
        if _METRIC_NAME.fullmatch(name) and not name.startswith("learning_rate") and _is_number(logs[name])
    }
    return dict(list(metrics.items())[:_MAX_METRICS])


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _say(message: str) -> None:
    """To people, where Keras's own messages go: the console, or a log once interactive logging is off."""
    if keras.config.is_interactive_logging_enabled():
        print(message, flush=True)  # noqa: T201 - where Keras prints
    else:
        logging.getLogger("remotelr").info(message.strip())


_DEFAULTS = {name: inspect.signature(RemoteLR).parameters[name].default for name in _PLATEAU}
