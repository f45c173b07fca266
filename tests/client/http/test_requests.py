"""The requests that the client builds."""

import json
import math

import pytest

from remotelr._http.requests import Request, begin_attempt, get_decision, put_run, report


def test_a_report_sends_non_finite_metrics_by_name():
    request = report("mnist-7", {"val_loss": math.nan, "loss": math.inf, "low": -math.inf, "f1": 0.5}, {"epoch": 3})

    assert json.loads(request.body)["metrics"] == {"val_loss": "nan", "loss": "inf", "low": "-inf", "f1": 0.5}


def test_a_metric_that_was_not_measured_is_left_out():
    assert json.loads(report("mnist-7", {"val_loss": None}, {"epoch": 3}).body)["metrics"] == {}


def test_absent_members_are_not_sent():
    assert json.loads(put_run("mnist-7", {"policy": {"type": "constant"}, "experiment": None}).body) == {
        "policy": {"type": "constant"}
    }


@pytest.mark.parametrize("key", ["../../x?y", "a/b", "my run", "", "-a", "a" * 201, "é", "a\n"])
def test_an_invalid_run_key_is_not_sent(key):
    with pytest.raises(ValueError, match="a run's key must be 1 to 200 letters"):
        begin_attempt(key, {"epoch": 0})


def test_a_run_key_is_one_segment_of_the_path():
    assert begin_attempt("jobs:mnist-7_b.2", {"epoch": 0}).path == "/v1/runs/jobs%3Amnist-7_b.2/attempts"


def test_a_wait_is_written_in_plain_digits():
    expected = Request(method="GET", path="/v1/runs/a/decision", params={"after": "3", "wait": "0.000"})

    assert expected == get_decision("a", after=3, wait_s=1e-7)
