"""The momentum that goes with a rate (one_cycle, cyclic), for the optimizers of Keras that have one."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="remotelr")
class SGD(keras.optimizers.SGD):  # type: ignore[misc]  # Keras ships no types
    """Keras's SGD with a momentum that a policy may move, on every backend, batch by batch.

    Keras's own has a Python float for a momentum, which JAX and TensorFlow compile into the training step
    as a constant. Here it is a variable: one more than Keras's own has, so the two cannot read each
    other's checkpoints of the optimizer.

    momentum: what it begins with, in (0, 1]; `get_config` gives this one. The other arguments are Keras's.
    """

    def __init__(self, learning_rate: Any = 0.01, momentum: float = 0.9, **settings: Any) -> None:
        super().__init__(learning_rate, momentum, **settings)
        if not momentum:
            raise ValueError("a momentum that is to move begins above 0: momentum=0.9")

    def build(self, variables: Any) -> None:
        if self.built:
            return
        start = keras.initializers.Constant(self.momentum)
        self.moving_momentum = self.add_variable((), initializer=start, dtype="float32", name="moving_momentum")
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keras's own rule, with the variable in the place of the constant."""
        cast = keras.ops.cast
        momentum = cast(self.moving_momentum, variable.dtype)
        step = cast(gradient, variable.dtype) * cast(learning_rate, variable.dtype)
        velocity = self.momentums[self._get_variable_index(variable)]
        self.assign(velocity, velocity * momentum - step)
        self.assign_add(variable, velocity * momentum - step if self.nesterov else velocity)


def move_momentum(model: Any, optimizer: Any, momentum: float) -> str | None:
    """Give the optimizer that momentum, if it can be given one; else why not."""
    name = type(optimizer).__name__
    if not optimizer.built:
        if not model.built:
            # Only the first batch tells what there is to train; the next one has its momentum.
            return None
        optimizer.build(model.trainable_variables)
    if isinstance(optimizer, SGD):
        optimizer.moving_momentum.assign(momentum)
        return None
    if not getattr(optimizer, "momentums", None):
        return f"{name} has no momentum to move (SGD with one has)"
    if _is_eager(model):
        # Read anew at every step.
        optimizer.momentum = momentum
        return None
    return (
        f"{keras.backend.backend()} has compiled the momentum of Keras's {name} into the training step, where it "
        f"stays {optimizer.momentum}. remotelr.keras.SGD has one that moves"
    )


def _is_eager(model: Any) -> bool:
    return bool(model.run_eagerly or (keras.backend.backend() == "torch" and not model.jit_compile))
