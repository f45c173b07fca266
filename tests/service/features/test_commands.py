"""Commands over HTTP: to one run and to many, their status, and experiments."""

from datetime import datetime
from typing import Any

import httpx
import pytest

from support.fixtures.service import Service

COSINE = {"type": "cosine", "initial_learning_rate": 1.0, "decay_steps": 100}
CONSTANT = {"type": "constant", "learning_rate": 1.0}


def create(service: Service, key: str = "mnist-7", policy: Any = CONSTANT, **members: Any) -> None:
    assert 201 == service.http.put(f"/v1/runs/{key}", json={"policy": policy, **members}).status_code
    began = service.http.post(f"/v1/runs/{key}/attempts", json={"key": "first", "epoch": 0})
    assert 200 == began.status_code


def report(service: Service, epoch: int, key: str = "mnist-7", **members: Any) -> Any:
    body = {"epoch": epoch, "metrics": {"val_loss": 1.0}, **members}
    answer = service.http.post(f"/v1/runs/{key}/reports", json=body)
    assert 200 == answer.status_code, answer.text
    return answer.json()


def order(service: Service, key: str = "mnist-7", headers: Any = None, **command: Any) -> httpx.Response:
    return service.http.post(f"/v1/runs/{key}/commands", json=command, headers=headers)


def command(service: Service, seq: int) -> Any:
    answer = service.http.get(f"/v1/runs/mnist-7/commands/{seq}")
    assert 200 == answer.status_code, answer.text
    return answer.json()


def held(**rest: Any) -> dict[str, Any]:
    return {"type": "set_learning_rate", "value": 0.1, **rest}


def problem(answer: httpx.Response) -> tuple[int, str, str | None]:
    document = answer.json()
    assert "application/problem+json" == answer.headers["content-type"]
    return answer.status_code, document["code"], (document.get("errors") or [{}])[0].get("path")


def test_a_command_is_queued_delivered_and_applied_with_the_rate_the_trainer_really_set(service):
    create(service)
    noted = order(service, type="set_learning_rate", value=0.25, actor="ada", reason="too high").json()
    queued = command(service, noted["seq"])
    report(service, 0, learning_rate=1.0)
    delivered = command(service, noted["seq"])
    report(service, 1, learning_rate=0.25)
    applied = command(service, noted["seq"])

    assert noted == queued
    assert (3, 1, "queued", None) == (noted["seq"], noted["effective_from"], noted["state"], noted["rate"])
    assert ("delivered", 1, None) == (delivered["state"], delivered["at_epoch"], delivered["rate"])
    assert ("applied", 1, 0.25) == (applied["state"], applied["at_epoch"], applied["rate"])
    assert [("queued", 3, "ada", "too high"), ("delivered", 4, None, None), ("applied", 5, None, None)] == [
        (step["state"], step["seq"], step["actor"], step["reason"]) for step in applied["history"]
    ]
    times = [datetime.fromisoformat(step["at"]) for step in applied["history"]]
    assert times == sorted(times)


def test_the_answer_to_a_command_says_what_the_rate_becomes_and_the_run_what_is_beneath(service):
    plateau = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 1, "initial_learning_rate": 1.0}
    create(service, policy=plateau)
    pinned = order(service, **held()).json()
    for epoch in range(4):
        report(service, epoch)
    run = service.http.get("/v1/runs/mnist-7").json()
    released = order(service, type="release").json()
    after = report(service, 4)
    delivered = command(service, pinned["seq"])
    without = service.http.get("/v1/runs/mnist-7").json()["learning_rate_beneath"]

    assert (1.0, 0.1, ["schedule_observes"]) == (
        pinned["before"],
        pinned["after"],
        [each["code"] for each in pinned["notices"]],
    )
    assert (0.1, 0.125) == (run["learning_rate"], run["learning_rate_beneath"])
    assert (0.1, 0.125, []) == (released["before"], released["after"], released["notices"])
    assert after["learning_rate"] <= released["after"]
    assert ([], None) == (delivered["notices"], without)


