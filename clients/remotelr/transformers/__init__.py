"""RemoteLR for the Trainer of Hugging Face transformers: a callback that sets the rates which a service decides."""

try:
    from transformers import TrainerCallback as _TrainerCallback  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "remotelr.transformers needs transformers 4.46 or newer and accelerate: pip install 'transformers[torch]'"
    ) from _error

from remotelr.transformers.callback import RemoteLR

__all__ = ["RemoteLR"]
