"""The user's checkpoints, for a run whose guard rolls back."""

import os
from collections.abc import Callable
from string import Formatter
from typing import Any

CheckpointSource = str | os.PathLike[str] | Callable[[int], Any]


class Checkpoints:
    """Checkpoints of the ends of epochs.

    source: a path with `{epoch}`, which `ModelCheckpoint` counts from 1; or a function that loads the checkpoint of
        an epoch, counted from 0; None for no checkpoints.

    Raises ValueError for a path with other fields, whose values are not known later.
    """

    def __init__(self, source: CheckpointSource | None) -> None:
        self._source = source
        if source is None or callable(source):
            return
        fields = {name for _, name, _, _ in Formatter().parse(os.fspath(source)) if name is not None}
        if fields != {"epoch"}:
            raise ValueError(
                f"checkpoint must be a path whose only field is {{epoch}}, as in "
                f"'checkpoints/{{epoch:03d}}.weights.h5', or a function of the epoch; got {os.fspath(source)!r}"
            )

    def load(self, model: Any, epoch: int) -> str | None:
        """Load the weights of the end of `epoch` into the model; returns the reason if that failed."""
        if self._source is None:
            return "no checkpoints are named: set `checkpoint='checkpoints/{epoch:03d}.weights.h5'`"
        try:
            if callable(self._source):
                self._source(epoch)
            else:
                model.load_weights(os.fspath(self._source).format(epoch=epoch + 1))
        except Exception as error:  # noqa: BLE001 - the user's code and files may raise anything; training goes on
            return f"{type(error).__name__}: {error}"
        return None