def test_a_command_to_a_run_that_is_over_is_accepted_with_a_notice(service):
    create(service)
    service.http.post("/v1/runs/mnist-7/finish", json={"status": "completed"})
    accepted = order(service, type="scale", factor=0.5)
    noted = order(service, type="note", text="done")

    assert [["run_ended"], []] == [[each["code"] for each in answer.json()["notices"]] for answer in (accepted, noted)]


def test_a_bulk_result_has_the_status_of_its_run(service):
    for key in ("over", "under-way"):
        create(service, key)
    service.http.post("/v1/runs/over/finish", json={"status": "completed"})
    body = {"selector": {"runs": ["none", "over", "under-way"]}, "command": {"type": "scale", "factor": 0.5}}
    rehearsed, done = (
        service.http.post("/v1/commands", json={**body, "dry_run": is_dry}).json()["runs"] for is_dry in (True, False)
    )

    wanted = [("none", None), ("over", "completed"), ("under-way", "running")]
    assert wanted == [(each["run"], each["status"]) for each in rehearsed]
    assert wanted == [(each["run"], each["status"]) for each in done]


def test_a_trainer_that_used_another_rate_is_found_out(service):
    create(service)
    noted = order(service, type="scale", factor=0.5).json()
    report(service, 0)
    report(service, 1, learning_rate=1.0)
    rejected = command(service, noted["seq"])

    assert ("rejected", 1.0) == (rejected["state"], rejected["rate"])
    assert "1.0" in rejected["reason"]


def test_a_superseded_command_names_the_actor_of_the_later_one(service):
    create(service)
    older = order(service, type="set_learning_rate", value=0.5, actor="ada").json()
    newer = order(service, type="set_learning_rate", value=0.25, actor="bob", reason="no, less").json()
    step = command(service, older["seq"])["history"][-1]

    assert ("superseded", newer["seq"], "bob", "no, less") == (
        step["state"],
        step["seq"],
        step["actor"],
        step["reason"],
    )


def test_a_command_is_cancelled_until_it_is_delivered_and_not_after(service):
    create(service)
    pin = order(service, type="set_learning_rate", value=0.5).json()
    order(service, type="cancel", seq=pin["seq"], actor="bob")
    rate = report(service, 0)["learning_rate"]
    delivered = order(service, type="set_learning_rate", value=0.25).json()
    report(service, 1)
    late = order(service, type="cancel", seq=delivered["seq"])

    assert ("cancelled", "bob") == (
        command(service, pin["seq"])["state"],
        command(service, pin["seq"])["history"][-1]["actor"],
    )
    assert 1.0 == rate
    assert (422, "invalid_command", "seq") == problem(late)


def test_an_undelivered_command_expires_with_the_run(service):
    create(service)
    noted = order(service, type="scale", factor=0.5).json()
    service.http.post("/v1/runs/mnist-7/finish", json={"status": "failed"})
    expired = command(service, noted["seq"])

    assert ("expired", "the run is failed") == (expired["state"], expired["reason"])
    assert ["queued", "expired"] == [step["state"] for step in expired["history"]]


def test_the_commands_of_a_run_are_listed_in_pages_with_their_status(service):
    create(service, policy=COSINE, total_epochs=100)
    seqs = [
        order(service, **command).json()["seq"]
        for command in (
            {"type": "note", "text": "looks good"},
            {"type": "replace_policy", "policy": {**COSINE, "decay_steps": 50}},
            {"type": "extend", "total": 80},
            {"type": "stop"},
        )
    ]
    seen: list[Any] = []
    after = 0
    while after is not None:
        page = service.http.get(f"/v1/runs/mnist-7/commands?limit=2&after={after}").json()
        seen += page["commands"]
        after = page["next"]

    assert seqs == [each["seq"] for each in seen]
    assert ["note", "replace_policy", "extend", "stop"] == [each["type"] for each in seen]
    assert ["applied", "queued", "queued", "queued"] == [each["state"] for each in seen]


