"""Logging: one line per event with the request's id, as JSON or as console text."""

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
# Trace id and span id of the request's `traceparent`.
TRACE: ContextVar[tuple[str, str] | None] = ContextVar("remotelr_trace", default=None)

# _ENCODER writes any value; _LINE is four times as fast.
_LINE = TypeAdapter(dict[str, Any])
_ENCODER = json.JSONEncoder(separators=(",", ":"), default=repr)

# These libraries log from WARNING on.
_LIBRARIES = ("uvicorn", "sqlalchemy", "alembic", "asyncio")

# Prefix of every token.
PREFIX = "rlr_"
# Also matches a truncated token, and one with text behind it.
_TOKEN = re.compile(rf"{PREFIX}[0-9A-Za-z]{{12,}}")


def new_request_id() -> str:
    # Not a secret. os.urandom would release the GIL to the writer's thread in every request.
    return f"{random.getrandbits(64):016x}"


class BufferedLines:
    """Writes lines to `stream` once per iteration of the event loop; without a loop, at once.

    Flushing each line would release the GIL to another thread for every decision.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str] = []
        # The loop that will write the lines. Lines of another loop do not wait for it: it may have stopped.
        self._due: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        # The last iteration of a loop may have left lines.
        atexit.register(self.write_out)

    def write(self, line: str) -> int:
        # A message may contain a token by accident.
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
            # The terminal may be closed.
            with suppress(OSError, ValueError):
                self._stream.write("".join(lines))
                self._stream.flush()


def log_line(event: str, members: dict[str, Any]) -> None:
    """Write what `structlog.get_logger().info(event, **members)` writes; JSON lines in about half the time.

    For the line of every report: structlog took a sixth of the event loop's time for it.
    """
    if _json_lines is None:
        structlog.get_logger("remotelr").info(event, **members)
        return
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = {**members, "event": event, "level": "info", "at": at}
    _json_lines.write(_dumps(_add_request(None, "info", line)) + "\n")
    _json_lines.flush()


# The target of `log_line`; None if lines are console text, or `info` is not logged.
_json_lines: BufferedLines | None = None


def configure(level: str, style: str, stream: TextIO | None = None) -> bool:
    """Log to `stream` (default stderr) from `level` on; style: `json`, `console` or `auto`, as in the settings.

    Returns: whether the lines are JSON.
    """
    stream = stream or sys.stderr
    is_json = style == "json" or (style == "auto" and not stream.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    lines = BufferedLines(stream)
    buffered = cast(TextIO, lines)
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
        logger_factory=structlog.WriteLoggerFactory(file=buffered),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(buffered)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
            # `extra` of a standard logger: the fields of the event.
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *before],
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(max(threshold, logging.WARNING))
    return is_json


def _add_request(_: WrappedLogger | None, __: str, event: EventDict) -> EventDict:
    request_id = REQUEST_ID.get()
    if request_id is not None:
        event["request_id"] = request_id
    trace = TRACE.get()
    if trace is not None:
        event["trace_id"], event["parent_id"] = trace
    return event


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape control characters, so that a request cannot forge lines or colours. JSON escapes them anyway."""
    return {
        name: ascii(value) if isinstance(value, str) and name != "exception" and not value.isprintable() else value
        for name, value in event.items()
    }


def _dumps(event: Any, **_: Any) -> str:
    try:
        return _LINE.dump_json(event, ensure_ascii=True, fallback=repr).decode()
    except ValueError:
        # A lone surrogate, or bytes that are not UTF-8.
        return _ENCODER.encode(event)


def redact_tokens(text: str) -> str:
    """The text with everything that could be a token masked."""
    return _TOKEN.sub(f"{PREFIX}***", text) if PREFIX in text else text
