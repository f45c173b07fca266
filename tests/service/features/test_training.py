"""Training over HTTP: attempts, reports, decisions, waiting for ranks and for news, commands."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from support.fixtures.service import Service

PLATEAU = {
    "type": "reduce_on_plateau",
    "flavor": "keras_legacy",
    "monitor": "val_loss",
    "mode": "min",
    "factor": 0.5,
    "patience": 1,
    "min_delta": 0.0,
}
COSINE = {"schedule": {"type": "cosine", "initial_learning_rate": 1.0, "decay_steps": 8}, "unit": "step"}


def create(service: Service, key: str = "mnist-7", **members: Any) -> None:
    body = {"policy": PLATEAU, "initial_learning_rate": 1.0, **members}
    assert 201 == service.http.put(f"/v1/runs/{key}", json=body).status_code


def report(service: Service, epoch: int, val_loss: Any = 1.0, query: str = "", **members: Any) -> httpx.Response:
    body = {"epoch": epoch, "metrics": {"val_loss": val_loss}, **members}
    return service.http.post(f"/v1/runs/mnist-7/reports{query}", json=body)


def test_a_report_is_answered_with_the_rate_of_the_next_epoch(service):
    create(service)
    rates = [report(service, epoch).json()["learning_rate"] for epoch in range(4)]

    assert [1.0, 0.5, 0.25, 0.125] == rates


def test_a_decision_tells_everything_a_trainer_needs(service):
    create(service)
    report(service, 0)
    decision = report(service, 1, step=938, learning_rate=1.0).json()

    assert {
        "run": "mnist-7",
        "attempt": 0,
        "seq": 3,
        "epoch": 2,
        "step": 938,
        "learning_rate": 0.5,
        "momentum": None,
        "reason": "plateau",
        "changed": True,
        "action": "continue",
        "rollback_to": None,
        "plateau": {"best": 1.0, "wait": 0, "cooldown": 0},
        "drift": None,
        "replayed": False,
    } == {name: value for name, value in decision.items() if name != "state"}
    assert "schedule" in decision["state"]


def test_the_same_report_gets_the_same_answer_again(service):
    create(service)
    first = report(service, 0).json()
    report(service, 1)
    again = report(service, 0).json()

    assert {**first, "replayed": True} == again


def test_another_value_for_a_decided_epoch_is_a_conflict_that_shows_both(service):
    create(service)
    report(service, 0, 1.0)
    answer = report(service, 0, "nan")

    assert (409, "report_conflict") == (answer.status_code, answer.json()["code"])
    assert ({"val_loss": 1.0}, {"val_loss": "nan"}) == (answer.json()["known"], answer.json()["given"])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", 1e308, -1e308, 5e-324, 0, 3])
def test_metrics_of_every_kind_are_taken_and_given_back(service, value):
    create(service)
    answer = report(service, 0, value)
    history = service.http.get("/v1/runs/mnist-7/history").json()

    assert 200 == answer.status_code
    assert [{"val_loss": value}] == [each["metrics"] for each in history["reports"]]


def test_a_metric_that_is_null_was_not_measured(service):
    create(service)
    report(service, 0, None)

    assert [{}] == [each["metrics"] for each in service.http.get("/v1/runs/mnist-7/history").json()["reports"]]


def test_a_new_attempt_fences_off_the_older_one(service):
    create(service)
    first = service.http.post("/v1/runs/mnist-7/attempts", json={"key": "a", "epoch": 0}).json()
    for epoch in range(3):
        report(service, epoch, attempt=1)
    second = service.http.post("/v1/runs/mnist-7/attempts", json={"key": "b", "epoch": 2}).json()
    stale = report(service, 3, attempt=1)

    assert (1, 2) == (first["attempt"], second["attempt"])
    assert (2, 0.5, "start") == tuple(second["decision"][name] for name in ("epoch", "learning_rate", "reason"))
    assert (409, "stale_attempt", 2, "stop") == (
        stale.status_code,
        *(stale.json()[name] for name in ("code", "attempt", "action")),
    )


def test_the_same_attempt_key_is_the_same_attempt(service):
    create(service)
    first, again = (
        service.http.post("/v1/runs/mnist-7/attempts", json={"key": "a", "epoch": 0}).json() for _ in range(2)
    )

    assert first["attempt"] == again["attempt"]
    assert {**first["decision"], "replayed": True} == again["decision"]


def test_a_trainer_with_a_newer_decision_gets_the_epoch_to_send_from(service):
    create(service)
    answer = report(service, 0, last_seq=40)

    assert (409, "server_behind", 0, 1) == (
        answer.status_code,
        *(answer.json()[name] for name in ("code", "epoch", "seq")),
    )


def test_a_batch_is_answered_in_order_up_to_the_first_rejected_report(service):
    create(service)
    reports = [{"epoch": epoch, "metrics": {"val_loss": 1.0}} for epoch in (0, 1, 1, 2)]
    reports[2]["metrics"] = {"val_loss": 7.0}
    answer = service.http.post("/v1/runs/mnist-7/reports/batch", json={"reports": reports})

    answers = answer.json()["answers"]
    assert [1.0, 0.5] == [each["learning_rate"] for each in answers[:2]]
    assert [("refused", "report_conflict", {"val_loss": 1.0})] == [
        (each["status"], each["code"], each["problem"]["known"]) for each in answers[2:]
    ]
    assert 2 == service.http.get("/v1/runs/mnist-7").json()["epoch"]


def test_a_request_that_waits_for_commands_returns_at_the_next_command_only(service):
    create(service)
    with ThreadPoolExecutor() as pool:
        poll = pool.submit(service.http.get, "/v1/runs/mnist-7/events?kind=command&after=1&wait=20")
        report(service, 0)
        time.sleep(0.2)
        ended_before = poll.done()
        service.http.post("/v1/runs/mnist-7/commands", json={"type": "scale", "value": 0.5})
        events = poll.result(60).json()["events"]

    assert not ended_before
    assert [("command", {"type": "scale", "value": 0.5})] == [(each["kind"], each["payload"]) for each in events]


def test_waiting_for_commands_that_do_not_come_ends(service):
    create(service)

    answer = service.http.get("/v1/runs/mnist-7/events?kind=command&wait=0.2")

    assert [] == answer.json()["events"]


def test_a_rank_waits_for_the_others_and_polls_with_the_same_report(service):
    create(service, world_size=2, policy={"schedule": PLATEAU, "aggregate": {"ranks": "all"}})
    waiting = report(service, 0, rank=0)
    decided = report(service, 0, rank=1)
    again = report(service, 0, rank=0)

    assert (202, "1") == (waiting.status_code, waiting.headers["retry-after"])
    assert {"status": "waiting", "run": "mnist-7", "attempt": 0, "epoch": 0, "have": 1, "need": 2} == waiting.json()
    assert ([200, 200], 1) == ([decided.status_code, again.status_code], again.json()["epoch"])
    assert decided.json()["learning_rate"] == again.json()["learning_rate"]


def test_a_report_can_wait_for_the_other_ranks(service):
    create(service, world_size=2, policy={"schedule": PLATEAU, "aggregate": {"ranks": "all"}})
    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        first = pool.submit(report, service, 0, query="?wait=59", rank=0)
        time.sleep(0.2)
        report(service, 0, rank=1)
        answer = first.result()

    assert (200, 1) == (answer.status_code, answer.json()["epoch"])
    assert time.monotonic() - began < 50


def test_a_report_that_waited_until_its_timeout_gets_202(service):
    create(service, world_size=2, policy={"schedule": PLATEAU, "aggregate": {"ranks": "all"}})

    assert (202, 1) == (report(service, 0, query="?wait=0.2").status_code, 1)


def test_the_decision_in_force_is_there_to_be_read(service):
    create(service)
    decided = report(service, 0).json()

    assert decided == service.http.get("/v1/runs/mnist-7/decision").json()


def test_a_long_poll_ends_with_the_next_decision(service):
    create(service)
    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        poll = pool.submit(service.http.get, "/v1/runs/mnist-7/decision?after=1&wait=59")
        time.sleep(0.2)
        decided = report(service, 0).json()
        answer = poll.result()

    assert decided == answer.json()
    assert time.monotonic() - began < 50


def test_a_long_poll_in_vain_gives_the_decision_in_force(service):
    create(service)
    answer = service.http.get("/v1/runs/mnist-7/decision?after=1&wait=0.2")

    assert (200, 1) == (answer.status_code, answer.json()["seq"])


def test_many_long_polls_hold_no_thread(service):
    create(service)
    limits = httpx.Limits(max_connections=200)
    with httpx.Client(base_url=service.url, timeout=30, limits=limits, trust_env=False) as http:
        before = threading.active_count()
        with ThreadPoolExecutor(100) as pool:
            polls = [pool.submit(http.get, "/v1/runs/mnist-7/decision?after=1&wait=59") for _ in range(100)]
            time.sleep(1.5)
            # The clients are threads of this process as well.
            of_the_service = threading.active_count() - before - 100
            report(service, 0)
            seqs = {poll.result().json()["seq"] for poll in polls}

    assert {2} == seqs
    assert of_the_service < 20


def test_a_policy_in_steps_gives_one_rate_for_each_step(service):
    create(service, policy=COSINE, steps_per_epoch=4, initial_learning_rate=None)
    begun = service.http.post("/v1/runs/mnist-7/attempts?steps=true", json={"key": "a", "epoch": 0}).json()
    second = report(service, 0, query="?steps=true").json()
    read = service.http.get("/v1/runs/mnist-7/decision?steps=true").json()
    curve = service.http.post("/v1/policies/preview", json={"policy": COSINE, "count": 8}).json()["learning_rates"]

    assert curve == begun["decision"]["learning_rates"] + second["learning_rates"]
    assert second["learning_rate"] == second["learning_rates"][0]
    assert second == read


def test_every_step_of_an_epoch_has_its_rate_when_the_policy_counts_epochs(service):
    create(service, steps_per_epoch=3)

    assert [1.0] * 3 == service.http.get("/v1/runs/mnist-7/decision?steps=true").json()["learning_rates"]


@pytest.mark.parametrize("steps_per_epoch", [None, 100_001])
def test_unknown_steps_are_rejected_before_anything_is_stored(service, steps_per_epoch):
    create(service, steps_per_epoch=steps_per_epoch)
    refused = [
        report(service, 0, query="?steps=true"),
        service.http.post("/v1/runs/mnist-7/attempts?steps=true", json={"key": "a", "epoch": 0}),
        service.http.get("/v1/runs/mnist-7/decision?steps=true"),
    ]

    assert [(422, "steps_unknown")] * 3 == [(answer.status_code, answer.json()["code"]) for answer in refused]
    assert 1 == len(service.http.get("/v1/runs/mnist-7/events").json()["events"])


def test_the_steps_of_a_decision_stay_when_the_policy_is_replaced(service):
    create(service, policy=COSINE, steps_per_epoch=4, initial_learning_rate=None)
    before = report(service, 0, query="?steps=true").json()
    constant = {"schedule": {"type": "constant", "learning_rate": 0.3}, "unit": "step"}
    service.http.put("/v1/runs/mnist-7", json={"policy": constant, "steps_per_epoch": 4, "on_conflict": "replace"})
    after = service.http.get("/v1/runs/mnist-7/decision?steps=true").json()

    assert before["learning_rates"] == after["learning_rates"]


@pytest.mark.parametrize(
    ("order", "rates"),
    [
        ({"type": "set_learning_rate", "value": 0.01}, [0.01, 0.01]),
        ({"type": "scale", "factor": 0.1}, [0.1, 0.05]),
        ({"type": "scale", "value": 0.1}, [0.1, 0.05]),
    ],
)
def test_a_command_effective_from_the_first_epoch_not_yet_decided(service, order, rates):
    create(service)
    service.http.post("/v1/runs/mnist-7/attempts", json={"key": "a", "epoch": 0})
    noted = service.http.post("/v1/runs/mnist-7/commands", json=order).json()

    assert ("mnist-7", 3, 1, order) == (noted["run"], noted["seq"], noted["effective_from"], noted["command"])
    assert rates == [report(service, epoch).json()["learning_rate"] for epoch in range(2)]


def test_a_repeated_command_counts_once(service):
    create(service)
    order = {"type": "scale", "value": 0.5}
    named = [
        service.http.post("/v1/runs/mnist-7/commands", json={**order, "key": "halve"}),
        service.http.post("/v1/runs/mnist-7/commands", json=order, headers={"Idempotency-Key": "halve"}),
    ]

    assert named[0].json() == named[1].json()
    assert 0.5 == report(service, 0).json()["learning_rate"]


def test_a_stop_command_gives_the_action_stop(service):
    create(service)
    service.http.post("/v1/runs/mnist-7/commands", json={"type": "stop", "actor": "ada", "reason": "diverged"})

    assert "stop" == report(service, 0).json()["action"]


def test_the_history_is_the_curve_in_pages(service):
    create(service)
    for epoch in range(5):
        report(service, epoch, learning_rate=1.0)
    first = service.http.get("/v1/runs/mnist-7/history", params={"limit": 3}).json()
    rest = service.http.get("/v1/runs/mnist-7/history", params={"limit": 3, "after": first["next"]}).json()

    rows = first["reports"] + rest["reports"]
    assert (3, 2, None) == (len(first["reports"]), len(rest["reports"]), rest["next"])
    assert [0, 1, 2, 3, 4] == [row["epoch"] for row in rows]
    assert [1.0, 1.0, 0.5, 0.25, 0.125] == [row["learning_rate"] for row in rows]
    assert [1.0, 0.5, 0.25, 0.125, 0.0625] == [row["next_learning_rate"] for row in rows]


@pytest.mark.parametrize(("query", "headers"), [("?format=csv", {}), ("", {"Accept": "text/csv"})])
def test_the_history_comes_as_a_table_too(service, query, headers):
    create(service)
    report(service, 0, 0.5)
    service.http.post("/v1/runs/mnist-7/reports", json={"epoch": 1, "metrics": {"val_loss": "inf", "accuracy": 0.9}})
    answer = service.http.get(f"/v1/runs/mnist-7/history{query}", headers=headers)

    lines = [line.split(",") for line in answer.text.splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert "text/csv; charset=utf-8" == answer.headers["content-type"]
    assert [("0", "0.5", ""), ("1", "inf", "0.9")] == [(row["epoch"], row["val_loss"], row["accuracy"]) for row in rows]


def test_a_table_is_whole_however_long(service):
    create(service)
    reports = [{"epoch": epoch, "metrics": {"val_loss": 1.0}} for epoch in range(450)]
    service.http.post("/v1/runs/mnist-7/reports/batch", json={"reports": reports})

    assert 451 == len(service.http.get("/v1/runs/mnist-7/history?format=csv").text.splitlines())


def test_the_log_tells_all_that_happened(service):
    create(service)
    service.http.post("/v1/runs/mnist-7/attempts", json={"key": "a", "epoch": 0})
    report(service, 0)
    service.http.post("/v1/runs/mnist-7/commands", json={"type": "scale", "value": 0.5, "actor": "ada"})
    service.http.post("/v1/runs/mnist-7/finish", json={"status": "completed"})
    page = service.http.get("/v1/runs/mnist-7/events").json()
    rest = service.http.get("/v1/runs/mnist-7/events?after=4&limit=1").json()

    assert ["created", "attempt", "report", "command", "finished"] == [event["kind"] for event in page["events"]]
    assert [1, 2, 3, 4, 5] == [event["seq"] for event in page["events"]]
    assert "ada" == page["events"][3]["payload"]["actor"]
    assert (page["events"][4:], None) == (rest["events"], rest["next"])


def test_a_preview_gives_the_curve_without_storing_anything(service):
    body = {"policy": PLATEAU, "initial_learning_rate": 1.0, "count": 4, "metrics": [{"val_loss": 1.0}] * 3}
    answer = service.http.post("/v1/policies/preview", json=body)

    assert (200, [1.0, 1.0, 0.5, 0.25], None) == (answer.status_code, *answer.json().values())
    assert [] == service.http.get("/v1/runs").json()["runs"]


def test_a_preview_of_one_cycle_has_its_momentum(shared_service):
    policy = {"type": "one_cycle", "max_lr": 1.0, "total_steps": 10}
    curve = shared_service.http.post("/v1/policies/preview", json={"policy": policy, "count": 10}).json()

    assert (10, 10, 0.85) == (len(curve["learning_rates"]), len(curve["momentum"]), min(curve["momentum"]))


def test_a_long_preview_takes_no_longer_than_a_blink(shared_service):
    body = {"policy": COSINE, "count": 100_000}
    answer = shared_service.http.post("/v1/policies/preview", json=body)

    assert (200, 100_000) == (answer.status_code, len(answer.json()["learning_rates"]))


def test_the_schema_of_policies_is_there_to_be_read(shared_service):
    schema = shared_service.http.get("/v1/policies/schema").json()

    assert "$defs" in schema
    assert "reduce_on_plateau" in str(schema)
