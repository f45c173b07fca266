"""The log: one line per event, as JSON and as console text."""

import ast
import asyncio
import io
import json
import logging
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import remotelr_service
from remotelr_service import logs

FORGED = "no error\r\n\x1b[2J\u2028level=error"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore the global logging configuration."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("style", ["json", "console"])
def test_input_cannot_forge_a_log_line(style):
    stream = io.StringIO()
    logs.configure("info", style, stream)
    structlog.get_logger("new").info("event", detail=FORGED)
    logging.getLogger("remotelr_service.db.writer.writer").info("event %s", FORGED)

    written = stream.getvalue()
    assert 2 == len(written.splitlines())
    assert not {"\r", "\x1b", "\u2028"} & set(written)


def test_a_json_line_has_the_request_id():
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logs.REQUEST_ID.set("abc")
    structlog.get_logger("new").info("decision", learning_rate=0.1)
    logs.REQUEST_ID.set(None)

    line = json.loads(stream.getvalue())
    assert ("decision", "info", 0.1, "abc") == tuple(
        line[name] for name in ("event", "level", "learning_rate", "request_id")
    )


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_log_line_writes_the_same_line_as_structlog(style, level):
    stream = io.StringIO()
    logs.configure(level, style, stream)
    members = {"run": "a\u2028b", "learning_rate": 1e-07, "changed": False, "odd": {1, 2}, "half": "\ud800"}
    logs.REQUEST_ID.set("abc")
    logs.TRACE.set(("trace", "parent"))
    logs.log_line("decision", members)
    structlog.get_logger("new").info("decision", **members)
    logs.REQUEST_ID.set(None)
    logs.TRACE.set(None)

    lines = [without_time(line) for line in stream.getvalue().splitlines()]
    assert lines == ([] if level == "warning" else [lines[0]] * 2)


def without_time(line: str) -> str:
    return re.sub(r"20\d\d-\d\d-\d\dT[\d:.]+Z", "at", line)


def test_events_below_the_level_are_not_logged():
    stream = io.StringIO()
    logs.configure("warning", "json", stream)
    structlog.get_logger("new").info("decision")
    logging.getLogger("remotelr_service").info("migrated")
    logging.getLogger("uvicorn.error").info("started")

    assert stream.getvalue() == ""


def test_warnings_of_libraries_are_logged():
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("uvicorn.error").warning("odd request")

    assert ["odd request"] == [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


class Writes(io.StringIO):
    """Counts its writes."""

    count = 0

    def write(self, text: str) -> int:
        self.count += 1
        return super().write(text)


def test_lines_of_one_loop_iteration_are_written_together_in_order():
    stream = Writes()
    logs.configure("info", "json", stream)

    async def log_three() -> int:
        structlog.get_logger("new").info("first")
        logging.getLogger("remotelr_service").info("second")
        structlog.get_logger("new").info("third")
        return stream.count

    before = asyncio.run(log_three())

    assert (0, 1) == (before, stream.count)
    assert ["first", "second", "third"] == [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


def test_a_line_of_a_stopped_loop_is_written_with_the_next_line():
    stream = io.StringIO()
    logs.configure("info", "json", stream)

    async def log_and_stop() -> None:
        structlog.get_logger("new").info("first")
        asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    logging_task = loop.create_task(log_and_stop())
    loop.run_forever()
    assert logging_task.done()
    loop.close()
    asyncio.run(asyncio.to_thread(structlog.get_logger("new").info, "second"))

    assert ["first", "second"] == [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


def test_the_extra_of_a_standard_logger_is_a_field_of_the_line():
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logging.getLogger("remotelr_service").warning("the run is stalled", extra={"run": "job-7"})

    line = json.loads(stream.getvalue())
    assert ("the run is stalled", "job-7") == (line["event"], line["run"])


def test_each_log_call_of_the_service_has_a_constant_event():
    """Values are fields, so that a query for one run finds all of its lines."""
    package = Path(remotelr_service.__file__).parent
    calls = [
        (f"{file.relative_to(package)}:{node.lineno}", node.args)
        for file in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr in LEVELS) == ("log", True)
    ]

    assert len(calls) > 20
    assert [] == [place for place, arguments in calls if not is_constant_event(arguments)]


LEVELS = ("debug", "info", "warning", "error", "exception", "critical")


def is_constant_event(arguments: list[ast.expr]) -> bool:
    (event, *values) = arguments
    return isinstance(event, ast.Constant) and isinstance(event.value, str) and "%" not in event.value and not values


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_start_and_end_of_a_service_without_a_terminal_are_json_lines(postgres_url, start_service, ending):
    service = start_service(postgres_url)
    service.wait_ready()
    service.end(ending)

    lines = {line["event"]: line for line in map(json.loads, service.log.read_text().splitlines())}
    started, draining, stopped = (lines[name] for name in ("started", "draining", "stopped"))
    assert ["started", "draining", "stopped"] == list(lines)
    assert (service.url, True) == (started["address"], ":***@127.0.0.1" in started["database"])
    assert [ending.name] * 2 == [draining["signal"], stopped["signal"]]
    assert {"release", "pid"} <= started.keys()
    assert stopped["took_s"] >= 0
