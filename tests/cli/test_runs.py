"""`remotelr runs`: what an operator sees of runs, and orders of one."""

import json
import math

import pytest


def test_runs_are_listed_with_where_they_stand(terminal, trained):
    trained("list-a", [0.9, 0.9, 0.9, 0.9], experiment="listing", tags={"arch": "vit"}, total_epochs=10)
    trained("list-b", [0.9], experiment="listing").finish()

    said = terminal("runs", "list", "--experiment", "listing")

    header, *rows = [line.split() for line in said.out.splitlines()]
    assert ["run", "status", "epoch", "rate", "by", "experiment", "tags", "heard", "of"] == header
    assert ["list-a", "running", "4/10", "0.05", "plateau", "listing", "arch:vit"] == rows[0][:7]
    assert ["list-b", "completed", "1", "0.1", "schedule", "listing"] == rows[1][:6]
    assert (0, "") == (said.code, said.err)


def test_a_list_as_json_is_what_the_service_says(terminal, trained):
    trained("json-a", [0.9], experiment="as-json")

    (run,) = terminal("runs", "list", "-e", "as-json", "--json").json["runs"]

    assert ("json-a", 1, 0.1) == (run["run"], run["epoch"], run["learning_rate"])


def test_a_run_is_listed_that_has_all_the_tags(terminal, trained):
    trained("tagged-a", [], tags={"where": "lab", "gpu": "a"})
    trained("tagged-b", [], tags={"where": "lab", "gpu": "b"})

    runs = terminal("runs", "list", "-t", "where:lab", "-t", "gpu:b", "--json").json["runs"]

    assert ["tagged-b"] == [run["run"] for run in runs]


def test_a_list_that_was_cut_off_says_so(terminal, trained):
    for key in ("many-a", "many-b", "many-c"):
        trained(key, [], experiment="many")

    said = terminal("runs", "list", "-e", "many", "--limit", "2")

    assert ["many-a", "many-b"] == [line.split()[0] for line in said.out.splitlines()[1:]]
    assert "more than 2" in said.err


def test_a_run_is_shown_with_its_curve(terminal, trained):
    trained("shown", [0.9, 0.8, 0.8, 0.8, 0.8], tags={"arch": "vit"})

    facts = dict(line.split(None, 1) for line in terminal("runs", "show", "shown").out.splitlines())

    assert "0.05 (plateau)" == facts["rate"].strip()
    assert "█████▁" == facts["rates"].strip()
    assert facts["val_loss"].startswith("█▁▁▁▁")
    assert facts["policy"].startswith("reduce_on_plateau (")


def test_history_shows_the_epochs_that_count(terminal, trained):
    run = trained("again", [0.9, 0.8, 0.7])
    run.begin(1)
    run.report(1, {"val_loss": math.nan})

    counting = terminal("runs", "history", "again", "--json").json["reports"]
    everything = terminal("runs", "history", "again", "--all", "--json").json["reports"]
    shown = terminal("runs", "history", "again").out

    assert [(0, 0.9), (1, "nan")] == [(each["epoch"], each["metrics"]["val_loss"]) for each in counting]
    assert 4 == len(everything)
    assert "nan" in shown


def test_the_newest_epochs_of_a_history_can_be_asked_for_alone(terminal, trained):
    trained("long", [0.9] * 9)

    assert [7, 8] == [
        each["epoch"] for each in terminal("runs", "history", "long", "-n", "2", "--json").json["reports"]
    ]


def test_a_rate_that_is_set_is_the_next_epochs(terminal, trained):
    run = trained("steered", [0.9])

    said = terminal("runs", "set-lr", "steered", "0.025", "--reason", "too hot")
    rates = [run.report(epoch, {"val_loss": 0.9}).learning_rate for epoch in (1, 2)]

    assert (0, "") == (said.code, said.err)
    assert said.out.startswith("steered: set the rate to 0.025: command ")
    assert [0.025, 0.025] == rates


