"""The momentum of a policy (one_cycle, cyclic), for the Keras optimizers that have one."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="remotelr")
class SGD(keras.optimizers.SGD):  # type: ignore[misc]  # Keras ships no types
    """Keras's SGD with a momentum that a policy can set for every batch, on every backend.

    The momentum of Keras's SGD is a Python float, which JAX and TensorFlow compile into the training step as a
    constant. Here it is an additional variable, so the two classes cannot load each other's checkpoints.

    momentum: the initial one, in (0, 1], also in `get_config`. The other arguments are Keras's.
    """

    def __init__(self, learning_rate: Any = 0.01, momentum: float = 0.9, **settings: Any) -> None:
        super().__init__(learning_rate, momentum, **settings)
        if not momentum:
            raise ValueError(f"momentum must be > 0, got {momentum!r}; use keras.optimizers.SGD for none")

    def build(self, variables: Any) -> None:
        if self.built:
            return
        start = keras.initializers.Constant(self.momentum)
        self.moving_momentum = self.add_variable((), initializer=start, dtype="float32", name="moving_momentum")
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keras's rule, with the variable in place of the constant."""
        cast = keras.ops.cast
        momentum = cast(self.moving_momentum, variable.dtype)
        step = cast(gradient, variable.dtype) * cast(learning_rate, variable.dtype)
        velocity = self.momentums[self._get_variable_index(variable)]
        self.assign(velocity, velocity * momentum - step)
        self.assign_add(variable, velocity * momentum - step if self.nesterov else velocity)


def move_momentum(model: Any, optimizer: Any, momentum: float) -> str | None:
    """Set the optimizer's momentum; returns the reason if that is not possible."""
    name = type(optimizer).__name__
    if not optimizer.built:
        if not model.built:
            # The first batch builds the model; the next one sets the momentum.
            return None
        optimizer.build(model.trainable_variables)
    if isinstance(optimizer, SGD):
        optimizer.moving_momentum.assign(momentum)
        return None
    if not getattr(optimizer, "momentums", None):
        return f"{name} has no momentum (use remotelr.keras.SGD)"
    if _is_eager(model):
        # An eager step reads it each time.
        optimizer.momentum = momentum
        return None
    return (
        f"{keras.backend.backend()} has compiled the momentum of Keras's {name} into the training step, where it "
        f"stays {optimizer.momentum} (use remotelr.keras.SGD)"
    )


def _is_eager(model: Any) -> bool:
    return bool(model.run_eagerly or (keras.backend.backend() == "torch" and not model.jit_compile))