def test_an_event_of_another_kind_is_not_found_as_a_command(service):
    create(service)

    assert (404, "command_not_found") == problem(service.http.get("/v1/runs/mnist-7/commands/1"))[:2]
    assert (404, "command_not_found") == problem(service.http.get("/v1/runs/mnist-7/commands/77"))[:2]
    assert (404, "run_not_found") == problem(service.http.get("/v1/runs/nowhere/commands/1"))[:2]
    assert (404, "run_not_found") == problem(service.http.get("/v1/runs/nowhere/commands"))[:2]


def test_the_second_command_with_the_same_expected_seq_is_rejected(service):
    create(service)
    first = order(service, type="scale", factor=0.5, expected_seq=2)
    again = order(service, type="scale", factor=0.5, expected_seq=2)

    assert 200 == first.status_code
    assert (409, "seq_conflict") == problem(again)[:2]
    assert (2, 3) == (again.json()["expected_seq"], again.json()["seq"])
    assert 0.5 == report(service, 0)["learning_rate"]


def test_a_retry_of_a_command_is_no_conflict_though_the_run_has_moved(service):
    create(service)
    answers = [
        order(service, headers={"Idempotency-Key": "once"}, type="scale", factor=0.5, expected_seq=2) for _ in range(2)
    ]

    assert [200, 200] == [answer.status_code for answer in answers]
    assert answers[0].json() == answers[1].json()
    assert 0.5 == report(service, 0)["learning_rate"]


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        ({"type": "scale"}, "invalid_request", "factor"),
        ({"type": "scale", "factor": 0}, "invalid_request", "factor"),
        ({"type": "scale", "value": 0}, "invalid_request", "value"),
        ({"type": "scale", "factor": 0.5, "value": 0.5}, "invalid_request", "factor"),
        ({"type": "set_learning_rate"}, "invalid_request", "value"),
        ({"type": "set_learning_rate", "value": -1.0}, "invalid_request", "value"),
        (held(mode="hold"), "invalid_request", "mode"),
        (held(until={}), "invalid_request", "until"),
        (held(until={"epoch": 3, "time": "x"}), "invalid_request", "until.time"),
        (held(until={"time": "2026-12-24T18:00"}), "invalid_request", "until.time"),
        (held(until={"time": "9999-12-31T23:59:59-14:00"}), "invalid_request", "until.time"),
        (held(until={"time": "0001-01-01T00:00:00+14:00"}), "invalid_request", "until.time"),
        (held(until={"epok": 3}), "invalid_request", "until.epok"),
        ({"type": "stop", "value": 1.0}, "invalid_request", "value"),
        ({"type": "replace_policy", "policy": {"type": "cosine"}}, "invalid_policy", "policy.decay_steps"),
        ({"type": "extend", "total": 0}, "invalid_request", "total"),
        ({"type": "note", "text": ""}, "invalid_request", "text"),
        ({"type": "cancel", "seq": 1}, "invalid_command", "seq"),
        ({"type": "limits", "limits": {}}, "invalid_request", "type"),
        ({"type": "sacle", "factor": 0.5}, "invalid_request", "type"),
        ({"factor": 0.5}, "invalid_request", "type"),
    ],
)
def test_an_invalid_command_is_rejected_with_its_field(shared_service, body, code, path):
    shared_service.http.put("/v1/runs/senseless", json={"policy": CONSTANT})
    answer = shared_service.http.post("/v1/runs/senseless/commands", json=body)

    assert (422, code) == (answer.status_code, answer.json()["code"])
    assert path == answer.json()["errors"][0]["path"]


def test_a_misspelled_command_gets_the_nearest_type(shared_service):
    shared_service.http.put("/v1/runs/senseless", json={"policy": CONSTANT})
    kind = shared_service.http.post("/v1/runs/senseless/commands", json={"type": "sacle", "factor": 0.5})
    field = shared_service.http.post("/v1/runs/senseless/commands", json=held(modee="pin"))

    assert "did you mean scale?" in kind.json()["detail"]
    assert "did you mean mode?" in field.json()["detail"]


