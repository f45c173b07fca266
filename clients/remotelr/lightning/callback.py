"""The callback: it sets the rates before each optimizer step, and reports each training epoch."""

import math
from collections.abc import Mapping
from typing import Any, Unpack

from remotelr._training.arguments import Plan, SharedArguments
from remotelr._training.training import Training
from remotelr.lightning.families import callback_classes
from remotelr.torch.groups import ParameterGroups
from remotelr.torch.ranks import current_ranks


class RemoteLR(*callback_classes()):  # type: ignore[misc]  # Lightning is not installed where types are checked
    """Sets the learning rate of a Lightning `Trainer` to the one that a RemoteLR service decides.

    `Trainer(..., callbacks=[RemoteLR(url, run="mnist-7", monitor="val_loss", patience=5)])`. `configure_optimizers`
    returns the optimizer alone. The rate is written by a hook right before each optimizer step.

    `trainer.fit(model, ckpt_path=...)` continues the run. The checkpoint has the callback's state, so the rates are
    those of a training that was not interrupted; its place in the list of callbacks has no effect.

    If the service is unreachable, training goes on by the same rules in this process, after at most `timeout_s` per
    epoch and a warning. A file keeps the reports, and the service receives them when it answers again.

    With several processes, rank 0 alone talks to the service, and all ranks have one rate at every step.

    url: address of the service; by default `REMOTELR_URL`. Without either, the rules decide in this process alone.
    run: the run's key, unique per training job; by default `REMOTELR_RUN`.
    policy: a document (`{"type": "cosine", …}`) or a policy of `remotelr.rules`. By default ReduceLROnPlateau, with
        mode, factor, patience, threshold, threshold_mode, cooldown, min_lr and eps named and defaulted as in torch.
    monitor: the metric of the default policy, under the name that the module logs. A metric that
        `LightningModule.on_train_epoch_end` logs comes too late.
    shared: as in `remotelr.torch.RemoteLR`.

    Raises InvalidPolicy, TypeError and ValueError. `fit` raises ServiceRefused, or ValueError if
    `configure_optimizers` returns a scheduler; later only ServiceUnreachable, with on_unreachable="raise", and
    RanksDisagree.
    """

    def __init__(
        self,
        url: str | None = None,
        run: str | None = None,
        policy: Any = None,
        monitor: str = "val_loss",
        **shared: Unpack[SharedArguments],
    ) -> None:
        self._plan = Plan(url, run, policy, shared)
        self.run, self.url = self._plan.setup.run, self._plan.setup.url
        self._document = self._plan.document(monitor)
        self._training: Training | None = None
        self._groups: ParameterGroups | None = None
        self._hooks: list[Any] = []
        self._rate = 0.0
        self._loaded: dict[str, Any] = {}
        # The epoch in progress: optimizer steps before it and in all, its first rate, and the metrics it has so far.
        self._epoch = self._before = self._steps = 0
        self._first_rate: float | None = None
        self._validated: dict[str, float] = {}
        # The metrics that `trainer.callback_metrics` had before: it keeps old values.
        self._old: dict[str, Any] = {}
        self._old_at_validation: dict[str, Any] = {}

    @property
    def stopped(self) -> bool:
        """The training must end: by the policy, by a command, or because a newer attempt has taken over."""
        return self._training is not None and self._training.ended

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Read the rates that the user chose: Lightning restores those of the checkpoint after this hook."""
        if trainer.lr_scheduler_configs and self._plan.setup.mode != "disabled":
            name = type(trainer.lr_scheduler_configs[0].scheduler).__name__
            raise ValueError(
                f"configure_optimizers returns the scheduler {name}, and RemoteLR sets the same rate: return the "
                f"optimizer alone, and give the schedule as policy="
            )
        self._groups = ParameterGroups([_innermost(each) for each in trainer.optimizers])
        self._rate = self._groups.reference

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the run and begin at the checkpoint's position. A resumed epoch has no `on_train_epoch_start`."""
        assert self._groups is not None
        self._training = self._plan.training(self._document, current_ranks())
        self._take_position(trainer)
        steps, total = _lengths(trainer, pl_module)
        self._training.open(
            initial_learning_rate=self._groups.reference or None, steps_per_epoch=steps, total_epochs=total
        )
        self._training.begin(self._epoch, self._before)
        self._training.roll_back(self._epoch)
        optimizers = [_innermost(each) for each in trainer.optimizers]
        self._hooks = [
            each.register_step_pre_hook(lambda *_, leads=index == 0: self._before_step(leads))
            for index, each in enumerate(optimizers)
        ]
        # Not `trainer.global_step`, which counts the steps of all optimizers.
        self._hooks.append(optimizers[0].register_step_post_hook(lambda *_: self._after_step()))
        self._write()
        self._obey(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Note the metrics of earlier epochs."""
        self._old = dict(trainer.callback_metrics)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Set the rate for those that log it before the step, and apply live commands."""
        if self._training is not None and self._training.apply_live_commands():
            self._obey(trainer)
        self._write()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Set the rate of the next step, for loggers that come before this callback."""
        self._write()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Note the metrics of earlier validations."""
        self._old_at_validation = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the new metrics for the report, and for a checkpoint that is saved now."""
        # The sanity validation comes before `on_train_start`.
        if self._training is not None:
            self._validated.update(_new(trainer.callback_metrics, self._old_at_validation))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the epoch, set the rate of the next one, and stop where the decision says so."""
        if self._training is None:
            return
        metrics = {**self._validated, **_new(trainer.callback_metrics, self._old)}
        self._training.report(self._epoch, metrics, step=self._steps, learning_rate=self._first_rate)
        self._epoch, self._before, self._first_rate = self._epoch + 1, self._steps, None
        self._validated = {}
        self._training.roll_back(self._epoch)
        self._write()
        self._obey(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the end of the run."""
        self._remove_hooks()
        if self._training is not None:
            self._training.finish()
            self._training = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the connection and keep the reports; the run goes on with its next attempt."""
        self._remove_hooks()
        if self._training is not None:
            self._training.abandon()
            self._training = None

    def state_dict(self) -> dict[str, Any]:
        """The epoch in progress, in numbers only. The policy and its state are in the service and the spool."""
        if self._groups is None:
            return {}
        return {
            "epoch": self._epoch,
            "steps_before": self._before,
            "steps": self._steps,
            "first_rate": self._first_rate,
            "metrics": dict(self._validated),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the position of a checkpoint."""
        self._loaded = dict(state_dict)

    def _take_position(self, trainer: Any) -> None:
        loaded, self._loaded = self._loaded, {}
        self._old, self._validated, self._first_rate = {}, {}, None
        self._epoch, self._before = trainer.current_epoch, trainer.global_step
        self._steps = loaded.get("steps", trainer.global_step)
        if loaded.get("epoch") == trainer.current_epoch:
            # A checkpoint within the epoch, or between its validation and its end: the report is still to come.
            self._before, self._first_rate = loaded["steps_before"], loaded["first_rate"]
            self._validated = dict(loaded["metrics"])

    def _before_step(self, leads: bool) -> None:
        """The last moment before the rate is used: no other callback writes after it."""
        # The others of several optimizers have the rate of the step that the first one makes or has made.
        self._write(keep=not leads)
        if self._first_rate is None:
            self._first_rate = self._rate

    def _after_step(self) -> None:
        self._steps += 1

    def _write(self, *, keep: bool = False) -> None:
        """Set the rate of the present position. keep: the one that was set last."""
        if self._training is None or self._training.is_disabled:
            return
        assert self._groups is not None
        if keep:
            self._groups.write(self._rate, None)
            return
        at = self._steps - self._before
        rate = self._training.learning_rate(self._epoch, at)
        self._groups.take_added(self._rate)
        self._rate = self._rate if rate is None else rate
        self._groups.write(self._rate, self._training.momentum(self._epoch, at))

    def _obey(self, trainer: Any) -> None:
        if self._training is not None and self._training.ended and not trainer.should_stop:
            trainer.should_stop = True
            if trainer.is_global_zero:
                self._plan.say(f"RemoteLR: training stops after epoch {self._epoch}: {self._training.stop_reason}.")

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _innermost(optimizer: Any) -> Any:
    """The torch optimizer inside the wrappers of strategies."""
    while getattr(optimizer, "optimizer", None) is not None:
        optimizer = optimizer.optimizer
    return optimizer


def _lengths(trainer: Any, pl_module: Any) -> tuple[int | None, int | None]:
    """Optimizer steps of an epoch, and number of epochs; None if unknown."""
    batches = trainer.num_training_batches
    steps = None
    if math.isfinite(batches) and pl_module.automatic_optimization:
        steps = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        return steps, int(trainer.max_epochs)
    return steps, math.ceil(trainer.max_steps / steps) if steps and trainer.max_steps > 0 else None


def _new(metrics: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that were logged since `old` was taken: Lightning replaces a value that is logged again."""
    return {name: float(value) for name, value in metrics.items() if old.get(name) is not value}
