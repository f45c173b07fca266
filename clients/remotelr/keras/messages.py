"""Console messages about the learning rate, in the style of Keras's own."""

import logging

import keras

from remotelr.rules import Decision


def say(message: str) -> None:
    """Print as Keras does; log at level INFO if Keras's interactive logging is off."""
    if keras.config.is_interactive_logging_enabled():
        print(message, flush=True)  # noqa: T201 - as Keras prints
    else:
        logging.getLogger("remotelr").info(message.strip())


def say_setting(decision: Decision, learning_rate: float) -> None:
    """Before an epoch with a new rate."""
    if decision.reason != "plateau" and (decision.changed or decision.reason == "start"):
        by = " (command)" if decision.reason == "command" else ""
        say(f"\nEpoch {decision.epoch + 1}: RemoteLR setting learning rate to {learning_rate:.6g}{by}.")


def say_reduction(decision: Decision) -> None:
    """After an epoch at whose end a plateau reduced the rate."""
    if decision.changed and decision.reason == "plateau":
        say(f"\nEpoch {decision.epoch}: RemoteLR reducing learning rate to {decision.learning_rate:.6g}.")


def say_command(epoch: int, batch: int, learning_rate: float | None) -> None:
    """Before a batch at which a live command has changed the rate."""
    rate = "none" if learning_rate is None else f"{learning_rate:.6g}"
    say(f"\nEpoch {epoch + 1}, batch {batch + 1}: RemoteLR setting learning rate to {rate} (command).")


def say_rollback(epoch: int, back_to: int) -> None:
    """Before an epoch that begins with an earlier checkpoint."""
    say(f"\nEpoch {epoch + 1}: RemoteLR loads the weights of the end of epoch {back_to + 1}.")


def say_stop(epoch: int, reason: str) -> None:
    say(f"\nEpoch {epoch + 1}: RemoteLR stops training: {reason}.")
