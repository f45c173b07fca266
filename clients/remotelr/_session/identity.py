"""Which process of a run this is, and what its attempt is called."""

import os
import uuid
from dataclasses import dataclass

from remotelr._session.job_scheduler import restart_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Which process of the run this is, and which of its lives.

    attempt_key: names this life of the job in all its ranks; the scheduler's restart id, or random, when not given.
    number: 1 for the first attempt of this process, 2 for its second…
    """

    rank: int = 0
    world_size: int = 1
    attempt_key: str | None = None
    number: int = 1

    def name(self) -> str:
        """The key of its attempt."""
        known = self.attempt_key or restart_id(os.environ)
        if known is not None and (self.attempt_key or self.world_size > 1):
            return known if self.number == 1 else f"{known}.{self.number}"
        # Random for a lone process even under a scheduler: a script may start us twice in one of its lives.
        return f"{known or 'attempt'}-{uuid.uuid4().hex[:12]}"
