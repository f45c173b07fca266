"""The trace a request belongs to, as W3C Trace Context has it. Only what is well formed is believed."""

import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-[0-9a-f]{2}")
_LONGEST = 512


@dataclass(frozen=True, slots=True)
class Trace:
    """traceparent: as it came. trace_id and parent_id: for the log."""

    traceparent: bytes
    trace_id: str
    parent_id: str


def read_traceparent(value: bytes) -> Trace | None:
    """The trace, or None for what is no `traceparent`.

    A version we do not know may have more behind a dash; `ff` is none, and ids of zeros only are none.
    """
    found = _TRACEPARENT.match(value)
    if found is None or found["version"] == b"ff" or len(value) > _LONGEST:
        return None
    rest = value[found.end() :]
    if rest and (found["version"] == b"00" or not re.fullmatch(rb"-[\x21-\x7e]*", rest)):
        return None
    if not found["trace"].strip(b"0") or not found["parent"].strip(b"0"):
        return None
    return Trace(value, found["trace"].decode(), found["parent"].decode())
