"""A Keras model whose learning rate RemoteLR decides. The service runs: `remotelr serve`.

Kill it at any time (Ctrl-C, SIGKILL) and start it again: it goes on from its checkpoint, with the rates it
would have had.
"""

import os
import tempfile
from pathlib import Path

import keras
from sklearn.datasets import load_digits

from remotelr.keras import RemoteLR

images, labels = load_digits(return_X_y=True)
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)])
model.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

model.fit(
    images / 16,
    labels,
    validation_split=0.2,
    epochs=20,
    verbose=2,
    callbacks=[
        RemoteLR(
            os.environ.get("REMOTELR_URL", "http://127.0.0.1:8000"),
            run=os.environ.get("REMOTELR_RUN", "digits"),
            factor=0.5,
            patience=2,
            verbose=1,
        ),
        keras.callbacks.BackupAndRestore(Path(tempfile.gettempdir()) / "digits-backup"),
    ],
)
