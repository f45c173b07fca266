"""A custom training loop, with a warm-up per step: no request is made inside an epoch.

The service runs: `remotelr serve`. The "model" is one number, pulled towards 3.
"""

import os
import random

from remotelr import Client, ServiceUnreachable

EPOCHS, STEPS = 6, 50
POLICY = {
    "schedule": {"type": "cosine", "decay_steps": 250, "warmup": {"steps": 50}},
    "unit": "step",
}

weight = 0.0
with Client(os.environ.get("REMOTELR_URL", "http://127.0.0.1:8000")) as client:
    run = client.run(
        os.environ.get("REMOTELR_RUN", "own-loop"),
        policy=POLICY,
        initial_learning_rate=0.1,
        steps_per_epoch=STEPS,
        total_epochs=EPOCHS,
    )
    decision = run.begin(epoch=0)
    for epoch in range(EPOCHS):
        for step in range(STEPS):
            target = 3 + random.gauss(0, 0.5)
            weight -= decision.at(step) * (weight - target)
        loss = (weight - 3) ** 2
        print(f"epoch {epoch}: loss {loss:.4f}, began with rate {decision.learning_rate:.4f}")
        try:
            decision = run.report(epoch, {"val_loss": loss})
        except ServiceUnreachable as error:
            print(f"{error}: going on with the rates of this epoch")
            continue
        if decision.action == "stop":
            break
    run.finish("stopped" if decision.action == "stop" else "completed")