def test_the_same_key_is_the_same_command(terminal, trained):
    run = trained("keyed", [0.9])

    numbers = {terminal("runs", "set-lr", "keyed", "0.05", "--key", "once", "--json").json["seq"] for _ in range(3)}

    assert 1 == len(numbers)
    assert 0.05 == run.report(1, {"val_loss": 0.9}).learning_rate


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["runs", "show", "nobody"], 1, "remotelr: there is no run 'nobody' (run_not_found)\n"),
        (["runs", "set-lr", "nobody", "0.1"], 1, "run_not_found"),
        (["runs", "list", "--status", "asleep"], 1, "invalid_request"),
        (["runs", "set-lr", "nobody", "fast"], 2, "Invalid value for 'RATE'"),
        (["runs", "set-lr", "nobody", "1", "--until-epoch", "3", "--until-time", "now"], 1, "give one of"),
        (["runs", "watch", "nobody", "--once"], 1, "run_not_found"),
        (["runs", "list", "--url", "http://127.0.0.1:1"], 3, "`remotelr doctor` looks for the cause"),
        (["runs", "list", "--url", "127.0.0.1:1"], 1, "begins with http"),
        (["runs", "list", "--url", "http://"], 1, "names a host"),
        (["runs", "show", ""], 1, "no run's key"),
        (["runs", "show", ".."], 1, "no run's key"),
        (["runs", "show", "a/b"], 1, "holds no '/'"),
        (["runs", "set-lr", "nobody", "nan"], 1, "nan and inf are no numbers"),
        (["runs", "set-lr", "nobody", "1", "--until-time", "tomorrow"], 1, "ISO 8601"),
        (["runs", "what-if", "nobody", "[1]"], 1, "a JSON object is needed"),
        (["runs", "replace-policy", "nobody", "/no/such/file"], 1, "cannot be read"),
        (["runs", "tag", "nobody", "novalue"], 1, "a tag is NAME:VALUE"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(terminal, arguments, code, said):
    ended = terminal(*arguments)

    assert (code, "") == (ended.code, ended.out)
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_what_was_refused_is_json_where_json_is_wanted(terminal):

    ended = terminal("runs", "show", "nobody", "--json")

    assert ("run_not_found", 404) == (json.loads(ended.err)["code"], json.loads(ended.err)["status"])


def test_a_name_cannot_steer_the_terminal(terminal, trained):
    """The service takes no such tag; another server at this address might say anything."""
    from remotelr_service.cli.support.output import safe

    assert r"\x1b]0;pwned\x07 ok" == safe("\x1b]0;pwned\x07 ok")


def test_a_watch_shows_rates_and_losses_as_sparks(terminal, trained):
    trained("watched", [0.9, 0.5, 0.5, 0.5, 0.5], total_epochs=10)

    said = terminal("runs", "watch", "watched", "--once")

    header, row = [line.split() for line in said.out.splitlines()]
    assert ["run", "status", "epoch", "rate", "rates", "loss", "losses"] == header[:7]
    assert ["watched", "running", "5/10", "0.05", "█████▁", "0.5", "█▁▁▁▁", "plateau"] == row[:8]


def test_a_watch_ends_with_the_runs_it_watches(terminal, trained):
    trained("ending", [0.9, 0.5]).finish()

    said = terminal("runs", "watch", "ending", "--to-the-end", "--json")

    (look,) = said.out.splitlines()
    assert (0, True) == (said.code, '"completed"' in look)


def test_a_decision_is_said_in_a_sentence(terminal, trained):
    trained("explained", [0.9, 0.9, 0.9, 0.9])

    said = terminal("runs", "why", "explained", "4")

    assert (0, True) == (said.code, "0.05" in said.out)
    assert terminal("runs", "why", "explained").out == said.out


def test_losses_are_replayed_under_other_policies_beside_what_was(terminal, trained, tmp_path):
    trained("replayed", [0.9] * 6)
    (tmp_path / "patient.json").write_text('{"type": "reduce_on_plateau", "patience": 5, "flavor": "torch"}')
    steps = 'steps={"type": "step", "step_size": 2, "gamma": 0.5}'

    said = terminal(
        "runs", "what-if", "replayed", str(tmp_path / "patient.json"), steps, "--svg", str(tmp_path / "all.svg")
    )

    rows = {line.split("  ")[0]: line.split()[-3:] for line in said.out.splitlines()[1:]}
    assert ["as it was", "patient", "steps"] == list(rows)
    assert "0.0125" in rows["steps"]
    assert (tmp_path / "all.svg").read_text().lstrip().startswith("<")


def test_what_happened_becomes_a_policy_that_can_be_given_to_a_run(terminal, trained):
    run = trained("recorded", [0.9, 0.9])
    terminal("runs", "set-lr", "recorded", "0.03")
    run.report(2, {"val_loss": 0.9})
    run.report(3, {"val_loss": 0.9})

    said = terminal("runs", "replay-policy", "recorded")
    again = trained("once-more", [5.0, 4.0, 3.0, 2.0], policy=said.json)

    assert run.decision.learning_rate == again.decision.learning_rate == 0.03


def test_a_command_is_waited_for_until_the_trainer_has_used_its_rate(terminal, trained):
    import threading

    run = trained("waited-for", [0.9])
    ending = threading.Event()

    def train() -> None:
        while not ending.wait(0.1):
            decision = run.decision
            run.report(decision.epoch, {"val_loss": 0.9}, learning_rate=decision.learning_rate)

    trainer = threading.Thread(target=train)
    trainer.start()
    said = terminal("runs", "set-lr", "waited-for", "0.02", "--wait", "60")
    ending.set()
    trainer.join()

    assert (0, "") == (said.code, said.err)
    # The service of this process logs its decisions to the same stdout.
    (line,) = [line for line in said.out.splitlines() if ": applied in epoch " in line]
    assert line.endswith("at rate 0.02")


def test_what_does_not_come_in_time_is_exit_code_four(terminal, trained):
    trained("silent", [0.9])

    said = terminal("runs", "scale", "silent", "0.5", "--wait", "0.1")

    assert (4, True) == (said.code, "is queued" in said.err)


def test_commands_are_listed_with_what_became_of_them(terminal, trained):
    run = trained("obedient", [0.9])
    terminal("runs", "set-lr", "obedient", "0.02", "-m", "too hot", "--actor", "ada")
    for epoch in (1, 2):
        run.report(epoch, {"val_loss": 0.9}, learning_rate=run.decision.learning_rate)
    terminal("runs", "stop", "obedient")

    applied, queued = terminal("runs", "commands", "obedient").out.splitlines()[1:]

    assert "set the rate to 0.02 applied 2 0.02 ada too hot" in " ".join(applied.split())
    assert "queued" in queued


def test_an_order_that_is_based_on_an_old_view_is_refused(terminal, trained):
    run = trained("two-operators", [0.9])
    seen = str(terminal("runs", "show", "two-operators", "--json").json["seq"])
    run.report(1, {"val_loss": 0.9})
    late = terminal("runs", "scale", "two-operators", "0.5", "--expected-seq", seen)
    terminal("runs", "scale", "two-operators", "0.5")
    seen = str(terminal("runs", "show", "two-operators", "--json").json["seq"])
    in_time = terminal("runs", "scale", "two-operators", "2", "--expected-seq", seen)

    assert (1, True) == (late.code, "seq_conflict" in late.err)
    assert (0, "") == (in_time.code, in_time.err)


def test_a_new_policy_can_begin_at_the_rate_in_force(terminal, trained):
    run = trained("spliced", [0.9, 0.9, 0.9, 0.9])

    said = terminal("runs", "replace-policy", "spliced", '{"type": "cosine", "decay_steps": 2}', "--keep-rate")
    rates = [run.report(epoch, {"val_loss": 0.8}).learning_rate for epoch in (4, 5, 6)]

    assert (0, "") == (said.code, said.err)
    assert pytest.approx([0.05, 0.025, 0.0]) == rates


def test_many_runs_have_no_rate_in_common_to_keep(terminal):
    said = terminal("bulk", "replace-policy", '{"type": "cosine"}', "--keep-rate", "-e", "any", "-y")

    assert (1, True) == (said.code, "one run after the other" in said.err)


def test_a_log_tells_what_happened_in_sentences(terminal, trained):
    trained("told", [0.9, 0.9, 0.9, 0.9])
    terminal("runs", "note", "told", "look at this")

    sentences = [line.split("  ", 1)[1] for line in terminal("runs", "log", "told").out.splitlines()]
    last = [json.loads(line) for line in terminal("runs", "log", "told", "-n", "1", "--json").out.splitlines()]

    assert "halved" in sentences[-2]
    assert "look at this" in sentences[-1]
    assert sentences[-1:] == [each["sentence"] for each in last]


def test_a_rate_is_kept_below_a_factor_and_after_a_pause(terminal, trained):
    run = trained("spliced-later", [0.9])
    terminal("runs", "scale", "spliced-later", "0.5")
    terminal("runs", "pause", "spliced-later")
    for epoch in (1, 2, 3):
        run.report(epoch, {"val_loss": 0.9})
    refused = terminal("runs", "replace-policy", "spliced-later", '{"type": "cosine", "decay_steps": 2}', "--keep-rate")
    terminal("runs", "resume", "spliced-later")
    run.report(4, {"val_loss": 0.9})
    terminal("runs", "replace-policy", "spliced-later", '{"type": "cosine", "decay_steps": 2}', "--keep-rate")
    rates = [run.report(epoch, {"val_loss": 0.9}).learning_rate for epoch in (5, 6, 7)]

    assert (1, True) == (refused.code, "is paused" in refused.err)
    assert pytest.approx([0.05, 0.025, 0.0]) == rates


def test_tags_are_set_and_taken_away(terminal, trained):
    trained("tagging", [], tags={"team": "vision", "draft": "yes"})

    said = terminal("runs", "tag", "tagging", "team:audio", "gpu:a", "draft:")

    assert "tagging: gpu:a team:audio\n" == said.out


def test_a_run_whose_trainer_is_gone_can_be_ended(terminal, trained):
    trained("gone-for-good", [0.9])

    assert "gone-for-good: failed\n" == terminal("runs", "finish", "gone-for-good").out
    assert "failed" == terminal("runs", "show", "gone-for-good", "--json").json["status"]


def test_an_order_whose_answer_is_lost_is_asked_again_and_counts_once(terminal, trained, shared_service, lossy):
    """
    The service hears both; the answer to the first is lost on its way.
    """
    run = trained("lossy", [0.9])

    said = terminal("runs", "scale", "lossy", "0.5", "--url", lossy(shared_service.url, lost=1))

    assert (0, "") == (said.code, said.err)
    assert [0.05, 0.05] == [run.report(epoch, {"val_loss": 0.9}).learning_rate for epoch in (1, 2)]


def test_an_order_of_which_nobody_knows_names_its_key(terminal, trained, shared_service, lossy):
    run = trained("lossier", [0.9])

    lost = terminal("runs", "scale", "lossier", "0.5", "--url", lossy(shared_service.url, lost=2))
    key = lost.err.split("--key ")[1].split(":")[0]
    again = terminal("runs", "scale", "lossier", "0.5", "--key", key)

    assert (3, 0) == (lost.code, again.code)
    assert [0.05, 0.05] == [run.report(epoch, {"val_loss": 0.9}).learning_rate for epoch in (1, 2)]
