"""The messages of a subscription."""

from collections.abc import Sequence
from dataclasses import dataclass

from remotelr_service.db.queries.feed import Entry

# The position of an entry in its run: the seq of its event, and 1 for the stall after that event.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Item:
    """One entry. id: resumes the subscription after it."""

    id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries that a subscriber receives together; none in a heartbeat. id: resumes the subscription after them.

    is_lost: the given cursor is of another history, for example of before a restored backup; the stream begins anew.
    """

    id: str
    items: Sequence[Item] = ()
    is_lost: bool = False
