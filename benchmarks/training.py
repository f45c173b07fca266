"""What `RemoteLR` adds to a fit, beside Keras's own `ReduceLROnPlateau` and a schedule inside the optimizer.

The measurement runs in a process of its own:

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
BATCHES = 1_000
# Of the models with a policy by steps: a rate that is written before a batch costs in proportion to the weights.
LAYERS = (2, 40, 150)


def measure(folder: Path, *, rounds: int) -> Iterator[Line]:
    """The time of a small epoch, and the CPU time of a batch when the policy counts steps."""
    with service(f"sqlite:///{folder}/training.db", folder) as server:
        command = [sys.executable, "-m", "benchmarks.training", f"http://127.0.0.1:{server.port}", str(rounds)]
        environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    for name, (ours, theirs) in json.loads(done.stdout.splitlines()[-1]).items():
        yield Line(f"RemoteLR : {name}", f"{ours:.3f} ms, {theirs:.3f} ms", ours / theirs)


def _times(url: str, rounds: int) -> dict[str, tuple[float, float]]:
    import keras  # noqa: PLC0415  # only in the process that trains
    import numpy as np  # noqa: PLC0415
    from keras.optimizers.schedules import CosineDecay  # noqa: PLC0415

    from remotelr.keras import RemoteLR  # noqa: PLC0415

    inputs, targets = np.ones((BATCHES, 4), "float32"), np.zeros((BATCHES, 1), "float32")
    stepwise = {"schedule": {"type": "cosine", "initial_learning_rate": 0.1, "decay_steps": 10**6}, "unit": "step"}
    plateau = {"type": "reduce_on_plateau", "monitor": "loss", "factor": 0.5, "patience": 3}
    numbers = iter(range(10**6))

    def remote(policy: dict[str, Any]) -> Any:
        return RemoteLR(url, f"fit-{next(numbers)}", policy)

    def local() -> Any:
        return keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=3)

    def fit(optimizer: Any, callbacks: list[Any], *, layers: int, samples: int, epochs: int) -> tuple[float, float]:
        """Milliseconds, and milliseconds of CPU."""
        dense = [keras.layers.Dense(4) for _ in range(layers - 1)]
        model = keras.Sequential([keras.Input((4,)), *dense, keras.layers.Dense(1)])
        model.compile(optimizer, "mse")
        few = {"batch_size": 1, "verbose": 0, "callbacks": callbacks}
        # The first fit compiles the training step.
        model.fit(inputs[:samples], targets[:samples], epochs=1, **few)
        began, cpu = time.perf_counter(), time.process_time()
        model.fit(inputs[:samples], targets[:samples], initial_epoch=1, epochs=1 + epochs, **few)
        return (time.perf_counter() - began) * 1e3, (time.process_time() - cpu) * 1e3

    def medians(ours: Callable[[], Any], theirs: Callable[[], Any], count: int, column: int) -> tuple[float, float]:
        pairs = [(ours()[column] / count, theirs()[column] / count) for _ in range(rounds)]
        return statistics.median(one for one, _ in pairs), statistics.median(two for _, two in pairs)

    small = {"layers": 2, "samples": 4, "epochs": EPOCHS}
    found = {
        "ReduceLROnPlateau, an epoch": medians(
            lambda: fit(keras.optimizers.SGD(0.01), [remote(plateau)], **small),
            lambda: fit(keras.optimizers.SGD(0.01), [local()], **small),
            EPOCHS,
            0,
        )
    }
    for layers in LAYERS:
        large = {"layers": layers, "samples": BATCHES, "epochs": 1}
        found[f"a schedule in the optimizer, CPU of a batch, {layers} layers"] = medians(
            lambda large=large: fit(keras.optimizers.SGD(0.01), [remote(stepwise)], **large),
            lambda large=large: fit(keras.optimizers.SGD(CosineDecay(0.1, 10**6)), [], **large),
            BATCHES,
            1,
        )
    return found


if __name__ == "__main__":
    print(json.dumps(_times(sys.argv[1], int(sys.argv[2]))))
