"""RemoteLR for Keras 3, on any of its backends: a callback that sets the rate that the service decides.

model.fit(x, y, validation_data=(x_val, y_val), epochs=50, callbacks=[
    RemoteLR("http://127.0.0.1:8000", run="mnist-7", factor=0.5, patience=5),
    BackupAndRestore("/checkpoints/mnist-7"),
])

In this order an epoch is reported before its checkpoint is written. A job that is killed between the two trains the
epoch again, and the run is rewound to before it.
"""

from remotelr.keras.callback import RemoteLR
from remotelr.keras.momentum import SGD

__all__ = ["SGD", "RemoteLR"]
