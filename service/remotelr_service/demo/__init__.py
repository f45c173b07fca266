"""`remotelr demo`: a real service, and real Keras models that train through it, one of them killed on the way."""

from remotelr_service.demo.show import run_demo

__all__ = ["run_demo"]
