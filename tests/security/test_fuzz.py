"""Schemathesis sends valid and invalid requests to every operation; the test checks its coverage."""

import json
import re
import subprocess
import sys
from base64 import b64decode
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.api_requests import ADMIN, RUN, bearer
from support.fixtures.service import serving

# Some seconds on a machine that has nothing else to do.
pytestmark = pytest.mark.timeout(400)

SCHEMATHESIS = Path(sys.executable).with_name("st")
CONFIG = Path(__file__).with_name("fuzz.toml")
# A stream has no end to wait for.
LEFT_OUT = ("stream_run", "stream_runs")
EXAMPLES = 4
# Nothing of the inside: tokens, statements, files, tracebacks, versions of libraries.
INSIDE = re.compile(
    r"rlr_[0-9A-Za-z]{49}|[0-9a-f]{64}|Traceback|SELECT |INSERT |site-packages|remotelr_service/|\.py\b|sqlalchemy"
)
# The one call that shows a token, this once.
SHOWS_TOKEN = "POST /v1/tokens"


@dataclass(slots=True)
class Fuzzed:
    """The results of schemathesis. statuses: by operation. stateful: number of steps of its request chains."""

    code: int
    said: str
    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    stateful: int = 0
    answers: list[str] = field(default_factory=list)
    later: int = 0


@pytest.fixture(scope="module")
def fuzzed(sqlite_template, tmp_path_factory) -> Fuzzed:
    folder = tmp_path_factory.mktemp("fuzzed")
    file = folder / "remotelr.db"
    file.write_bytes(sqlite_template.read_bytes())
    with pytest.MonkeyPatch.context() as patched:
        # It sends hundreds of wrong tokens, and expects 401 for each.
        patched.setattr("remotelr_service.http.auth.gate._WRONG_BURST", 1_000_000)
        with serving(f"sqlite:///{file}", auth="on", admin_token=ADMIN, wait_limit_s=0.05, rate_limit=0) as service:
            service.http.headers.update(bearer(ADMIN))
            prepare(service.http)
            events = folder / "events.ndjson"
            done = subprocess.run(command(service.url, events), check=False, capture_output=True, text=True, cwd=folder)
            later = service.http.put("/v1/runs/later", json=RUN).status_code
    return read(Fuzzed(done.returncode, done.stdout[-20_000:] + done.stderr[-2_000:], later=later), events)


def prepare(http: Any) -> None:
    """Creates runs with events."""
    http.put("/v1/experiments/lab", json={"tags": {"made": "for this"}})
    for name in ("fuzzed", "ended"):
        for number in (1, 2, 3):
            run = f"/v1/runs/{name}-{number}"
            made = http.put(run, json={**RUN, "experiment": "lab", "initial_learning_rate": 0.1, "total_epochs": 100})
            assert 201 == made.status_code, made.text
            http.post(f"{run}/reports", json={"epoch": 0, "metrics": {"val_loss": 0.213, "accuracy": 0.93}})
            http.post(f"{run}/commands", json={"type": "note", "text": "hello"})
    http.post("/v1/commands", json={"selector": {"experiment": "lab"}, "command": {"type": "note", "text": "hello"}})


def command(url: str, events: Path) -> list[str]:
    left_out = [word for name in LEFT_OUT for word in ("--exclude-operation-id", name)]
    return [
        *(str(SCHEMATHESIS), "--config-file", str(CONFIG), "run", f"{url}/openapi.json"),
        *("--header", f"Authorization: Bearer {ADMIN}", *left_out),
        *("--mode", "all", "--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-shrink"),
        *("--suppress-health-check", "all", "--continue-on-failure", "--no-color"),
        *("--output-sanitize", "false", "--report", "ndjson", "--report-ndjson-path", str(events)),
    ]


def read(found: Fuzzed, events: Path) -> Fuzzed:
    for line in events.read_text().splitlines():
        finished = json.loads(line).get("ScenarioFinished", {})
        recorder = finished.get("recorder", {})
        for case_id, interaction in recorder.get("interactions", {}).items():
            case, answer = recorder["cases"][case_id]["value"], interaction["response"]
            if answer is None:
                continue
            call = f"{case['method']} {case['path']}"
            found.statuses.setdefault(call, Counter())[answer["status_code"]] += 1
            found.stateful += finished["phase"].startswith("stateful")
            if call != SHOWS_TOKEN:
                content = (answer["content"] or {}).get("$base64", "")
                found.answers.append(f"{answer['headers']} {b64decode(content).decode(errors='replace')}")
    return found


def test_schemathesis_finds_nothing(fuzzed: Fuzzed):
    assert 0 == fuzzed.code, fuzzed.said


def test_the_fuzz_run_reached_every_operation(fuzzed: Fuzzed):
    """
    A fuzzer that is answered 404 all the time finds nothing wrong: then it was no test.
    """
    named = {call: counted for call, counted in fuzzed.statuses.items() if "{" in call}
    reached = sum(counted.total() - counted[404] for counted in named.values())
    without_success = [
        call
        for call, counted in fuzzed.statuses.items()
        if 405 not in counted and not any(200 <= status < 300 for status in counted)
    ]

    assert reached >= 0.6 * sum(counted.total() for counted in named.values())
    assert fuzzed.stateful >= 100
    assert [] == without_success


def test_no_answer_is_a_failure_and_none_tells_of_the_inside(fuzzed: Fuzzed):
    statuses = {status for counted in fuzzed.statuses.values() for status in counted}
    leaks = [answer for answer in fuzzed.answers if INSIDE.search(answer)]

    assert max(statuses) < 500
    assert [] == leaks[:3]


def test_the_service_serves_on(fuzzed: Fuzzed):
    assert 201 == fuzzed.later
