"""`remotelr bulk` and `remotelr experiments`: many runs at once, and what none of them may leave."""

import io

import pytest


def three(trained, name: str) -> list:
    """Three runs of the experiment, `name`-a to -c, the last of which has ended."""
    runs = [trained(f"{name}-{letter}", [0.9], experiment=name) for letter in "abc"]
    runs[2].finish()
    return runs


def test_a_dry_run_lists_each_run_with_its_rate_before_and_after(terminal, trained):
    run, *_ = three(trained, "rehearsed")

    said = terminal("bulk", "scale", "0.5", "-e", "rehearsed", "--dry-run")

    title, header, *rows = [line.split() for line in said.out.splitlines()]
    assert "multiply the rate by 0.5: 2 runs" == " ".join(title)
    assert ["run", "from", "epoch", "rate", "then", "refused"] == header
    assert [["rehearsed-a", "2", "0.1", "0.05"], ["rehearsed-b", "2", "0.1", "0.05"]] == rows
    assert [0.1, 0.1] == [run.report(epoch, {"val_loss": 0.9}).learning_rate for epoch in (1, 2)]


def test_a_bulk_command_reaches_every_selected_run(terminal, trained):
    runs = three(trained, "halved")

    said = terminal("bulk", "scale", "0.5", "-e", "halved", "--yes", "--reason", "too hot", "--json")

    assert (0, 2, 2, 0) == (said.code, said.json["count"], said.json["done"], said.json["failed"])
    assert ["halved-a", "halved-b"] == [each["run"] for each in said.json["runs"]]
    assert [0.05, 0.05] == [run.report(1, {"val_loss": 0.9}).learning_rate for run in runs[:2]]


def test_the_same_key_orders_once(terminal, trained):
    run, *_ = three(trained, "keyed-bulk")

    numbers = {
        terminal("bulk", "scale", "0.5", "-e", "keyed-bulk", "-y", "--key", "k", "--json").json["id"] for _ in "ab"
    }

    assert 1 == len(numbers)
    assert 0.05 == run.report(1, {"val_loss": 0.9}).learning_rate


def test_runs_can_be_selected_by_what_they_last_measured(terminal, trained):
    trained("hot", [0.9, 7.5], experiment="measured")
    trained("lost", [0.9, float("nan")], experiment="measured")
    trained("calm", [0.9, 0.5], experiment="measured")

    def chosen(metric: str) -> list[str]:
        said = terminal("bulk", "stop", "-e", "measured", "--metric", metric, "--dry-run", "--json")
        return [each["run"] for each in said.json["runs"]]

    assert [["hot"], ["calm"], ["lost"]] == [chosen("val_loss>1"), chosen("val_loss <= 0.5"), chosen("val_loss=nan")]


def test_a_run_that_refuses_is_told_and_is_exit_code_one(terminal, trained):
    trained("obeys", [0.9])

    said = terminal("bulk", "note", "look at this", "--run", "obeys", "--run", "is-not-there", "--yes")

    assert (1, True, False) == (said.code, "is-not-there" in said.out, "\nobeys" in said.out)
    assert "remotelr: 1 of 2 runs refused it\n" == said.err
    assert ["note: look at this"] == [said_of(each) for each in commands(terminal, "obeys")]


def commands(terminal, run: str) -> list:
    return list(terminal("runs", "commands", run, "--json").json["commands"])


def said_of(noted) -> str:
    from remotelr_service.cli.command_args import in_words

    return in_words(noted["command"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stop"], "say which runs"),
        (["stop", "-e", "x"], "say --yes"),
        (["stop", "-e", "x", "--metric", "val_loss", "-y"], "a metric is selected as in"),
        (["stop", "-e", "x", "--metric", "val_loss=0.1", "-y"], "a metric is selected as in"),
        (["stop", "--tag", "lab", "-y"], "a tag is NAME:VALUE"),
    ],
)
def test_a_selection_that_cannot_be_is_a_mistake_before_anything_is_asked(terminal, monkeypatch, arguments, said):
    monkeypatch.setattr("sys.stdin", io.StringIO())

    ended = terminal("bulk", *arguments)

    assert (1, "") == (ended.code, ended.out)
    assert said in ended.err


class Person(io.StringIO):
    """Somebody at the keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code", "rate"), [("y", 0, 0.05), ("n", 1, 0.1)])
def test_a_person_is_shown_what_would_come_of_it_and_asked(terminal, trained, monkeypatch, *, answer, code, rate):
    run, *_ = three(trained, f"asked-{answer}")
    monkeypatch.setattr("sys.stdin", Person(f"{answer}\n"))

    said = terminal("bulk", "scale", "0.5", "-e", f"asked-{answer}")

    assert (code, True) == (said.code, "Order this to 2 runs?" in said.err)
    assert f"asked-{answer}-b" in said.err
    assert rate == run.report(1, {"val_loss": 0.9}).learning_rate


def test_an_experiment_keeps_what_is_not_set_anew(terminal):
    terminal("experiments", "set", "kept", "--max-lr", "0.5", "--tag", "team:vision")
    terminal("experiments", "set", "kept", "--min-lr", "0.001", "--policy", '{"type": "step", "step_size": 3}')

    said = terminal("experiments", "show", "kept", "--json")

    assert {"min_lr": 0.001, "max_lr": 0.5} == said.json["limits"]
    assert ({"team": "vision"}, "step") == (said.json["tags"], said.json["policy"]["schedule"]["type"])


def test_what_is_set_for_an_experiment_can_be_taken_away(terminal):
    terminal("experiments", "set", "less", "--max-lr", "0.5", "--max-change", "2", "--tag", "team:vision")

    said = terminal("experiments", "set", "less", "--without", "max_lr", "--without", "tags", "--json")

    assert ({"max_change": 2}, {}) == (said.json["limits"], said.json["tags"])
    assert 2 == terminal("experiments", "set", "less", "--without", "rail").code


def test_a_command_beyond_the_limits_is_refused(terminal, trained):
    trained("limited", [0.9], experiment="limits")
    terminal("experiments", "set", "limits", "--max-change", "4")

    said = terminal("bulk", "set-lr", "0.001", "--run", "limited", "--dry-run")

    assert (0, True) == (said.code, "is more than a factor of 4" in said.out)
    assert "max_change 4" in terminal("experiments", "list").out
