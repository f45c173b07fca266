"""The client with the access gate: real trainers with real tokens."""

import pytest

from remotelr import Client, ServiceRefused
from support.api_requests import make_token
from support.fixtures.service import Service

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 1, "monitor": "val_loss"}


def test_a_trainer_with_a_restricted_token_cannot_read_other_runs(guarded: Service):
    token = make_token(guarded.http, "trainer", "report", experiment="digits")["token"]
    guarded.http.put("/v1/runs/other", json={"policy": PLATEAU, "initial_learning_rate": 1.0})
    with Client(guarded.url, token=token, timeout_s=60) as client:
        run = client.run("mine", policy=PLATEAU, initial_learning_rate=0.125)
        rates = [run.begin(epoch=0).learning_rate]
        rates += [run.report(epoch, {"val_loss": 1.0}).learning_rate for epoch in range(3)]
        run.finish()
        with pytest.raises(ServiceRefused) as others:
            client.get_run("other")
        with pytest.raises(ServiceRefused) as all_of_them:
            list(client.runs())

    assert [0.125, 0.125, 0.0625, 0.03125] == rates
    assert ("run_not_found", "forbidden") == (others.value.code, all_of_them.value.code)
    assert ("digits", "completed") == tuple(
        guarded.http.get("/v1/runs/mine").json()[name] for name in ("experiment", "status")
    )


def test_a_revoked_token_stops_reports_and_does_not_appear_in_messages(one_guarded: Service):
    made = make_token(one_guarded.http, "to be revoked", "report", run="cut-off")
    with Client(one_guarded.url, token=made["token"], timeout_s=60) as client:
        run = client.run("cut-off", policy=PLATEAU, initial_learning_rate=0.125)
        run.begin(epoch=0)
        one_guarded.http.delete(f"/v1/tokens/{made['id']}")
        with pytest.raises(ServiceRefused) as refused:
            run.report(0, {"val_loss": 1.0})

    assert ("unauthorized", 401) == (refused.value.code, refused.value.status)
    assert made["token"] not in f"{refused.value} {refused.value!r} {client!r}"


def test_a_rate_limited_trainer_retries_the_same_report(one_guarded: Service, monkeypatch):
    asked = []

    def third_time_is_too_often(_: object, key: object) -> float:
        # Addresses have buckets too.
        asked.extend([key] if isinstance(key, int) else [])
        return 0.5 if asked[2:] == [key] else 0.0

    token = make_token(one_guarded.http, "fast", "report", run="fast")["token"]
    monkeypatch.setattr("remotelr_service.http.auth.throttle.TokenBucket.take", third_time_is_too_often)
    with Client(one_guarded.url, token=token, timeout_s=30) as client:
        run = client.run("fast", policy=PLATEAU, initial_learning_rate=0.125)
        run.begin(epoch=0)
        epochs = [run.report(epoch, {"val_loss": 1.0}).epoch for epoch in range(3)]

    assert [1, 2, 3] == epochs
    assert len(asked) >= 6
