"""The callback: it sets the rates before each optimizer step, and reports each evaluation."""

import math
from collections.abc import Mapping
from typing import Any, Self, Unpack

from transformers import TrainerCallback

from remotelr._training.arguments import Plan, SharedArguments
from remotelr._training.training import Training
from remotelr.rules import policy_from_json
from remotelr.torch.groups import ParameterGroups
from remotelr.torch.ranks import current_ranks
from remotelr.transformers.arguments import policy_of_arguments

# What the Trainer logs beside metrics.
_NO_METRICS = ("epoch", "learning_rate", "num_input_tokens_seen")
_TIMES = ("_runtime", "_per_second", "_time")


class RemoteLR(TrainerCallback):  # type: ignore[misc]  # transformers is not installed where types are checked
    """Sets the learning rate of a `transformers.Trainer` to the one that a RemoteLR service decides.

    `Trainer(..., callbacks=[RemoteLR(url, run="bert-7", patience=3)])`. One evaluation is one epoch of the run. With
    `eval_strategy="no"` it is one epoch of the training, with the loss that the Trainer has logged. The schedule of
    `lr_scheduler_type` has no effect; the Trainer logs the rates in use.

    `trainer.train(resume_from_checkpoint=True)` continues the run: the checkpoint's `log_history` has the position.

    If the service is unreachable, training goes on by the same rules in this process, after at most `timeout_s` per
    evaluation and a warning. A file keeps the reports, and the service receives them when it answers again.

    With several processes, rank 0 alone talks to the service, and all ranks have one rate at every step.

    url: address of the service; by default `REMOTELR_URL`. Without either, the rules decide in this process alone.
    run: the run's key, unique per training job; by default `REMOTELR_RUN`.
    policy: a document (`{"type": "cosine", …}`) or a policy of `remotelr.rules`. By default ReduceLROnPlateau, with
        mode, factor, patience, threshold, threshold_mode, cooldown, min_lr and eps named and defaulted as in torch.
        For the schedule of the arguments use `RemoteLR.from_args`.
    monitor: the metric of the default policy; by default `eval_loss`, and `loss` with `eval_strategy="no"`.
    shared: as in `remotelr.torch.RemoteLR`; an epoch there is an evaluation here.

    With a dictionary as `eval_dataset`, the evaluations of one step are one report: those up to the one that has the
    metrics which the policy monitors.

    Raises InvalidPolicy, TypeError and ValueError. `train` raises ServiceRefused; later only ServiceUnreachable, with
    on_unreachable="raise", and RanksDisagree.
    """

    def __init__(
        self,
        url: str | None = None,
        run: str | None = None,
        policy: Any = None,
        monitor: str | None = None,
        **shared: Unpack[SharedArguments],
    ) -> None:
        self._plan = Plan(url, run, policy, shared)
        self.run, self.url = self._plan.setup.run, self._plan.setup.url
        self._monitor = monitor
        self._plan.document(monitor or "eval_loss")
        self._args: Any = None
        self._training: Training | None = None
        self._groups: ParameterGroups | None = None
        self._scheduler: Any = None
        self._monitored: tuple[str, ...] = ()
        # The report in progress, and optimizer steps before it; whether this process has made one of its own.
        self._point = self._before = self._step = 0
        self._is_begun = False
        self._first_rate: float | None = None
        self._rate = 0.0
        self._metrics: dict[str, Any] = {}
        self._is_due = False
        # Rank 0 prints messages.
        self._speaks = True

    @classmethod
    def from_args(cls, args: Any, url: str | None = None, run: str | None = None, **settings: Any) -> Self:
        """A RemoteLR with the rates of `TrainingArguments`, step by step.

        args: of the Trainer: `lr_scheduler_type`, `warmup_steps`, `lr_scheduler_kwargs`, `learning_rate`.
        settings: of `RemoteLR`, apart from `policy`.

        Raises ValueError for a scheduler that no policy equals.
        """
        # The number of steps may depend on the dataset, so the lasting policy comes when the training begins.
        made = cls(url, run, policy_of_arguments(args, max(args.max_steps, 1)), **settings)
        made._args = args
        return made

    @property
    def stopped(self) -> bool:
        """The training must end: by the policy, by a command, or because a newer attempt has taken over."""
        return self._training is not None and self._training.ended

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, lr_scheduler: Any = None, **kwargs: Any
    ) -> None:
        """Open the run and begin at the checkpoint's position."""
        self._scheduler = _innermost(lr_scheduler, "scheduler")
        self._groups = ParameterGroups([_innermost(optimizer, "optimizer")])
        self._rate = self._groups.reference
        evaluates = _strategy(args) != "no"
        document = self._plan.document(self._monitor or ("eval_loss" if evaluates else "loss"))
        if self._args is not None:
            document = policy_of_arguments(self._args, state.max_steps)
        self._monitored = tuple(policy_from_json(document).monitors())
        self._training = self._plan.training(document, current_ranks())
        steps, total = _lengths(args, state, kwargs.get("train_dataloader"))
        self._begin_point(*(_evaluated(state) if evaluates else _trained(state, steps)))
        self._step = state.global_step
        self._speaks = state.is_world_process_zero
        self._training.open(
            initial_learning_rate=self._groups.reference or None, steps_per_epoch=steps, total_epochs=total
        )
        self._training.begin(self._point, self._before)
        self._training.roll_back(self._point)
        self._write()
        self._obey(control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the rate here as well as before the step: DeepSpeed makes its step within the backward pass."""
        if self._training is None:
            return
        if self._is_due:
            self._report(control)
        self._step = state.global_step
        if self._training.apply_live_commands():
            self._obey(control)
        self._write()
        self._is_begun = True
        if self._step == self._before:
            # A checkpoint within the evaluation's steps does not have the rate that they began with.
            self._first_rate = self._rate

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last moment before the rate is used."""
        if self._training is not None:
            self._write()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step."""
        self._step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Keep the logged loss for the report."""
        if self._training is None or "loss" not in (logs or {}):
            return
        self._metrics.update(_metrics(logs or {}))
        if self._is_due and _strategy(args) == "no":
            self._report(control)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Report the evaluation, and stop where the decision says so."""
        # Not: `trainer.evaluate()` before and after the training, and `eval_on_start`.
        if self._training is None or not self._is_begun or _strategy(args) == "no":
            return
        self._metrics.update(_metrics(metrics or {}))
        self._is_due = True
        if all(name in self._metrics for name in self._monitored):
            self._report(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Without evaluations: report the epoch, or let the loss that is logged next do it."""
        if self._training is None or not self._is_begun:
            return
        if _strategy(args) == "no":
            self._is_due = True
            is_logged = any("loss" in each and each["step"] == state.global_step for each in state.log_history)
            if is_logged or not control.should_log:
                self._report(control)
        elif self._is_due:
            self._report(control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report an evaluation without the monitored metric."""
        if self._is_due:
            self._report(control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report the end of the run."""
        if self._training is None:
            return
        if self._is_due:
            self._report(control)
        self._training.finish()
        self._training = None

    def _report(self, control: Any) -> None:
        assert self._training is not None
        self._training.report(self._point, self._metrics, step=self._step, learning_rate=self._first_rate)
        self._begin_point(self._point + 1, self._step)
        self._training.roll_back(self._point)
        self._write()
        self._obey(control)

    def _begin_point(self, point: int, before: int) -> None:
        self._point, self._before = point, before
        self._first_rate, self._metrics = None, {}
        self._is_begun = self._is_due = False

    def _write(self) -> None:
        assert self._training is not None
        assert self._groups is not None
        if self._training.is_disabled:
            return
        at = self._step - self._before
        rate = self._training.learning_rate(self._point, at)
        self._groups.take_added(self._rate)
        self._rate = self._rate if rate is None else rate
        rates = self._groups.write(self._rate, self._training.momentum(self._point, at))
        if hasattr(self._scheduler, "_last_lr"):
            # The Trainer logs the scheduler's last rate as the learning rate, not the optimizer's.
            self._scheduler._last_lr = rates  # noqa: SLF001

    def _obey(self, control: Any) -> None:
        if self.stopped and self._speaks and not control.should_training_stop:
            assert self._training is not None
            self._plan.say(f"RemoteLR: training stops after evaluation {self._point}: {self._training.stop_reason}.")
        if self.stopped:
            control.should_training_stop = True


def _innermost(wrapped: Any, name: str) -> Any:
    """The torch object inside the wrappers of Accelerate and DeepSpeed."""
    while getattr(wrapped, name, None) is not None:
        wrapped = getattr(wrapped, name)
    return wrapped


def _strategy(args: Any) -> str:
    return str(getattr(args.eval_strategy, "value", args.eval_strategy))


def _lengths(args: Any, state: Any, loader: Any) -> tuple[int | None, int | None]:
    """Optimizer steps from one report to the next, and number of reports; None if unknown."""
    if _strategy(args) == "steps":
        steps = int(state.eval_steps)
        # The Trainer also evaluates after the last step.
        return steps, math.ceil(state.max_steps / steps)
    try:
        batches = len(loader)
    except TypeError:
        return None, None
    return max(1, math.ceil(batches / args.gradient_accumulation_steps)), int(state.num_train_epochs)


def _evaluated(state: Any) -> tuple[int, int]:
    """Evaluations in the checkpoint, and the optimizer steps before the last of them."""
    steps = {
        each["step"] for each in state.log_history if each["step"] > 0 and any(k.startswith("eval_") for k in each)
    }
    return len(steps), max(steps, default=0)


def _trained(state: Any, steps_per_epoch: int | None) -> tuple[int, int]:
    """Whole epochs in the checkpoint, and their optimizer steps."""
    if steps_per_epoch is None:
        if state.global_step:
            raise ValueError(
                "the dataset has no length, so the epochs in the checkpoint are unknown: use eval_strategy='steps'"
            )
        return 0, 0
    epochs = state.global_step // steps_per_epoch
    return epochs, epochs * steps_per_epoch


def _metrics(logs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in logs.items() if name not in _NO_METRICS and not name.endswith(_TIMES)}
