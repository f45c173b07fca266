"""The request's trace, from a valid `traceparent` header of W3C Trace Context."""

import re
from dataclasses import dataclass

_MAX_BYTES = 512
_TRACEPARENT = re.compile(rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Trace:
    """traceparent: the header, unchanged. trace_id, parent_id: its ids, for the log."""

    traceparent: bytes
    trace_id: str
    parent_id: str


def read_traceparent(value: bytes) -> Trace | None:
    """The trace; None if the header is invalid.

    An unknown version may have more fields after a dash. Version `ff` and ids of zeros only are invalid.
    """
    found = _TRACEPARENT.match(value)
    if found is None or found["version"] == b"ff" or len(value) > _MAX_BYTES:
        return None
    rest = value[found.end() :]
    if rest and (found["version"] == b"00" or not re.fullmatch(rb"-[\x21-\x7e]*", rest)):
        return None
    if not found["trace"].strip(b"0") or not found["parent"].strip(b"0"):
        return None
    return Trace(value, found["trace"].decode(), found["parent"].decode())
