"""`remotelr policy`: policies without a service."""

import json

import pytest


@pytest.fixture(autouse=True)
def no_service(monkeypatch, _at_the_shared_service):
    monkeypatch.setenv("REMOTELR_URL", "http://127.0.0.1:1")


def test_a_policy_in_the_words_of_another_library_is_valid(terminal):
    said = terminal("policy", "validate", '{"type": "StepLR", "step_size": 3}')

    assert (0, "valid\n") == (said.code, said.err)
    assert {"type": "step", "step_size": 3.0, "gamma": 0.1} == said.json["schedule"]


def test_what_is_wrong_with_a_policy_is_said_with_its_place(terminal):
    said = terminal("policy", "validate", '{"schedule": {"type": "step", "gama": 1}}')

    assert (1, "") == (said.code, said.out)
    assert "schedule.gama" in said.err
    assert 'did you mean "gamma"' in said.err


def test_a_policy_may_stand_in_a_file(terminal, tmp_path):
    file = tmp_path / "policy.json"
    file.write_text('{"type": "constant", "learning_rate": 0.1}')

    assert 0 == terminal("policy", "validate", str(file)).code


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/no/such/file", "cannot be read"),
        ("{1}", "is not JSON"),
        ("[" * 50_000, "is not JSON"),
        ("[1]", "a JSON object is needed"),
    ],
)
def test_a_document_that_is_none_is_a_mistake(terminal, given, said):
    ended = terminal("policy", "validate", given)

    assert (1, True) == (ended.code, said in ended.err)


def test_a_curve_as_json_holds_its_rates(terminal):
    said = terminal("policy", "preview", '{"type": "step", "step_size": 2}', "--lr", "1", "-n", "5", "--json")

    assert [1, 1, 0.1, 0.1, 0.01] == pytest.approx(said.json["learning_rates"])


def test_a_curve_as_csv_can_begin_anywhere(terminal):
    said = terminal(
        "policy", "preview", '{"type": "step", "step_size": 2}', "--lr", "1", "--start", "1", "-n", "2", "--csv"
    )

    assert ["epoch,learning_rate", "1,1.0", "2,0.1"] == said.out.splitlines()


def test_a_plateau_is_drawn_for_losses_that_are_given(terminal):
    policy = '{"type": "reduce_on_plateau", "patience": 1, "factor": 0.5, "flavor": "torch", "monitor": "loss"}'

    said = terminal("policy", "preview", policy, "--lr", "1", "-n", "6", "--losses", "1,1,1,1,1", "--json")

    assert [1, 1, 1, 0.5, 0.5, 0.25] == said.json["learning_rates"]


def test_a_picture_has_the_rates_at_its_side(terminal):
    said = terminal("policy", "preview", '{"type": "cosine", "decay_steps": 10}', "--lr", "0.4", "-n", "11")

    first, *_, ruler, last = said.out.splitlines()
    assert first.startswith("0.4 │⠉")
    assert ["epoch", "0", "10"] == ruler.split()
    assert "first 0.4  lowest 0  highest 0.4  last 0" == last


def test_a_policy_that_lacks_a_rate_says_so(terminal):
    said = terminal("policy", "preview", '{"type": "cosine", "decay_steps": 10}')

    assert (1, True) == (said.code, "initial_learning_rate" in said.err)


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
def test_what_another_library_saved_becomes_a_policy(terminal, config, options, type, unit):
    said = terminal("policy", "convert", json.dumps(config), *options)

    assert (0, "") == (said.code, said.err)
    assert (type, unit) == (said.json["schedule"]["type"], said.json["unit"])


def test_a_scheduler_with_a_rate_for_each_group_is_refused(terminal):
    said = terminal("policy", "convert", '{"step_size": 3, "base_lrs": [0.1, 0.2]}', "--type", "StepLR")

    assert (1, True) == (said.code, "a run has one rate" in said.err)