def test_pause_and_resume_leave_no_trace_in_the_curve_but_the_time_between(service):
    create(service, policy=COSINE)
    plain = [report(service, epoch)["learning_rate"] for epoch in range(4)]
    order(service, type="pause")
    held = [report(service, epoch)["learning_rate"] for epoch in range(4, 7)]
    order(service, type="resume_schedule")
    after = [report(service, epoch)["learning_rate"] for epoch in range(7, 9)]
    create(service, "other", policy=COSINE)
    curve = [report(service, epoch, "other")["learning_rate"] for epoch in range(6)]

    assert [plain[-1]] * 3 == held
    assert curve[:4] == plain
    assert curve[4:6] == after


def test_a_rate_is_held_until_a_time_of_any_zone(service):
    create(service)
    for time, rate in (("2020-01-01T00:00:00+02:00", 1.0), ("2100-01-01T00:00:00Z", 0.5)):
        order(service, type="set_learning_rate", value=0.5, until={"time": time})
        epoch = service.http.get("/v1/runs/mnist-7").json()["epoch"]

        assert rate == report(service, epoch)["learning_rate"]


def test_a_bulk_command_has_the_effects_of_its_dry_run(service):
    for key in ("a", "b"):
        create(service, key, experiment="digits", tags={"team": "vision"})
    create(service, "bounded", policy={"schedule": CONSTANT, "min_lr": 0.8}, experiment="digits")
    create(service, "other")
    body = {
        "selector": {"experiment": "digits"},
        "command": {"type": "set_learning_rate", "value": 0.5},
        "actor": "ada",
        "reason": "cool down",
    }
    look = service.http.post("/v1/commands", json={**body, "dry_run": True}).json()
    done = service.http.post("/v1/commands?wait=60", json=body, headers={"Idempotency-Key": "cool"})
    again = service.http.post("/v1/commands", json={**body, "key": "cool"})
    failed = service.http.get(f"/v1/commands/{done.json()['id']}?failed=true").json()

    rates = [("a", 1.0, 0.5, None), ("b", 1.0, 0.5, None), ("bounded", None, None, "invalid_command")]
    assert rates == [(each["run"], each["before"], each["after"], each["code"]) for each in look["runs"]]
    assert (None, True, 3, 1) == (look["id"], look["dry_run"], look["count"], look["failed"])
    assert rates == [(each["run"], each["before"], each["after"], each["code"]) for each in done.json()["runs"]]
    assert (200, "finished", 3, 3, 1) == (
        done.status_code,
        *(done.json()[name] for name in ("status", "count", "done", "failed")),
    )
    assert done.json() == again.json()
    assert ["bounded"] == [each["run"] for each in failed["runs"]]
    assert [0.5, 1.0, 1.0] == [report(service, 0, key)["learning_rate"] for key in ("a", "bounded", "other")]


def test_a_bulk_command_without_wait_is_answered_before_its_end(service):
    for number in range(5):
        create(service, f"run-{number}")
    begun = service.http.post(
        "/v1/commands?wait=0", json={"selector": {"status": "running"}, "command": {"type": "scale", "factor": 0.5}}
    )
    url = f"/v1/commands/{begun.json()['id']}"
    while (found := service.http.get(url).json())["status"] != "finished":
        pass
    pages = [service.http.get(f"{url}?limit=3&after={after}").json() for after in (0, 3)]

    assert begun.status_code in (200, 202)
    assert 5 == found["done"]
    assert [f"run-{number}" for number in range(5)] == [each["run"] for page in pages for each in page["runs"]]
    assert [3, None] == [page["next"] for page in pages]


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        ({"selector": {}}, "invalid_request", "selector"),
        ({"selector": {"experimnt": "x"}}, "invalid_request", "selector.experimnt"),
        ({"selector": {"runs": []}}, "invalid_request", "selector.runs"),
        ({"selector": {"metrics": {"loss": {}}}}, "invalid_request", "selector.metrics.loss"),
        ({"selector": {"metrics": {"loss": {"above": 1}}}}, "invalid_request", "selector.metrics.loss.above"),
        ({"command": None}, "invalid_request", "command"),
        ({"command": {"type": "scale", "factor": 2, "by": 2}}, "invalid_request", "command.by"),
        ({"command": {"type": "stop", "expected_seq": 3}}, "invalid_command", "command.expected_seq"),
        ({"command": {"type": "cancel", "seq": 3}}, "invalid_command", "command.type"),
    ],
)
def test_an_invalid_bulk_command_is_rejected_with_its_field(shared_service, body, code, path):
    sensible = {"selector": {"status": "running"}, "command": {"type": "stop"}}
    answer = shared_service.http.post("/v1/commands", json=sensible | body)

    assert (422, code, path) == problem(answer)


