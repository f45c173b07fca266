"""`remotelr policy`, without a service."""

import json

import pytest


@pytest.fixture(autouse=True)
def no_service(monkeypatch, _at_the_shared_service):
    monkeypatch.setenv("REMOTELR_URL", "http://127.0.0.1:1")


def test_a_policy_with_names_of_another_library_is_valid(terminal):
    result = terminal("policy", "validate", '{"type": "StepLR", "step_size": 3}')

    assert (0, "valid\n") == (result.code, result.err)
    assert {"type": "step", "step_size": 3.0, "gamma": 0.1} == result.json["schedule"]


def test_an_invalid_policy_is_reported_with_the_path_of_the_field(terminal):
    result = terminal("policy", "validate", '{"schedule": {"type": "step", "gama": 1}}')

    assert (1, "") == (result.code, result.out)
    assert "schedule.gama" in result.err
    assert 'did you mean "gamma"' in result.err


def test_a_policy_may_be_a_file(terminal, tmp_path):
    file = tmp_path / "policy.json"
    file.write_text('{"type": "constant", "learning_rate": 0.1}')

    assert 0 == terminal("policy", "validate", str(file)).code


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/no/such/file", "cannot be read"),
        ("{1}", "is not JSON"),
        ("[" * 50_000, "is not JSON"),
        ("[1]", "expected a JSON object"),
    ],
)
def test_an_unreadable_document_is_a_user_error(terminal, given, message):
    result = terminal("policy", "validate", given)

    assert (1, True) == (result.code, message in result.err)


def test_preview_as_json_has_the_rates(terminal):
    result = terminal("policy", "preview", '{"type": "step", "step_size": 2}', "--lr", "1", "-n", "5", "--json")

    assert [1, 1, 0.1, 0.1, 0.01] == pytest.approx(result.json["learning_rates"])


def test_preview_as_csv_can_start_at_any_position(terminal):
    result = terminal(
        "policy", "preview", '{"type": "step", "step_size": 2}', "--lr", "1", "--start", "1", "-n", "2", "--csv"
    )

    assert ["epoch,learning_rate", "1,1.0", "2,0.1"] == result.out.splitlines()


def test_preview_of_a_plateau_uses_the_given_losses(terminal):
    policy = '{"type": "reduce_on_plateau", "patience": 1, "factor": 0.5, "flavor": "torch", "monitor": "loss"}'

    result = terminal("policy", "preview", policy, "--lr", "1", "-n", "6", "--losses", "1,1,1,1,1", "--json")

    assert [1, 1, 1, 0.5, 0.5, 0.25] == result.json["learning_rates"]


def test_preview_labels_the_axes(terminal):
    result = terminal("policy", "preview", '{"type": "cosine", "decay_steps": 10}', "--lr", "0.4", "-n", "11")

    first, *_, ruler, last = result.out.splitlines()
    assert first.startswith("0.4 │⠉")
    assert ["epoch", "0", "10"] == ruler.split()
    assert "first 0.4  lowest 0  highest 0.4  last 0" == last


def test_preview_without_an_initial_rate_names_the_field(terminal):
    result = terminal("policy", "preview", '{"type": "cosine", "decay_steps": 10}')

    assert (1, True) == (result.code, "initial_learning_rate" in result.err)


COSINE = {"class_name": "CosineDecay", "config": {"initial_learning_rate": 0.1, "decay_steps": 100}}


@pytest.mark.parametrize(
    ("config", "options", "type", "unit"),
    [
        (COSINE, [], "cosine", "step"),
        (COSINE, ["--unit", "epoch"], "cosine", "epoch"),
        ({"class_name": "SGD", "config": {"learning_rate": COSINE, "momentum": 0.9}}, [], "cosine", "step"),
        ({"factor": 0.5, "patience": 3}, [], "reduce_on_plateau", "epoch"),
        ({"type": "MultiStepLR", "milestones": [3, 6], "gamma": 0.1}, [], "multi_step", "epoch"),
        (
            {"step_size": 30, "gamma": 0.1, "base_lrs": [0.1], "last_epoch": 0, "_step_count": 1, "_last_lr": [0.1]},
            ["--type", "StepLR"],
            "step",
            "epoch",
        ),
    ],
)
def test_convert_reads_schedules_of_other_libraries(terminal, config, options, type, unit):
    result = terminal("policy", "convert", json.dumps(config), *options)

    assert (0, "") == (result.code, result.err)
    assert (type, unit) == (result.json["schedule"]["type"], result.json["unit"])


def test_convert_rejects_different_rates_for_parameter_groups(terminal):
    result = terminal("policy", "convert", '{"step_size": 3, "base_lrs": [0.1, 0.2]}', "--type", "StepLR")

    assert (1, True) == (result.code, "must hold one rate" in result.err)
