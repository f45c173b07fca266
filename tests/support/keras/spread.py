"""A training spread over the devices of this process: `spread.py url run`. Prints what it saw as JSON."""

import json
import sys

import jax
import keras

from remotelr.keras import RemoteLR
from support.keras.training_jobs import BATCH, StepsTaken, ones, unit_gradient

FALLING = {
    "schedule": {"type": "linear", "initial_learning_rate": 0.8, "end_learning_rate": 0.0, "decay_steps": 8},
    "unit": "step",
}


def main(url: str, run: str) -> None:
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    steps = StepsTaken()
    model = unit_gradient(keras.optimizers.SGD(0.5))
    model.fit(
        *ones(), batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=[RemoteLR(url, run, FALLING), steps]
    )
    print(json.dumps({"devices": len(jax.devices()), "rates": steps.rates}))


if __name__ == "__main__":
    main(*sys.argv[1:])
