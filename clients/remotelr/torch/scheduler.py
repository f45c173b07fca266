"""The scheduler: it sets the rates before each optimizer step, and reports each epoch."""

import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from remotelr._http.transport import Transport
from remotelr._session.identity import ProcessIdentity
from remotelr._session.session import OnUnreachable
from remotelr._session.setup import set_up
from remotelr._training.policy_argument import document_of
from remotelr._training.ranks import Ranks
from remotelr._training.training import Reduce, Training
from remotelr.client import FinalStatus, OnConflict
from remotelr.errors import RemoteLRWarning
from remotelr.rules.policy.importers import from_torch_scheduler
from remotelr.torch.groups import ParameterGroups
from remotelr.torch.ranks import current_ranks

_PLATEAU = ("monitor", "mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps")

# The argument of a call without one, which every framework may make at any time; None is a report without a metric.
_NOTHING: Any = object()


class RemoteLR(ReduceLROnPlateau):  # type: ignore[misc]  # torch is not installed where types are checked
    """Sets the learning rate of an optimizer to the one that a RemoteLR service decides.

    Used like torch's ReduceLROnPlateau, and an instance of it: call `step(val_loss)` after each validation, on every
    rank, and keep `state_dict()` in the checkpoint. The rate is written by a hook right before each optimizer step, so
    a policy by steps needs no further call, and no other scheduler overrides it.

    If the service is unreachable, training goes on by the same rules in this process, after at most `timeout_s` per
    epoch and a warning. A file keeps the reports, and the service receives them when it answers again.

    With an initialised process group, rank 0 alone talks to the service, and all ranks have one rate at every step.

    optimizer: or several, which share the counter of the first; wrappers with an attribute `optimizer` are unwrapped.
    url: address of the service; by default `REMOTELR_URL`. Without either, the rules decide in this process alone.
    run: the run's key, unique per training job; by default `REMOTELR_RUN`.
    policy: a document (`{"type": "cosine", …}`) or a policy of `remotelr.rules`. By default ReduceLROnPlateau, with
        mode, factor, patience, threshold, threshold_mode, cooldown, min_lr and eps named and defaulted as in torch.
        min_lr bounds the reference rate; groups keep their ratio to it.
    monitor: name of the metric that `step` receives as a number.
    steps_per_epoch, total_epochs: of the run, if they are known. After `total_epochs` the run is completed.
    last_epoch: epochs that are finished when the training begins, if no state is loaded. Give 0 to begin anew with an
        optimizer that has made steps.
    reduce: over ranks, `rank0` reports the metrics of rank 0, `mean` their mean (see `step`).
    checkpoint: a function that loads the model and the optimizer, not the scheduler, of the end of an epoch (0-based),
        for a guard that rolls back.
    live: apply commands while an epoch runs; needs a single process.
    ranks: of the training; by default those of the default process group.
    experiment, tags, on_conflict, on_unreachable, timeout_s, state_file, spool_dir, token, allow_http, verify,
    headers, transport: as in `remotelr.keras.RemoteLR`. verbose: print messages.

    last_epoch: of the object, epochs that are finished. stopped: the training must end.

    Raises InvalidPolicy, TypeError and ValueError. The first optimizer step raises ServiceRefused, or ValueError if
    the optimizer has made steps and the scheduler's state was not loaded; later only ServiceUnreachable, with
    on_unreachable="raise", and RanksDisagree.
    """

    # Accelerate then returns the scheduler unwrapped, and still keeps its state.
    _is_accelerate_prepared = True

    def __init__(
        self,
        optimizer: Any,
        url: str | None = None,
        run: str | None = None,
        policy: Any = None,
        monitor: str = "val_loss",
        *,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: Any = 0.0,
        eps: float = 1e-8,
        steps_per_epoch: int | None = None,
        total_epochs: int | None = None,
        last_epoch: int | None = None,
        reduce: Reduce = "rank0",
        checkpoint: Callable[[int], Any] | None = None,
        experiment: str | None = None,
        tags: Mapping[str, str] | None = None,
        on_conflict: OnConflict = "error",
        on_unreachable: OnUnreachable = "local",
        timeout_s: float = 5.0,
        live: bool = False,
        state_file: str | os.PathLike[str] | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        token: str | None = None,
        allow_http: bool = False,
        verify: Any = True,
        headers: Mapping[str, str] | None = None,
        transport: Transport | None = None,
        ranks: Ranks | None = None,
        verbose: bool = True,
    ) -> None:
        given_optimizers = optimizer if isinstance(optimizer, Sequence) else [optimizer]
        optimizers = list({id(each): each for each in map(_unwrapped, given_optimizers)}.values())
        self._groups = ParameterGroups(optimizers)
        given = (monitor, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)
        plateau = dict(zip(_PLATEAU, given, strict=True))
        if policy is None:
            plateau["min_lr"] = min_lr = self._floor(min_lr)
            policy = {"type": "reduce_on_plateau", "flavor": "torch", **plateau}
        elif others := [name for name in _PLATEAU[1:] if plateau[name] != _DEFAULTS[name]]:
            raise ValueError(
                f"{', '.join(others)} belong to the default policy, a plateau: put them into `policy` instead"
            )
        document = document_of(policy)
        super().__init__(optimizers[0], mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)
        self.monitor = monitor
        ranks = ranks or current_ranks()
        if live and ranks is not None and ranks.count > 1:
            raise ValueError(
                f"live=True needs a single process, got {ranks.count} ranks: they would differ in an epoch"
            )
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
        self.run, self.url = setup.run, setup.url
        self._training = Training(
            setup,
            {"policy": document, "experiment": experiment, "tags": tags, "on_conflict": on_conflict},
            ranks=ranks,
            reduce=reduce,
            load=checkpoint,
            say=_print if verbose else _log,
        )
        self._lengths = {"steps_per_epoch": steps_per_epoch, "total_epochs": total_epochs}
        self._is_open = self._is_closed = False
        # Whether the decision in force at the end has ended the training, and why.
        self._has_ended, self._stop_reason = False, ""
        self._anew = last_epoch is not None
        # Of a training that is not open: it was loaded, or is closed.
        self._snapshot = ""
        self.last_epoch = last_epoch or 0
        # Steps of the optimizer in all, and in this epoch; the rate in force, and the one that the epoch began with.
        self._steps = (steps_per_epoch or 0) * self.last_epoch
        self._steps_in_epoch = 0
        self._rate = self._groups.reference
        self._momentum: float | None = None
        self._first_rate: float | None = None
        # Steps with which torch.distributed.checkpoint has made the optimizer's state, and whether one is under way.
        self._initialisations, self._is_initialisation = 0, False
        self._has_warned = False
        self._last_lr = self._groups.read()
        self._handles = [handle for each in optimizers for handle in self._hooks(each, leads=each is optimizers[0])]

    def _hooks(self, optimizer: Optimizer, *, leads: bool) -> Iterator[Any]:
        # A cell of a notebook that runs again makes a second scheduler, and the first one would go on unseen.
        previous = getattr(optimizer, "_remotelr", None)
        if previous is not None:
            previous._retire()  # noqa: SLF001
        optimizer._remotelr = self  # noqa: SLF001
        yield optimizer.register_step_pre_hook(lambda *_: self._before_step(leads))
        yield optimizer.register_load_state_dict_post_hook(lambda *_: self._groups.forget_written())
        if leads:
            yield optimizer.register_step_post_hook(lambda *_: self._after_step())

    def _retire(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._leave()

    @classmethod
    def from_scheduler(
        cls,
        scheduler: Any,
        url: str | None = None,
        run: str | None = None,
        *,
        unit: Literal["epoch", "step"] = "epoch",
        positions: int | None = None,
        monitor: str = "val_loss",
        **settings: Any,
    ) -> Self:
        """A RemoteLR with the rates of a torch scheduler, for its optimizer. Do not call `step` of that one any more.

        unit: of one `scheduler.step()` in the training loop so far. positions: for LambdaLR and MultiplicativeLR, the
        number of rates to store. settings: of `RemoteLR`.

        Raises InvalidPolicy for a scheduler that no policy equals.
        """
        policy = from_torch_scheduler(scheduler, unit=unit, positions=positions, monitor=monitor)
        return cls(scheduler.optimizer, url, run, policy, monitor, **settings)

    def step(self, metrics: Any = _NOTHING, epoch: int | None = None) -> None:
        """Report the epoch and set the rate of the next one. Call it on every rank.

        metrics: the value of `monitor`, or metrics by name, or None on ranks that have not validated. With
            reduce="mean", `(metrics, weight)` weighs the mean, for example by the number of samples.
        epoch: ignored, as torch deprecates it.

        Without an argument, or without an optimizer step since the last report, the call has no effect: Accelerate,
        DeepSpeed and Trainer call it after every batch.
        """
        if metrics is _NOTHING or self._steps_in_epoch == 0 or self._is_closed:
            return
        metrics, weight = metrics if isinstance(metrics, tuple) else (metrics, 1.0)
        logs = metrics if isinstance(metrics, Mapping) else {} if metrics is None else {self.monitor: metrics}
        logs = {name: _number(value) for name, value in logs.items()}
        self._training.report(
            self.last_epoch, logs, step=self._steps, learning_rate=self._first_rate, weight=float(weight)
        )
        self.last_epoch += 1
        self._steps_in_epoch, self._first_rate = 0, None
        if self._training.is_disabled:
            return
        self._groups.take_added(self._rate)
        self._training.roll_back(self.last_epoch)
        self._advance()
        self._write()
        self._take_plateau()
        total = self._lengths["total_epochs"]
        if self.stopped or (total is not None and self.last_epoch >= total):
            self.close()

    @property
    def base_lrs(self) -> list[float]:
        """The rates of the groups while the run's rate is its initial one."""
        return self._groups.base_rates

    @property
    def stopped(self) -> bool:
        """The training must end: by the policy, by a command, or because a newer attempt has taken over."""
        return self._has_ended or self._training.ended

    @property
    def stop_reason(self) -> str:
        """Why it must end, as a clause; empty if it need not."""
        return self._stop_reason or (self._training.stop_reason if self._training.ended else "")

    def close(self, status: FinalStatus = "completed") -> None:
        """Report the end of the run, once. With `total_epochs` the last `step` does it.

        Further optimizer steps have the last rate and are not reported. `load_state_dict` begins again.
        """
        if self._is_open:
            self._snapshot = self._training.snapshot()
            self._stop_reason, self._has_ended = self.stop_reason, self._training.ended
            self._training.finish(status)
            self._is_open, self._is_closed = False, True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._leave()

    def _leave(self) -> None:
        self._training.abandon()
        self._is_open, self._is_closed = False, True

    def get_last_lr(self) -> list[float]:
        """The rates in force, by group."""
        return self._last_lr

    def get_lr(self) -> list[float]:
        """As `get_last_lr`: ignite reads this one."""
        return self._groups.read()

    def state_dict(self) -> dict[str, Any]:
        """The position in the run, and the newest decision, in numbers and one string.

        The service and the spool know more; without either, a resumed training goes on from this.
        """
        return {
            "last_epoch": self.last_epoch,
            "steps": self._steps,
            "steps_in_epoch": self._steps_in_epoch,
            "first_rate": self._first_rate,
            "base_lrs": self.base_lrs,
            "reference": self._groups.reference,
            "_last_lr": list(self._last_lr),
            "run": self._training.snapshot() or self._snapshot,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue at the position of a checkpoint, before the first optimizer step.

        Raises ValueError for the state of another scheduler, and after the training has begun.
        """
        missing = {"last_epoch", "steps", "steps_in_epoch"} - state_dict.keys()
        if missing:
            raise ValueError(f"the state has no {', '.join(sorted(missing))}: it is not the state of a RemoteLR")
        if self._is_open:
            raise ValueError("the training has begun: load the state before the first optimizer step")
        self.last_epoch = int(state_dict["last_epoch"])
        self._steps = int(state_dict["steps"])
        self._steps_in_epoch = int(state_dict["steps_in_epoch"])
        self._first_rate = state_dict.get("first_rate")
        if "reference" in state_dict:
            self._groups.restore(state_dict["base_lrs"], float(state_dict["reference"]))
            self._rate = self._groups.reference
        self._snapshot = str(state_dict.get("run") or "")
        self._training.resume_from(self._snapshot)
        self._anew, self._is_closed = True, False
        self._has_ended, self._stop_reason = False, ""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_step(self, leads: bool) -> None:
        """The last moment before a rate is used: no other scheduler writes after it."""
        if self._training.is_disabled or self._is_closed:
            return
        if not self._is_open:
            self._is_initialisation = self._groups.is_initialisation()
            if self._is_initialisation:
                return
            self._start()
        self._groups.take_added(self._rate)
        self._warn_overwritten()
        # The others of several optimizers have the rate of the step that the first one makes or has made.
        if leads:
            self._training.apply_live_commands()
            self._advance()
        self._write()
        if self._first_rate is None:
            self._first_rate = self._rate

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_step(self) -> None:
        if self._is_initialisation:
            self._initialisations += 1
        elif not self._is_closed:
            self._steps_in_epoch += 1
            self._steps += 1

    def _start(self) -> None:
        made = self._groups.steps_made() - self._initialisations
        if made > 0 and not self._anew:
            raise ValueError(
                f"the optimizer has made {made} steps or more, but the scheduler begins at epoch 0, which would rewind "
                f"run {self.run!r}: load the scheduler's state with load_state_dict, or give last_epoch="
            )
        self._training.open(initial_learning_rate=self._groups.reference or None, **self._lengths)
        self._training.begin(self.last_epoch, self._steps - self._steps_in_epoch)
        self._is_open = True
        self._training.roll_back(self.last_epoch)
        self._groups.forget_written()
        self._advance()

    def _advance(self) -> None:
        """The rate and the momentum of the present position; those in force if it has no decision."""
        rate = self._training.learning_rate(self.last_epoch, self._steps_in_epoch)
        if rate is not None:
            self._rate = rate
            self._momentum = self._training.momentum(self.last_epoch, self._steps_in_epoch)

    def _write(self) -> None:
        self._last_lr = self._groups.write(self._rate, self._momentum)

    def _warn_overwritten(self) -> None:
        found = None if self._has_warned else self._groups.overwritten()
        if found is not None:
            self._has_warned = True
            warnings.warn(
                f"RemoteLR: a rate was changed to {found:g} since the last optimizer step, and is set back: another "
                f"scheduler or callback writes the rates of this optimizer. Remove it; loggers may show its rates.",
                RemoteLRWarning,
                stacklevel=2,
            )

    def _take_plateau(self) -> None:
        """The attributes that readers of a ReduceLROnPlateau look at."""
        decision = self._training.decision
        if decision is not None and decision.plateau is not None:
            self.best: Any = decision.plateau.get("best")
            self.num_bad_epochs = int(decision.plateau.get("wait") or 0)
            self.cooldown_counter = int(decision.plateau.get("cooldown") or 0)

    def _floor(self, min_lr: Any) -> float:
        """torch's `min_lr`: a number, or one per group if they are in the ratio of the groups."""
        if not isinstance(min_lr, (list, tuple)):
            return float(min_lr)
        ratios = self._groups.ratios
        floors = [float(floor) / ratio if ratio else float(floor) for floor, ratio in zip(min_lr, ratios, strict=False)]
        if len(min_lr) != len(ratios) or any(abs(each - floors[0]) > 1e-12 * floors[0] for each in floors):
            raise ValueError(
                f"min_lr must be one number, got {min_lr!r:.100}: it bounds the reference rate, and the groups keep "
                f"their ratios {ratios}"
            )
        return floors[0]


def _unwrapped(optimizer: Any) -> Optimizer:
    """The torch optimizer inside the wrappers of Accelerate and others."""
    # Accelerate's wrapper is an Optimizer itself, whose hooks never run.
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer) or (
        inner is not None and not isinstance(optimizer, Optimizer)
    ):
        optimizer = inner
    return optimizer


def _number(value: Any) -> Any:
    # float() of a tensor with a gradient warns.
    return float(value.detach()) if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def _print(message: str) -> None:
    print(message, flush=True)  # noqa: T201 - as torch's schedulers print


def _log(message: str) -> None:
    logging.getLogger("remotelr").info(message)


_DEFAULTS = {name: inspect.signature(RemoteLR).parameters[name].default for name in _PLATEAU}
