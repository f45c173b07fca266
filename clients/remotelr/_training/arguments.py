"""The keyword arguments that the adapters for frameworks share, and the training that they describe."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from remotelr._http.transport import Transport
from remotelr._session.identity import ProcessIdentity
from remotelr._session.session import OnUnreachable
from remotelr._session.setup import Setup, set_up
from remotelr._training.policy_argument import document_of
from remotelr._training.ranks import Ranks
from remotelr._training.training import Reduce, Training
from remotelr.client import OnConflict

# The defaults of torch's ReduceLROnPlateau.
_PLATEAU: Mapping[str, Any] = {
    "mode": "min",
    "factor": 0.1,
    "patience": 10,
    "threshold": 1e-4,
    "threshold_mode": "rel",
    "cooldown": 0,
    "min_lr": 0.0,
    "eps": 1e-8,
}
_OF_THE_RUN: Mapping[str, Any] = {"experiment": None, "tags": None, "on_conflict": "error"}
_OF_THE_SETUP: Mapping[str, Any] = {
    "on_unreachable": "local",
    "timeout_s": 5.0,
    "live": False,
    "state_file": None,
    "spool_dir": None,
    "token": None,
    "allow_http": False,
    "verify": True,
    "headers": None,
    "transport": None,
}
_OF_THE_TRAINING: Mapping[str, Any] = {"checkpoint": None, "reduce": "rank0", "verbose": True}
_DEFAULTS = {**_PLATEAU, **_OF_THE_RUN, **_OF_THE_SETUP, **_OF_THE_TRAINING}


class SharedArguments(TypedDict, total=False):
    """The keyword arguments of an adapter; `remotelr.torch.RemoteLR` describes them."""

    mode: str
    factor: float
    patience: int
    threshold: float
    threshold_mode: str
    cooldown: int
    min_lr: float
    eps: float
    experiment: str | None
    tags: Mapping[str, str] | None
    on_conflict: OnConflict
    on_unreachable: OnUnreachable
    timeout_s: float
    live: bool
    state_file: str | os.PathLike[str] | None
    spool_dir: str | os.PathLike[str] | None
    token: str | None
    allow_http: bool
    verify: Any
    headers: Mapping[str, str] | None
    transport: Transport | None
    checkpoint: Callable[[int], Any] | None
    reduce: Reduce
    verbose: bool


class Plan:
    """What an adapter needs to train run `run`, checked when the adapter is made.

    setup: of the process. say: prints a message.

    Raises InvalidPolicy, TypeError and ValueError.
    """

    def __init__(self, url: str | None, run: str | None, policy: Any, given: Mapping[str, Any]) -> None:
        if unknown := sorted(given.keys() - _DEFAULTS.keys()):
            raise TypeError(f"RemoteLR() got unexpected arguments {', '.join(unknown)}; it has {', '.join(_DEFAULTS)}")
        values = {**_DEFAULTS, **given}
        others = [name for name in _PLATEAU if values[name] != _PLATEAU[name]]
        if policy is not None and others:
            raise ValueError(
                f"{', '.join(others)} belong to the default policy, a plateau: put them into `policy` instead"
            )
        self._policy = policy
        self._values = values
        self._training: Training | None = None
        self.say = _print if values["verbose"] else _log
        self.setup: Setup = set_up(url, run, ProcessIdentity(), **{name: values[name] for name in _OF_THE_SETUP})

    def document(self, monitor: str) -> dict[str, Any]:
        """The policy's document: by default a plateau of the metric `monitor`, as torch has it."""
        plateau = {name: self._values[name] for name in _PLATEAU}
        default = {"type": "reduce_on_plateau", "flavor": "torch", "monitor": monitor, **plateau}
        return document_of(default if self._policy is None else self._policy)

    def training(self, document: Mapping[str, Any], ranks: Ranks | None) -> Training:
        """The training of this policy on these ranks. Later calls return the first one.

        Raises ValueError for `live` with several ranks.
        """
        if self._training is None:
            values = self._values
            if values["live"] and ranks is not None and ranks.count > 1:
                raise ValueError(
                    f"live=True needs a single process, got {ranks.count} ranks: they would differ in an epoch"
                )
            self._training = Training(
                self.setup,
                {"policy": document, **{name: values[name] for name in _OF_THE_RUN}},
                ranks=ranks,
                reduce=values["reduce"],
                load=values["checkpoint"],
                say=self.say,
            )
        return self._training


def _print(message: str) -> None:
    print(message, flush=True)  # noqa: T201 - as trainers print


def _log(message: str) -> None:
    logging.getLogger("remotelr").info(message)
