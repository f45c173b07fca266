"""Runs over HTTP: created once, found again, listed page by page, tagged, finished, deleted."""

from typing import Any

import httpx
import pytest

from support.fixtures.service import Service

PLATEAU = {"type": "reduce_on_plateau", "monitor": "val_loss", "mode": "min", "factor": 0.5, "patience": 1}
RUN = {"policy": PLATEAU, "initial_learning_rate": 0.5}


def put(service: Service, key: str, **members: Any) -> httpx.Response:
    return service.http.put(f"/v1/runs/{key}", json={**RUN, **members})


def test_a_new_run_is_created_and_located(service):
    answer = put(service, "mnist-7", experiment="digits", tags={"model": "resnet50"}, world_size=2)

    assert (201, "/v1/runs/mnist-7") == (answer.status_code, answer.headers["location"])
    run = answer.json()
    assert "reduce_on_plateau" == run["policy"]["schedule"]["type"]
    assert ("digits", {"model": "resnet50"}, 2) == (run["experiment"], run["tags"], run["world_size"])
    assert (0, 0.5, "running", 0) == (run["epoch"], run["learning_rate"], run["status"], run["attempt"])
    assert (0, 0.5, "start", "continue") == tuple(
        run["decision"][name] for name in ("epoch", "learning_rate", "reason", "action")
    )
    assert run["created_at"].endswith(("Z", "+00:00"))


def test_the_same_policy_again_is_the_same_run(service):
    first, again = put(service, "mnist-7"), put(service, "mnist-7")

    assert (201, 200) == (first.status_code, again.status_code)
    assert first.json() == again.json()
    assert first.json() == service.http.get("/v1/runs/mnist-7").json()


def test_a_run_takes_another_length_with_its_policy_or_without_one(service):
    put(service, "longer", total_epochs=4)
    lengths = [put(service, "longer", total_epochs=total).json()["total_epochs"] for total in (6, 6)]
    bare = service.http.put("/v1/runs/longer", json={"total_epochs": 9}).json()
    unsaid = service.http.put("/v1/runs/longer", json=RUN).json()
    events = service.http.get("/v1/runs/longer/events").json()["events"]

    assert ([6, 6], 9, 9) == (lengths, bare["total_epochs"], unsaid["total_epochs"])
    assert [("created", None), ("policy", "length"), ("policy", "length")] == [
        (event["kind"], event["payload"].get("mode")) for event in events
    ]
    assert (1, 1) == (bare["policy_version"], unsaid["policy_version"])
    assert [] == [each for each in service.http.get("/v1/audit").json()["entries"] if each["run"] == "longer"]


def test_another_policy_is_a_conflict_that_shows_the_difference(service):
    put(service, "mnist-7")
    answer = put(service, "mnist-7", policy={**PLATEAU, "factor": 0.2})

    assert (409, "policy_conflict") == (answer.status_code, answer.json()["code"])
    assert {"policy.schedule.factor": [0.5, 0.2]} == answer.json()["difference"]


@pytest.mark.parametrize(
    ("on_conflict", "factor", "version"), [("keep", 0.5, 1), ("replace", 0.2, 2), ("restart", 0.2, 2)]
)
def test_on_conflict_determines_the_result_of_a_policy_conflict(service, on_conflict, factor, version):
    put(service, "mnist-7")
    run = put(service, "mnist-7", policy={**PLATEAU, "factor": 0.2}, on_conflict=on_conflict).json()

    assert (factor, version) == (run["policy"]["schedule"]["factor"], run["policy_version"])


def test_another_experiment_is_a_conflict(service):
    put(service, "mnist-7", experiment="digits")
    answer = put(service, "mnist-7", experiment="letters")

    assert (409, "experiment_conflict") == (answer.status_code, answer.json()["code"])


def test_a_policy_that_cannot_be_one_is_named_by_its_path(service):
    answer = put(service, "mnist-7", policy={"schedule": {**PLATEAU, "factor": 1.5}})

    assert (422, "invalid_policy") == (answer.status_code, answer.json()["code"])
    assert ["policy.schedule.factor"] == [each["path"] for each in answer.json()["errors"]]
    assert 404 == service.http.get("/v1/runs/mnist-7").status_code


def test_runs_are_listed_in_pages_ordered_by_key(service):
    for key in ("c", "a", "e", "b", "d"):
        put(service, key)
    pages, after = [], None
    while True:
        page = service.http.get("/v1/runs", params={"limit": 2} | ({"after": after} if after else {})).json()
        pages.append([run["run"] for run in page["runs"]])
        after = page["next"]
        if after is None:
            break

    assert [["a", "b"], ["c", "d"], ["e"]] == pages


