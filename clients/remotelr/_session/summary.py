"""What one process did in a run, as one line at its start and one at its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remotelr.rules import Decision


@dataclass(slots=True)
class Summary:
    """Counts of one process.

    epochs: reported. reductions: of the rate, by a plateau. metric: that the policy monitors first. best: its best
    value by the policy's plateau, or without a plateau its smallest; best_epoch: of that value.
    """

    epochs: int = 0
    reductions: int = 0
    metric: str | None = None
    best: float | None = None
    best_epoch: int = 0

    def add(self, epoch: int, metrics: Mapping[str, float], monitors: Sequence[str], decision: Decision | None) -> None:
        """Count the report of `epoch`. decision: about the next epoch."""
        self.epochs += 1
        about_next = decision is not None and decision.epoch == epoch + 1
        if decision is not None and about_next and decision.reason == "plateau" and decision.changed:
            self.reductions += 1
        self.metric = next((name for name in monitors if name in metrics), None)
        value = metrics.get(self.metric or "")
        if value is None:
            return
        plateau = decision.plateau if decision is not None and about_next else None
        better = plateau["best"] == value != self.best if plateau else self.best is None or value < self.best
        if better:
            self.best, self.best_epoch = value, epoch

    def end_line(self, run: str, status: str, learning_rate: float | None) -> str:
        """`run 'mnist-7' is completed: 50 epochs, 8 reductions, best val_loss 0.128 in epoch 11.`"""
        parts = [_counted(self.epochs, "epoch")]
        if self.reductions:
            parts.append(_counted(self.reductions, "reduction"))
        if self.best is not None:
            parts.append(f"best {self.metric} {self.best:.6g} in epoch {self.best_epoch + 1}")
        elif learning_rate is not None:
            parts.append(f"next learning rate {learning_rate:.6g}")
        return f"RemoteLR: run {run!r} is {status}: {', '.join(parts)}."


def start_line(run: str, url: str | None, decision: Decision | None) -> str:
    """`run 'mnist-7' on http://127.0.0.1:8000 begins epoch 1 with learning rate 0.1.`"""
    where = f"on {url}" if url else "without a service"
    if decision is None:
        return f"RemoteLR: run {run!r} {where} keeps the optimizer's learning rate for now."
    watch = f" Follow it with: remotelr runs watch {run}" if url else ""
    return (
        f"RemoteLR: run {run!r} {where} begins epoch {decision.epoch + 1} with learning rate "
        f"{decision.learning_rate:.6g}.{watch}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
