"""RemoteLR for PyTorch: a scheduler whose rates a RemoteLR service decides."""

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError("remotelr.torch needs PyTorch 2.1 or newer: pip install torch") from _error

from remotelr.torch.ranks import TorchRanks
from remotelr.torch.scheduler import RemoteLR

__all__ = ["RemoteLR", "TorchRanks"]
