"""The checkpoints a user keeps, for a run that is told to go back to one."""

import os
from collections.abc import Callable
from string import Formatter
from typing import Any

# Where a checkpoint lies, as `ModelCheckpoint` has it, or what loads one.
Kept = str | os.PathLike[str] | Callable[[int], Any]


class Checkpoints:
    """Of the ends of epochs.

    kept: a path with `{epoch}` in it, which `ModelCheckpoint` counts from 1, or a function that is given the number
        of an epoch, which counts from 0, and loads what it was at the end of it; None for none.

    Raises ValueError for a path that names anything else, which nobody knows later.
    """

    def __init__(self, kept: Kept | None) -> None:
        self._kept = kept
        if kept is None or callable(kept):
            return
        fields = {name for _, name, _, _ in Formatter().parse(os.fspath(kept)) if name is not None}
        if fields != {"epoch"}:
            raise ValueError(
                f"checkpoint is a path with {{epoch}} in it and nothing else that changes, as in "
                f"'checkpoints/{{epoch:03d}}.weights.h5', or a function of the epoch; not {os.fspath(kept)!r}"
            )

    def load(self, model: Any, epoch: int) -> str | None:
        """Give the model what it was at the end of the epoch; if that cannot be, why not."""
        if self._kept is None:
            return "RemoteLR knows of no checkpoints: `checkpoint='checkpoints/{epoch:03d}.weights.h5'` names them"
        try:
            if callable(self._kept):
                self._kept(epoch)
            else:
                model.load_weights(os.fspath(self._kept).format(epoch=epoch + 1))
        except Exception as error:  # noqa: BLE001 - anybody's code and anybody's file: training goes on without it
            return f"{type(error).__name__}: {error}"
        return None
