"""What the rates must be: the plateau machine written a second time, from the libraries and not from the product.

Nothing here imports `remotelr`. Float64 throughout; rates are compared with `==`.
"""

import math
import random
from dataclasses import dataclass
from typing import Any, Literal

# A policy that never saturates: with a floor or a strong factor, a report counted twice is forgotten again.
FACTOR = 0.97
PATIENCE = 1
COOLDOWN = 1
INITIAL = 0.1


@dataclass
class Plateau:
    """`torch.optim.lr_scheduler.ReduceLROnPlateau` (min, absolute threshold 0, eps 0), or tf.keras's callback.

    torch: a reduction at the bad report after `patience`; `cooldown` n ignores n reports.
    keras_legacy: a reduction at bad report number `patience`; the report that ends a cooldown counts already.
    """

    flavor: Literal["torch", "keras_legacy"] = "torch"
    rate: float = INITIAL
    best: float = math.inf
    wait: int = 0
    cooldown: int = 0
    reports: int = 0

    def report(self, loss: float) -> float:
        """The rate after one more loss."""
        self.reports += 1
        (self._torch if self.flavor == "torch" else self._keras)(loss)
        return self.rate

    def _torch(self, loss: float) -> None:
        if math.isfinite(loss) and loss < self.best:
            self.best = loss
            self.wait = 0
        else:
            self.wait += 1
        if self.cooldown > 0:
            self.cooldown -= 1
            self.wait = 0
        if self.wait > PATIENCE:
            self._reduce()

    def _keras(self, loss: float) -> None:
        if self.cooldown > 0:
            self.cooldown -= 1
            self.wait = 0
        if math.isfinite(loss) and loss < self.best:
            self.best = loss
            self.wait = 0
        elif self.cooldown == 0:
            self.wait += 1
            if self.wait >= PATIENCE:
                self._reduce()

    def _reduce(self) -> None:
        self.rate = self.rate * FACTOR
        self.cooldown = COOLDOWN
        self.wait = 0

    @property
    def state(self) -> dict[str, Any]:
        """As the service tells it in `plateau`."""
        best = None if math.isinf(self.best) else self.best
        return {"best": best, "wait": self.wait, "cooldown": self.cooldown}


POLICY: dict[str, Any] = {
    "type": "reduce_on_plateau",
    "flavor": "torch",
    "factor": FACTOR,
    "patience": PATIENCE,
    "cooldown": COOLDOWN,
    "threshold": 0.0,
    "threshold_mode": "abs",
    "eps": 0.0,
    "min_lr": 0.0,
}


def loss_of(epoch: int, noise: random.Random) -> float:
    """A loss that falls and shakes; six digits, as people log it."""
    return round(1 / (1 + 0.05 * epoch) + noise.gauss(0, 0.05), 6)


def losses(seed: int, count: int) -> list[float]:
    noise = random.Random(seed)
    return [loss_of(epoch, noise) for epoch in range(count)]


def rates(values: list[float]) -> list[float]:
    """The rate answered to each of these losses."""
    plateau = Plateau()
    return [plateau.report(value) for value in values]