def test_runs_are_found_by_experiment_status_and_tag(service):
    put(service, "a", experiment="digits", tags={"model": "x:1"})
    put(service, "b", experiment="digits", tags={"model": "y"})
    put(service, "c", experiment="letters")
    service.http.post("/v1/runs/b/finish", json={"status": "completed"})

    def found(**query: str) -> list[str]:
        return [run["run"] for run in service.http.get("/v1/runs", params=query).json()["runs"]]

    assert ["a", "b"] == found(experiment="digits")
    assert ["b"] == found(status="completed")
    assert ["a"] == found(tag="model:x:1")
    assert [] == found(experiment="letters", status="failed")


def test_a_patch_changes_the_tags_it_names_and_no_others(service):
    put(service, "mnist-7", tags={"model": "x", "draft": "yes", "team": "speech"})
    answer = service.http.patch("/v1/runs/mnist-7", json={"tags": {"team": "vision", "draft": None}})

    assert (200, {"model": "x", "team": "vision"}) == (answer.status_code, answer.json()["tags"])


def test_a_patch_with_too_many_tags_is_rejected(service):
    put(service, "mnist-7", tags={f"t{number}": "" for number in range(32)})
    answer = service.http.patch("/v1/runs/mnist-7", json={"tags": {"one-more": ""}})

    assert (422, "too_many_tags") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize(
    "path", ["/v1/runs/mnist-7", "/v1/runs/unknown", "/v1/runs?limit=1", "/livez", "/openapi.json"]
)
def test_head_answers_as_get_does_without_the_body(service, path):
    put(service, "mnist-7")
    whole, head = service.http.get(path), service.http.head(path)
    after = service.http.get(path)

    assert (whole.status_code, whole.headers["content-type"], b"") == (
        head.status_code,
        head.headers["content-type"],
        head.content,
    )
    assert str(len(whole.content)) == head.headers["content-length"]
    assert whole.content == after.content


def test_a_trainer_that_knows_more_than_the_log_cannot_end_its_run(service):
    put(service, "mnist-7")
    ended = service.http.post("/v1/runs/mnist-7/finish", json={"status": "completed", "last_seq": 9})

    assert (409, "server_behind") == (ended.status_code, ended.json()["code"])
    assert "running" == service.http.get("/v1/runs/mnist-7").json()["status"]


def test_a_finished_run_takes_no_report_and_no_other_end(service):
    put(service, "mnist-7")
    finished = [service.http.post("/v1/runs/mnist-7/finish", json={"status": "completed"}) for _ in range(2)]
    other = service.http.post("/v1/runs/mnist-7/finish", json={"status": "failed"})
    report = service.http.post("/v1/runs/mnist-7/reports", json={"epoch": 0, "metrics": {}})

    assert [200, 200] == [answer.status_code for answer in finished]
    assert (409, "run_finished", "completed") == (other.status_code, other.json()["code"], finished[0].json()["status"])
    assert (409, "run_finished") == (report.status_code, report.json()["code"])


def test_a_deleted_run_is_not_found(service):
    put(service, "mnist-7")
    deleted = service.http.delete("/v1/runs/mnist-7")

    assert (204, b"") == (deleted.status_code, deleted.content)
    assert [404, 404] == [
        service.http.get("/v1/runs/mnist-7").status_code,
        service.http.delete("/v1/runs/mnist-7").status_code,
    ]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"tags": {}}),
        ("DELETE", "", None),
        ("GET", "/decision", None),
        ("GET", "/history", None),
        ("GET", "/events", None),
        ("POST", "/attempts", {"key": "a", "epoch": 0}),
        ("POST", "/reports", {"epoch": 0, "metrics": {}}),
        ("POST", "/reports/batch", {"reports": [{"epoch": 0, "metrics": {}}]}),
        ("POST", "/reports?steps=true", {"epoch": 0, "metrics": {}}),
        ("GET", "/decision?wait=1", None),
        ("POST", "/commands", {"type": "stop"}),
        ("POST", "/finish", {"status": "failed"}),
    ],
)
def test_every_call_reports_an_unknown_run(shared_service, method, path, body):
    answer = shared_service.http.request(method, f"/v1/runs/unknown{path}", json=body)

    assert (404, "run_not_found", "unknown") == (answer.status_code, answer.json()["code"], answer.json()["run"])
