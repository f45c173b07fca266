"""/metrics: values, names and labels. No label has a value from user input."""

import re
import threading
import time
from urllib.parse import quote

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from support.fixtures.service import Service, serving

RUN = {"policy": {"type": "reduce_on_plateau", "monitor": "val_loss", "patience": 1}, "initial_learning_rate": 0.1}
# A name that would break a line of the text format.
HOSTILE = 'evil"} 1\n# HELP x'
LABELS = {
    "remotelr_refusals": {"code"},
    "remotelr_reports": {"outcome"},
    "remotelr_decisions": {"reason"},
    "remotelr_http_requests": {"method", "route", "status"},
    "remotelr_http_request_duration_seconds": {"method", "route", "le"},
    "remotelr_http_requests_rejected": set(),
    "remotelr_http_requests_queued": set(),
    "remotelr_http_requests_in_progress": set(),
    "remotelr_http_requests_waiting": set(),
    "remotelr_http_body_bytes": set(),
    "remotelr_writer_group_size": {"le"},
    "remotelr_writer_transaction_duration_seconds": {"le"},
    "remotelr_writer_queue_length": set(),
    "remotelr_writer_failing": set(),
    "remotelr_draining": set(),
    "remotelr_streams": set(),
    "remotelr_runs_stalled": set(),
    "remotelr_build_info": {"release", "rules_version"},
}


def read(http: httpx.Client) -> dict[str, Metric]:
    answer = http.get("/metrics")
    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (answer.status_code, answer.headers["content-type"])
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    found = [
        each.value
        for family in families.values()
        for each in family.samples
        if each.name == sample and labels.items() <= each.labels.items()
    ]
    return sum(found)


def train(service: Service, run: str) -> None:
    service.http.put(f"/v1/runs/{run}", json=RUN)
    for epoch, loss in enumerate([1.0, 1.0, 1.0]):
        service.http.post(f"/v1/runs/{run}/reports", json={"epoch": epoch, "metrics": {"val_loss": loss}})


def test_reports_decisions_and_requests_are_counted_by_outcome(service):
    train(service, "a")
    service.http.post("/v1/runs/a/reports", json={"epoch": 2, "metrics": {"val_loss": 1.0}})
    service.http.post("/v1/runs/a/reports", json={"epoch": 2, "metrics": {"val_loss": 2.0}})
    service.http.post("/v1/runs/a/reports", json={"epoch": "two"})
    batch = [{"epoch": 3, "metrics": {"val_loss": 0.5}}, {"epoch": 1, "metrics": {"val_loss": 7.0}}]
    service.http.post("/v1/runs/a/reports/batch", json={"reports": batch})
    families = read(service.http)

    assert [4, 1, 3, 0, 0] == [
        value(families, "remotelr_reports_total", outcome=outcome)
        for outcome in ("decided", "replayed", "refused", "waiting", "failed")
    ]
    assert (2, 2) == tuple(value(families, "remotelr_decisions_total", reason=each) for each in ("plateau", "schedule"))
    route = "/v1/runs/{run}/reports"
    assert [4, 1, 1] == [
        value(families, "remotelr_http_requests_total", method="POST", route=route, status=status)
        for status in ("200", "409", "422")
    ]
    assert 6 == value(families, "remotelr_http_request_duration_seconds_count", method="POST", route=route)


def test_group_sizes_and_durations_of_transactions_are_measured(service):
    train(service, "a")
    deadline = time.monotonic() + 30
    # A request is counted after its response.
    while value(families := read(service.http), "remotelr_writer_group_size_count") < 4:
        assert time.monotonic() < deadline

    # One PUT and three reports, each in its own transaction.
    assert (4, 4) == (
        value(families, "remotelr_writer_group_size_count"),
        value(families, "remotelr_writer_group_size_sum"),
    )
    assert 0 < value(families, "remotelr_writer_transaction_duration_seconds_sum") < 60
    assert (0, 0) == tuple(value(families, f"remotelr_writer_{name}") for name in ("queue_length", "failing"))


