"""`remotelr bulk` and `remotelr experiments`."""

import io

import pytest


def three(trained, name: str) -> list:
    """Three runs of an experiment, `name`-a to `name`-c; the last one is finished."""
    runs = [trained(f"{name}-{letter}", [0.9], experiment=name) for letter in "abc"]
    runs[2].finish()
    return runs


def test_a_dry_run_lists_each_run_with_its_rate_before_and_after(terminal, trained):
    run, *_ = three(trained, "rehearsed")

    result = terminal("bulk", "scale", "0.5", "-e", "rehearsed", "--dry-run")

    title, header, *rows = [line.split() for line in result.out.splitlines()]
    assert "has the rate halved: 2 runs" == " ".join(title)
    assert ["run", "from", "epoch", "rate", "then", "rejected"] == header
    assert [["rehearsed-a", "2", "0.1", "0.05"], ["rehearsed-b", "2", "0.1", "0.05"]] == rows
    assert [0.1, 0.1] == [run.report(epoch, {"val_loss": 0.9}).learning_rate for epoch in (1, 2)]


def test_a_bulk_command_says_how_many_of_its_runs_are_over(terminal, trained):
    three(trained, "mixed")
    selected = ["-r", "mixed-b", "-r", "mixed-c"]

    rehearsed = terminal("bulk", "scale", "0.5", *selected, "--dry-run")
    done = terminal("bulk", "scale", "0.5", *selected, "--yes")
    number = done.out.split()[1]
    later = terminal("bulk", "show", number)

    titles = [each.out.splitlines()[0] for each in (rehearsed, done, later)]
    note = "; 1 run is not running: this holds if it begins again"
    assert [True, True, False] == [title.endswith(note) for title in titles]


def test_a_bulk_command_reaches_every_selected_run(terminal, trained):
    runs = three(trained, "halved")

    result = terminal("bulk", "scale", "0.5", "-e", "halved", "--yes", "--reason", "too hot", "--json")

    assert (0, 2, 2, 0) == (result.code, result.json["count"], result.json["done"], result.json["failed"])
    assert ["halved-a", "halved-b"] == [each["run"] for each in result.json["runs"]]
    assert [0.05, 0.05] == [run.report(1, {"val_loss": 0.9}).learning_rate for run in runs[:2]]


def test_a_bulk_command_with_the_same_key_counts_once(terminal, trained):
    run, *_ = three(trained, "keyed-bulk")

    numbers = {
        terminal("bulk", "scale", "0.5", "-e", "keyed-bulk", "-y", "--key", "k", "--json").json["id"] for _ in "ab"
    }

    assert 1 == len(numbers)
    assert 0.05 == run.report(1, {"val_loss": 0.9}).learning_rate


def test_runs_can_be_selected_by_their_last_metrics(terminal, trained):
    trained("hot", [0.9, 7.5], experiment="measured")
    trained("lost", [0.9, float("nan")], experiment="measured")
    trained("calm", [0.9, 0.5], experiment="measured")

    def chosen(metric: str) -> list[str]:
        result = terminal("bulk", "stop", "-e", "measured", "--metric", metric, "--dry-run", "--json")
        return [each["run"] for each in result.json["runs"]]

    assert [["hot"], ["calm"], ["lost"]] == [chosen("val_loss>1"), chosen("val_loss <= 0.5"), chosen("val_loss=nan")]


def test_a_rejecting_run_is_named_and_is_exit_code_1(terminal, trained):
    trained("obeys", [0.9])

    result = terminal("bulk", "note", "check this", "--run", "obeys", "--run", "is-not-there", "--yes")

    assert (1, True, False) == (result.code, "is-not-there" in result.out, "\nobeys" in result.out)
    assert "remotelr: 1 of 2 runs rejected the command\n" == result.err
    assert ["check this"] == [each["command"]["text"] for each in commands(terminal, "obeys")]


def commands(terminal, run: str) -> list:
    return list(terminal("runs", "commands", run, "--json").json["commands"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stop"], "no condition selects the runs"),
        (["stop", "-e", "x"], "use --yes"),
        (["stop", "-e", "x", "--metric", "val_loss", "-y"], "--metric must be like"),
        (["stop", "-e", "x", "--metric", "val_loss=0.1", "-y"], "--metric must be like"),
        (["stop", "--tag", "lab", "-y"], "a tag must be NAME:VALUE"),
    ],
)
def test_an_invalid_selection_is_rejected_before_any_request(terminal, monkeypatch, arguments, message):
    monkeypatch.setattr("sys.stdin", io.StringIO())

    result = terminal("bulk", *arguments)

    assert (1, "") == (result.code, result.out)
    assert message in result.err


class Keyboard(io.StringIO):
    """A stdin that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code", "rate"), [("y", 0, 0.05), ("n", 1, 0.1)])
def test_a_bulk_command_on_a_terminal_is_confirmed_first(terminal, trained, monkeypatch, *, answer, code, rate):
    run, *_ = three(trained, f"confirmed-{answer}")
    monkeypatch.setattr("sys.stdin", Keyboard(f"{answer}\n"))

    result = terminal("bulk", "scale", "0.5", "-e", f"confirmed-{answer}")

    assert (code, True) == (result.code, "Send this command to 2 runs?" in result.err)
    assert f"confirmed-{answer}-b" in result.err
    assert rate == run.report(1, {"val_loss": 0.9}).learning_rate


def test_experiments_set_keeps_other_settings(terminal):
    terminal("experiments", "set", "merged", "--max-lr", "0.5", "--tag", "team:vision")
    terminal("experiments", "set", "merged", "--min-lr", "0.001", "--policy", '{"type": "step", "step_size": 3}')

    result = terminal("experiments", "show", "merged", "--json")

    assert {"min_lr": 0.001, "max_lr": 0.5} == result.json["limits"]
    assert ({"team": "vision"}, "step") == (result.json["tags"], result.json["policy"]["schedule"]["type"])


def test_settings_of_an_experiment_can_be_removed(terminal):
    terminal("experiments", "set", "less", "--max-lr", "0.5", "--max-change", "2", "--tag", "team:vision")

    result = terminal("experiments", "set", "less", "--without", "max_lr", "--without", "tags", "--json")

    assert ({"max_change": 2}, {}) == (result.json["limits"], result.json["tags"])
    assert 2 == terminal("experiments", "set", "less", "--without", "rail").code


def test_a_command_beyond_max_change_is_rejected(terminal, trained):
    trained("limited", [0.9], experiment="limits")
    terminal("experiments", "set", "limits", "--max-change", "4")

    result = terminal("bulk", "set-lr", "0.001", "--run", "limited", "--dry-run")

    assert (0, True) == (result.code, "is more than a factor of 4" in result.out)
    assert "max_change 4" in terminal("experiments", "list").out
