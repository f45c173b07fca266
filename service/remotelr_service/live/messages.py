"""What those who follow are told, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass

from remotelr_service.db.queries.feed import Entry

# Where an entry stands in its run: the number of its event, and 1 for the stall behind that.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Item:
    """One entry for a follower. id: what to come back with after it."""

    id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Batch:
    """What a follower is given at once: entries, or the quiet. id: what to come back with after it.

    is_lost: what they had is of another history, such as before a backup was restored; it begins anew here.
    """

    id: str
    told: Sequence[Item] = ()
    is_lost: bool = False
