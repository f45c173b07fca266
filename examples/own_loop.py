"""A training loop of one's own, with a warm-up per step: no request is made inside an epoch.

The service runs: `remotelr serve`. The "model" is one number, pulled towards 3. Run it with the number of an epoch to
go on there; a real loop takes the number, and the model, from its checkpoint.
"""

import os
import random
import sys

import remotelr

EPOCHS, STEPS = 6, 50
POLICY = {
    "schedule": {"type": "cosine", "decay_steps": 250, "warmup": {"steps": 50}},
    "unit": "step",
}

weight = 0.0
with remotelr.training(
    os.environ.get("REMOTELR_URL", "http://127.0.0.1:8000"),
    os.environ.get("REMOTELR_RUN", "own-loop"),
    policy=POLICY,
    initial_learning_rate=0.1,
    steps_per_epoch=STEPS,
    total_epochs=EPOCHS,
) as training:
    for epoch in training.epochs(first=int(sys.argv[1]) if len(sys.argv) > 1 else 0):
        first_rate = training.learning_rate()
        for step in range(STEPS):
            target = 3 + random.gauss(0, 0.5)
            weight -= training.learning_rate(step) * (weight - target)
        loss = (weight - 3) ** 2
        print(f"epoch {epoch}: loss {loss:.4f}, began with rate {first_rate:.4f}")
        training.report(val_loss=loss)