def test_an_unknown_command_to_many_is_not_found(shared_service):
    assert (404, "command_not_found") == problem(shared_service.http.get("/v1/commands/77"))[:2]


def test_new_runs_get_the_settings_of_their_experiment(service):
    settings = {"policy": CONSTANT, "tags": {"team": "vision"}, "limits": {"max_lr": 0.5, "max_change": 4}}
    made = service.http.put("/v1/experiments/digits", json=settings)
    again = service.http.put("/v1/experiments/digits", json=settings)
    run = service.http.put("/v1/runs/mnist-7", json={"experiment": "digits"})
    found = service.http.get("/v1/experiments/digits").json()

    assert (201, 200, 201) == (made.status_code, again.status_code, run.status_code)
    assert "/v1/experiments/digits" == made.headers["location"]
    assert {"max_lr": 0.5, "max_change": 4.0} == found["limits"]
    assert ({"team": "vision"}, "constant") == (run.json()["tags"], run.json()["policy"]["schedule"]["type"])
    assert (0.5, found["limits"]) == (run.json()["learning_rate"], run.json()["limits"])
    assert (422, "invalid_command", "value") == problem(order(service, type="set_learning_rate", value=0.6))
    assert ["digits"] == [each["experiment"] for each in service.http.get("/v1/experiments").json()["experiments"]]


def test_new_limits_hold_for_running_runs_when_the_answer_is_there(service):
    for key in ("a", "b"):
        create(service, key, experiment="digits")
    put = service.http.put("/v1/experiments/digits?wait=60", json={"limits": {"max_lr": 0.5}, "actor": "ada"}).json()
    status = service.http.get(f"/v1/commands/{put['limits_command']}").json()

    assert ("finished", 2, "ada", "limits") == (
        status["status"],
        status["done"],
        status["actor"],
        status["command"]["type"],
    )
    assert [0.5, 0.5] == [report(service, 0, key)["learning_rate"] for key in ("a", "b")]


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        ({"limits": {"min_lr": 1.0, "max_lr": 0.1}}, "invalid_request", "limits"),
        ({"limits": {"max_change": 0.5}}, "invalid_request", "limits.max_change"),
        ({"limits": {"maximum": 1}}, "invalid_request", "limits.maximum"),
        ({"policy": {"type": "cosinus"}}, "invalid_policy", "policy.type"),
    ],
)
def test_an_invalid_experiment_is_rejected_with_its_field(shared_service, body, code, path):
    answer = shared_service.http.put("/v1/experiments/senseless", json=body)

    assert (422, code, path) == problem(answer)
    assert (404, "experiment_not_found") == problem(shared_service.http.get("/v1/experiments/senseless"))[:2]


def test_a_new_run_without_a_policy_gets_the_ways_to_set_one(shared_service):
    answer = shared_service.http.put("/v1/runs/bare", json={"experiment": "without-any"})

    assert (422, "invalid_policy", "policy") == problem(answer)
    assert "PUT /v1/experiments/without-any" in answer.json()["detail"]
