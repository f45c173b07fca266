"""Server-sent events (HTML standard): a response that lasts until the client or the service ends it.

A stream is one task without a thread and without a database connection. A client that does not read is disconnected:
its queue is bounded, and it loses nothing, because it reconnects with the id of its last event.
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
# The heartbeat in seconds. Proxies close idle connections, and each heartbeat checks the token.
HEARTBEAT_S = 15.0
# A client that reads nothing for this many seconds is disconnected.
SEND_TIMEOUT_S = 10.0
# The pause before a client reconnects.
RETRY_MS = 2_000
# The maximum duration of a stream's end in seconds.
END_S = 0.2

# The ASGI extension with the function that closes a connection at once.
ABORT: Final = "remotelr.abort"
# Set in the scope of HEAD requests.
IS_HEAD: Final = "remotelr.is_head"

# `json.dumps` with arguments would create an encoder for every event.
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))


class EventStream(Response):
    """The batches of a subscriber as a stream. first: awaited by the caller, because it may raise."""

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
                stops = [asyncio.ensure_future(draining.wait()), asyncio.ensure_future(_wait_for_disconnect(receive))]
                try:
                    await asyncio.wait([sending, *stops], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (sending, *stops):
                        task.cancel()
                    await asyncio.gather(sending, *stops, return_exceptions=True)
                error = None if sending.cancelled() else sending.exception()
                if isinstance(error, TimeoutError):
                    _disconnect(scope)
                    raise ClientDisconnect from error
                # Without a database the stream ends. The client reconnects and continues.
                if error is not None and not isinstance(error, DatabaseUnavailable):
                    raise error
            try:
                async with asyncio.timeout(END_S):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            except TimeoutError:
                _disconnect(scope)

    async def _send(self, send: Send) -> None:
        """Send all batches. Raises TimeoutError if the client does not read."""
        await _send_part(send, _beginning(self._first))
        async for batch in self._rest:
            await _send_part(send, b"".join(map(_frame, batch.items)) if batch.items else _heartbeat(batch))


async def _send_part(send: Send, part: bytes) -> None:
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await send({"type": "http.response.body", "body": part, "more_body": True})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _disconnect(scope: Scope) -> None:
    """Close the connection of a client that does not read, if the server has the extension for it."""
    given = scope.get("extensions", {}).get(ABORT)
    if given is not None:
        given["abort"]()


def _beginning(batch: Batch) -> bytes:
    name = "lost" if batch.is_lost else "begin"
    return f'retry: {RETRY_MS}\nid: {batch.id}\nevent: {name}\ndata: {{"after":"{batch.id}"}}\n\n'.encode()


def _heartbeat(batch: Batch) -> bytes:
    # The id also passes events that are not sent here, so that a reconnect does not read them again.
    return f": heartbeat\nid: {batch.id}\n\n".encode()


def _frame(item: Item) -> bytes:
    entry = item.entry
    if entry.frame is None:
        entry.frame = f"event: {_name(entry)}\ndata: {_ENCODER.encode(_members(entry))}\n\n".encode()
    return f"id: {item.id}\n".encode() + entry.frame


def _name(entry: Entry) -> str:
    """The event name: `decision` for a report or timeout with a decision, otherwise the kind."""
    if isinstance(entry.content, Stall):
        return "stalled"
    return "decision" if entry.content.kind in ("report", "timeout") and entry.content.decision else entry.content.kind


def _members(entry: Entry) -> dict[str, Any]:
    common = {"run": entry.run, "experiment": entry.experiment, "created_at": entry.created_at.isoformat()}
    if isinstance(entry.content, Stall):
        return {**common, **_members_of_stall(entry.run, entry.content)}
    return {**common, **_members_of_event(entry.content)}


_EVENT_MEMBERS = ("seq", "kind", "attempt", "epoch", "rank", "key", "effective_from", "payload", "notes")


def _members_of_event(event: Event) -> dict[str, Any]:
    decided = None
    if event.decision is not None:
        members = decision_to_json(event.decision)
        decided = {name: value for name, value in members.items() if name not in ("run", "state", "replayed")}
        decided["why"] = event.decision.why
    return {
        **{name: getattr(event, name) for name in _EVENT_MEMBERS},
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
