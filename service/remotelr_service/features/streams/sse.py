"""Server-sent events, as the HTML standard has them: an answer that goes on until one of both sides ends it.

A stream is one task that holds no thread and no connection to the database. Whoever does not read is cut off: what
waits for them is bounded, and nothing is lost by it, for they come back with the id of what they had last.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from remotelr.rules import Event, describe
from remotelr.rules.run.decision import decision_to_json
from remotelr_service.errors import DatabaseUnavailable
from remotelr_service.live.hub import Batch, Entry, Item, Stall

MEDIA_TYPE: Final = "text/event-stream"
# Something is sent at least so often: proxies close what is silent, and a token that was revoked is noticed.
HEARTBEAT_S = 15.0
# Who takes nothing for so long is cut off.
PATIENCE_S = 10.0
# What those who were cut off shall wait before they come back.
RETRY_MS = 2_000
# How long the end of a stream may take when the service ends.
END_S = 0.2

# Where the server leaves a way to close a connection without waiting for who does not read.
ABORT: Final = "remotelr.abort"
# Set for who asks for the head alone.
IS_HEAD: Final = "remotelr.is_head"

# Made once: `json.dumps` would make one for every event.
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))


class EventStream(Response):
    """The steps of a follower as a stream. first: its first step, which is taken: it may have refused."""

    media_type = MEDIA_TYPE

    def __init__(self, first: Batch, rest: AsyncGenerator[Batch, None]) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        draining: asyncio.Event = scope["app"].state.draining
        async with aclosing(self._rest):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if not scope.get(IS_HEAD):
                sending = asyncio.ensure_future(self._send(send))
                others = [asyncio.ensure_future(draining.wait()), asyncio.ensure_future(_gone(receive))]
                try:
                    await asyncio.wait([sending, *others], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (sending, *others):
                        task.cancel()
                    await asyncio.gather(sending, *others, return_exceptions=True)
                error = None if sending.cancelled() else sending.exception()
                if isinstance(error, TimeoutError):
                    _cut_off(scope)
                    raise ClientDisconnect from error
                # Without a database there is nothing to tell: who comes back will be told what they missed.
                if error is not None and not isinstance(error, DatabaseUnavailable):
                    raise error
            try:
                async with asyncio.timeout(END_S):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            except TimeoutError:
                _cut_off(scope)

    async def _send(self, send: Send) -> None:
        """Send until there is no more to come. Raises TimeoutError when nothing is taken for too long."""
        await _send_part(send, _beginning(self._first))
        async for step in self._rest:
            await _send_part(send, b"".join(map(_frame, step.items)) if step.items else _heartbeat(step))


async def _send_part(send: Send, part: bytes) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await send({"type": "http.response.body", "body": part, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _cut_off(scope: Scope) -> None:
    """Let go of a connection whose other side does not read. Another server than ours closes it in its own time."""
    given = scope.get("extensions", {}).get(ABORT)
    if given is not None:
        given["abort"]()


def _beginning(step: Batch) -> bytes:
    name = "lost" if step.is_lost else "begin"
    return f'retry: {RETRY_MS}\nid: {step.id}\nevent: {name}\ndata: {{"after":"{step.id}"}}\n\n'.encode()


def _heartbeat(step: Batch) -> bytes:
    # The id moves with what is not for this one, so that they need not look through it when they come back.
    return f": still here\nid: {step.id}\n\n".encode()


def _frame(item: Item) -> bytes:
    entry = item.entry
    if entry.frame is None:
        entry.frame = f"event: {_name(entry)}\ndata: {_ENCODER.encode(_members(entry))}\n\n".encode()
    return f"id: {item.id}\n".encode() + entry.frame


def _name(entry: Entry) -> str:
    """`decision` for all that took one but the begin of an attempt; else what it was."""
    if isinstance(entry.content, Stall):
        return "stalled"
    return "decision" if entry.content.kind in ("report", "timeout") and entry.content.decision else entry.content.kind


def _members(entry: Entry) -> dict[str, Any]:
    common = {"run": entry.run, "experiment": entry.experiment, "created_at": entry.created_at.isoformat()}
    if isinstance(entry.content, Stall):
        return {**common, **_members_of_stall(entry.run, entry.content)}
    return {**common, **_members_of_event(entry.content)}


def _members_of_event(event: Event) -> dict[str, Any]:
    decided = None
    if event.decision is not None:
        members = decision_to_json(event.decision)
        decided = {name: value for name, value in members.items() if name not in ("run", "state", "replayed")}
        decided["why"] = event.decision.why
    return {
        "seq": event.seq,
        "kind": event.kind,
        "attempt": event.attempt,
        "epoch": event.epoch,
        "rank": event.rank,
        "key": event.key,
        "effective_from": event.effective_from,
        "payload": event.payload,
        "notes": event.notes,
        "decision": decided,
        "sentence": describe(event),
    }


def _members_of_stall(run: str, stall: Stall) -> dict[str, Any]:
    since = stall.reported_at.isoformat(timespec="seconds")
    return {
        "seq": stall.seq,
        "kind": "stalled",
        "attempt": stall.attempt,
        "epoch": stall.epoch,
        "reported_at": stall.reported_at.isoformat(),
        "typical_epoch_s": stall.typical_epoch_s,
        "sentence": f"Run {run} has not reported since {since}; its epochs take about {stall.typical_epoch_s:.3g} s.",
    }
