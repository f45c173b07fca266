"""`remotelr demo`: three Keras trainings with a service; one of them is killed and resumed."""

from remotelr_service.demo.show import run_demo

__all__ = ["run_demo"]
