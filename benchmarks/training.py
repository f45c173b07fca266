"""What `RemoteLR` adds to a fit, beside Keras's own `ReduceLROnPlateau`. Run by itself in a process of its own.

python -m benchmarks.training http://127.0.0.1:8000
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.servers import REPOSITORY, service
from benchmarks.table import Line

EPOCHS = 40
BATCHES = 2_000


def measure(folder: Path, *, rounds: int) -> Iterator[Line]:
    """The milliseconds it adds to an epoch, and to a batch when the policy counts steps: differences, no ratios."""
    with service(f"sqlite:///{folder}/training.db", folder) as server:
        command = [sys.executable, "-m", "benchmarks.training", f"http://127.0.0.1:{server.port}", str(rounds)]
        environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    for name, (ours, theirs) in json.loads(done.stdout.splitlines()[-1]).items():
        yield Line(
            f"{name}: RemoteLR beside ReduceLROnPlateau, ms more", f"{ours:.3f} ms, {theirs:.3f} ms", ours - theirs
        )


def _times(url: str, rounds: int) -> dict[str, tuple[float, float]]:
    import keras  # noqa: PLC0415  # only in the process that trains
    import numpy as np  # noqa: PLC0415

    from remotelr.keras import RemoteLR  # noqa: PLC0415

    inputs, targets = np.ones((BATCHES, 4), "float32"), np.zeros((BATCHES, 1), "float32")
    stepwise = {"schedule": {"type": "cosine", "initial_learning_rate": 0.1, "decay_steps": 10**6}, "unit": "step"}
    plateau = {"type": "reduce_on_plateau", "monitor": "loss", "factor": 0.5, "patience": 3}
    numbers = iter(range(10**6))

    def remote(policy: dict[str, Any]) -> Any:
        return RemoteLR(url, f"fit-{next(numbers)}", policy)

    def local() -> Any:
        return keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=3)

    def fit(callback: Any, *, samples: int, epochs: int) -> float:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        few = {"batch_size": 1, "verbose": 0}
        model.fit(inputs[:samples], targets[:samples], epochs=1, **few)
        began = time.perf_counter()
        model.fit(inputs[:samples], targets[:samples], epochs=epochs, callbacks=[callback], **few)
        return (time.perf_counter() - began) * 1e3

    def median(callback: Callable[[], Any], other: Callable[[], Any], **shape: int) -> tuple[float, float]:
        pairs = [(fit(callback(), **shape), fit(other(), **shape)) for _ in range(rounds)]
        return statistics.median(one for one, _ in pairs), statistics.median(two for _, two in pairs)

    epoch = median(lambda: remote(plateau), local, samples=4, epochs=EPOCHS)
    batch = median(lambda: remote(stepwise), local, samples=BATCHES, epochs=1)
    return {
        "an epoch": (epoch[0] / EPOCHS, epoch[1] / EPOCHS),
        "a batch": (batch[0] / BATCHES, batch[1] / BATCHES),
    }


if __name__ == "__main__":
    print(json.dumps(_times(sys.argv[1], int(sys.argv[2]))))
