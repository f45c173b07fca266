"""A request's trace and id go into every line of the log that it brings about, and nothing else does."""

import json

import httpx
import pytest

from remotelr_service.server.trace_context import read_traceparent

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{PARENT}-01"
RUN = {"policy": {"type": "constant", "learning_rate": 0.1}}


@pytest.mark.parametrize("given", [GOOD, f"00-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-01-what.the-future=brings"])
def test_a_trace_is_read(given):
    trace = read_traceparent(given.encode())

    assert trace is not None
    assert (TRACE, PARENT, given) == (trace.trace_id, trace.parent_id, trace.traceparent.decode())


@pytest.mark.parametrize(
    "given",
    [
        "",
        GOOD.upper(),
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{GOOD}-more",
        f"cc-{TRACE}-{PARENT}-01more",
        f"cc-{TRACE}-{PARENT}-01-\x1b[31m",
        f"cc-{TRACE}-{PARENT}-01-{'a' * 500}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f" {GOOD}",
        f"{GOOD}\n",
        f'00-{TRACE}-{PARENT}-01","level":"error',
    ],
)
def test_an_invalid_trace_is_ignored(given):
    assert read_traceparent(given.encode()) is None


def test_the_trace_is_returned_and_logged(sqlite_url, start_service):
    service = start_service(sqlite_url, REMOTELR_LOG_FORMAT="json")
    service.wait_ready()
    forged = 'x","level":"error'
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http:
        http.put("/v1/runs/a", json=RUN)
        answers = [
            http.post("/v1/runs/a/reports", json={"epoch": epoch, "metrics": {}}, headers=headers)
            for epoch, headers in enumerate(
                [
                    {"traceparent": GOOD, "x-request-id": "given-1"},
                    {"traceparent": forged, "x-request-id": forged},
                    {},
                ]
            )
        ]
    service.end()
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    decisions = [line for line in lines if line["event"] == "decision"]

    assert [GOOD, None, None] == [answer.headers.get("traceparent") for answer in answers]
    assert [(TRACE, PARENT), (None, None), (None, None)] == [
        (line.get("trace_id"), line.get("parent_id")) for line in decisions
    ]
    assert [answer.headers["x-request-id"] for answer in answers] == [line["request_id"] for line in decisions]
    assert ("given-1", ["schedule"] * 3) == (decisions[0]["request_id"], [line["reason"] for line in decisions])
    assert forged not in service.log.read_text()
