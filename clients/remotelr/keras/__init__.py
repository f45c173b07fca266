"""RemoteLR for Keras 3, on any of its backends: a callback that sets the rate the service decides.

model.fit(x, y, validation_data=(x_val, y_val), epochs=50, callbacks=[
    RemoteLR("http://127.0.0.1:8000", run="mnist-7", factor=0.5, patience=5),
    BackupAndRestore("/checkpoints/mnist-7"),
])

In this order: an epoch is then reported before its checkpoint says that it is over. A job that is killed between
the two trains the epoch again, and the run goes back to before it.
"""

from remotelr.keras.callback import RemoteLR
from remotelr.keras.momentum import SGD

__all__ = ["SGD", "RemoteLR"]
