"""What a training says of its rates, as Keras would say it."""

import logging

import keras

from remotelr.rules import Decision


def say(message: str) -> None:
    """To people, where Keras's own messages go: the console, or a log once interactive logging is off."""
    if keras.config.is_interactive_logging_enabled():
        print(message, flush=True)  # noqa: T201 - where Keras prints
    else:
        logging.getLogger("remotelr").info(message.strip())


def say_setting(decision: Decision, learning_rate: float) -> None:
    """Before an epoch whose rate is another one."""
    if decision.reason != "plateau" and (decision.changed or decision.reason == "start"):
        say(f"\nEpoch {decision.epoch + 1}: RemoteLR setting learning rate to {learning_rate}.")


def say_reduction(decision: Decision) -> None:
    """After an epoch at which a plateau reduced the rate of the next one."""
    if decision.changed and decision.reason == "plateau":
        say(f"\nEpoch {decision.epoch}: RemoteLR reducing learning rate to {decision.learning_rate}.")


def say_order(epoch: int, batch: int, learning_rate: float | None) -> None:
    """In the middle of an epoch."""
    say(f"\nEpoch {epoch + 1}, batch {batch + 1}: RemoteLR setting learning rate to {learning_rate}, as was ordered.")


def say_rollback(epoch: int, back_to: int) -> None:
    """Before an epoch that begins with older weights."""
    say(f"\nEpoch {epoch + 1}: RemoteLR goes back to the weights of the end of epoch {back_to + 1}.")


def say_stop(epoch: int, why: str) -> None:
    say(f"\nEpoch {epoch + 1}: RemoteLR stops training: {why}.")
