"""RemoteLR for Lightning: a callback that sets the rates which a service decides.

`lightning.pytorch` and `pytorch_lightning` have one callback class each; `RemoteLR` serves the trainers of both.
"""

from remotelr.lightning.callback import RemoteLR

__all__ = ["RemoteLR"]
