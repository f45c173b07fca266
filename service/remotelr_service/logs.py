"""What is logged, and how: one line per event, JSON for machines or plain for people, with the request's id."""

import asyncio
import atexit
import json
import logging
import random
import re
import sys
import threading
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import structlog
from pydantic import TypeAdapter
from structlog.types import EventDict, Processor, WrappedLogger

REQUEST_ID: ContextVar[str | None] = ContextVar("remotelr_request_id", default=None)
# The ids of the trace and of the span that the request belongs to, where it said so.
TRACE: ContextVar[tuple[str, str] | None] = ContextVar("remotelr_trace", default=None)

# The second can write anything; the first is four times as fast.
_LINE = TypeAdapter(dict[str, Any])
_ENCODER = json.JSONEncoder(separators=(",", ":"), default=repr)

# Libraries have their say when something is wrong, not when all is well.
_LIBRARIES = ("uvicorn", "sqlalchemy", "alembic", "asyncio")

# How every token begins.
PREFIX = "rlr_"
# Also one that was cut off, or pasted with something behind it.
_INSIDE = re.compile(rf"{PREFIX}[0-9A-Za-z]{{12,}}")


def new_request_id() -> str:
    # No secret: it only has to be another one each time. To ask the kernel for it would also hand the interpreter
    # to the writer's thread, for every request.
    return f"{random.getrandbits(64):016x}"


class Gathered:
    """Lines for `stream`, written in one go at the end of each turn of the event loop; without a loop, at once.

    A line that is flushed by itself hands the interpreter to another thread and back, for every decision.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str] = []
        # The loop whose turn ends with writing out. Another loop does not wait for it: it may never turn again.
        self._due: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        # The last turn of a loop may have said something too.
        atexit.register(self.write_out)

    def write(self, line: str) -> int:
        # Whatever way a token may have found into a message, it is written nowhere.
        with self._lock:
            self._lines.append(redact_tokens(line))
        return len(line)

    def flush(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.write_out()
            return
        if self._due is not loop:
            self._due = loop
            loop.call_soon(self.write_out)

    def write_out(self) -> None:
        with self._lock:
            lines, self._lines, self._due = self._lines, [], None
            # A terminal that has gone is no reason to fail.
            with suppress(OSError, ValueError):
                self._stream.write("".join(lines))
                self._stream.flush()


def log_line(event: str, members: dict[str, Any]) -> None:
    """What `structlog.get_logger().info(event, **members)` writes, in some half of the time where lines are JSON.

    For the line that every report has: through structlog it took a sixth of the event loop's time.
    """
    if _json_lines is None:
        structlog.get_logger("remotelr").info(event, **members)
        return
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = {**members, "event": event, "level": "info", "at": at}
    _json_lines.write(_dumps(_add_request(None, "info", line)) + "\n")
    _json_lines.flush()


# Where `tell` writes: None for lines that are for people, or for nobody.
_json_lines: Gathered | None = None


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """Log to `stream` (standard error) from `level` on; style: `json`, `console` or `auto`, as in the settings."""
    stream = stream or sys.stderr
    is_json = style == "json" or (style == "auto" and not stream.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    lines = Gathered(stream)
    gathered = cast(TextIO, lines)
    global _json_lines  # noqa: PLW0603  # as structlog's own configuration is
    _json_lines = lines if is_json and threshold <= logging.INFO else None
    before: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        _add_request,
        structlog.processors.format_exc_info,
    ]
    render: list[Processor] = [structlog.processors.JSONRenderer(serializer=_dumps)]
    if not is_json:
        render = [_printable, structlog.dev.ConsoleRenderer(colors=stream.isatty(), timestamp_key="at")]
    structlog.configure(
        processors=[*before, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=gathered),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(gathered)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
            foreign_pre_chain=before,
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(max(threshold, logging.WARNING))


def _add_request(_: WrappedLogger | None, __: str, event: EventDict) -> EventDict:
    request_id = REQUEST_ID.get()
    if request_id is not None:
        event["request_id"] = request_id
    trace = TRACE.get()
    if trace is not None:
        event["trace_id"], event["parent_id"] = trace
    return event


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Nobody writes lines or colours into a terminal by what they send. (JSON escapes by itself.)"""
    return {
        name: ascii(value) if isinstance(value, str) and name != "exception" and not value.isprintable() else value
        for name, value in event.items()
    }


def _dumps(event: Any, **_: Any) -> str:
    try:
        return _LINE.dump_json(event, ensure_ascii=True, fallback=repr).decode()
    except ValueError:
        # Half a character, or bytes that are no text.
        return _ENCODER.encode(event)


def redact_tokens(text: str) -> str:
    """The text without what could be a token in it: for what is written down or told."""
    return _INSIDE.sub(f"{PREFIX}***", text) if PREFIX in text else text