def test_a_waiting_request_is_counted_and_takes_no_place(sqlite_url):
    with serving(sqlite_url, max_requests=1) as service:
        service.http.put("/v1/runs/a", json=RUN)
        with httpx.Client(base_url=service.url, trust_env=False, timeout=90) as other:
            polling = threading.Thread(target=other.get, args=("/v1/runs/a/decision?after=1&wait=60",))
            polling.start()
            while value(read(service.http), "remotelr_http_requests_waiting") == 0:
                time.sleep(0.01)
            report = service.http.post("/v1/runs/a/reports", json={"epoch": 0, "metrics": {"val_loss": 1.0}})
            polling.join()
        after = value(read(service.http), "remotelr_http_requests_waiting")

    assert (200, 0) == (report.status_code, after)


def test_labels_are_a_closed_set_for_all_user_input(service):
    """Twice as many runs, metrics, tags and invalid requests add no series."""
    counts = []
    for batch in range(2):
        for number in range(5):
            run = f"run-{batch}-{number}"
            service.http.put(f"/v1/runs/{run}", json={**RUN, "tags": {"team": HOSTILE[:7]}, "experiment": run})
            metrics = {"val_loss": 1.0, f"metric_{run}": 1.0}
            service.http.post(f"/v1/runs/{run}/reports", json={"epoch": 0, "metrics": metrics})
            service.http.get(f"/{run}/{quote(HOSTILE)}")
            service.http.request(f"M{batch}{number}", "/v1/runs")
            service.http.get("/v1/runs", headers={"X-Request-Id": run, "User-Agent": run})
        service.http.get("/metrics")
        families = read(service.http)
        text = service.http.get("/metrics").text
        counts.append(sum(len(family.samples) for family in families.values()))
    own = {name: family for name, family in families.items() if name.startswith("remotelr_")}

    assert counts[0] == counts[1]
    assert LABELS == {name: {key for each in family.samples for key in each.labels} for name, family in own.items()}
    assert re.search(r"run-\d|metric_run|evil|M0", text) is None
    assert {"none"} == {
        each.labels["route"]
        for each in own["remotelr_http_requests"].samples
        if not each.labels["route"].startswith(("/v1/", "/metrics", "/livez", "/readyz"))
    }


def test_metric_names_follow_the_conventions_of_prometheus(service):
    train(service, "a")
    text = service.http.get("/metrics").text
    helped = set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    families = read(service.http)

    for name, family in families.items():
        assert re.fullmatch(r"(remotelr|process)_[a-z0-9_]*[a-z]", name)
        assert family.documentation
        assert (f"{name}_total" if family.type == "counter" else name) in helped
        assert not name.endswith(("_total", "_count", "_sum", "_bucket", "_ms", "_milliseconds"))
        assert family.type in ("counter", "gauge", "histogram")
        assert all(re.fullmatch(r"[a-z][a-z_]*", label) for each in family.samples for label in each.labels)
        assert family.type != "histogram" or any(each.labels.get("le") == "+Inf" for each in family.samples)
    assert all(unit in text for unit in ("duration_seconds", "resident_memory_bytes"))


def test_every_outcome_and_reason_has_a_series_from_the_start(service):
    """A series that appears with its first event hides that event from rate()."""
    families = read(service.http)

    assert {"decided", "replayed", "waiting", "refused", "failed"} == {
        each.labels["outcome"] for each in families["remotelr_reports"].samples
    }
    assert {"start", "schedule", "plateau", "command", "bounds", "guard"} == {
        each.labels["reason"] for each in families["remotelr_decisions"].samples
    }


def test_build_info_has_the_release(service):
    release = service.http.get("/version").json()["version"]

    assert 1 == value(read(service.http), "remotelr_build_info", release=release)


def test_two_services_in_one_process_count_separately(service, shared_service):
    before = value(read(shared_service.http), "remotelr_reports_total")
    train(service, "a")

    assert (3, before) == tuple(value(read(each.http), "remotelr_reports_total") for each in (service, shared_service))


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz"])
def test_an_overloaded_service_still_answers_probes(sqlite_url, path):
    with serving(sqlite_url, max_requests=1, queue_timeout_s=0.1) as service:
        limiter = service.server.config.app.state.limiter  # type: ignore[union-attr]  # the application's own class
        limiter.taken = 1
        rejected, answer = service.http.get("/v1/runs"), service.http.get(path)
        limiter.taken = 0
        served = service.http.get("/v1/runs")
        counted = value(read(service.http), "remotelr_http_requests_rejected_total")

    assert (503, "overloaded") == (rejected.status_code, rejected.json()["code"])
    assert rejected.headers["retry-after"] in "456789"
    assert (200, 200, 1) == (answer.status_code, served.status_code, counted)
