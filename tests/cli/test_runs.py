"""`remotelr runs`."""

import json
import math

import pytest


def test_list_shows_status_epoch_rate_and_tags(terminal, trained):
    trained("list-a", [0.9, 0.9, 0.9, 0.9], experiment="listing", tags={"arch": "vit"}, total_epochs=10)
    trained("list-b", [0.9], experiment="listing").finish()

    result = terminal("runs", "list", "--experiment", "listing")

    header, *rows = [line.split() for line in result.out.splitlines()]
    assert ["run", "status", "epoch", "rate", "by", "experiment", "tags", "updated"] == header
    assert ["list-a", "running", "4/10", "0.05", "plateau", "listing", "arch:vit"] == rows[0][:7]
    assert ["list-b", "completed", "1", "0.1", "schedule", "listing"] == rows[1][:6]
    assert (0, "") == (result.code, result.err)


def test_list_as_json_is_the_response_of_the_service(terminal, trained):
    trained("json-a", [0.9], experiment="as-json")

    (run,) = terminal("runs", "list", "-e", "as-json", "--json").json["runs"]

    assert ("json-a", 1, 0.1) == (run["run"], run["epoch"], run["learning_rate"])


def test_list_filters_by_all_tags(terminal, trained):
    trained("tagged-a", [], tags={"where": "lab", "gpu": "a"})
    trained("tagged-b", [], tags={"where": "lab", "gpu": "b"})

    runs = terminal("runs", "list", "-t", "where:lab", "-t", "gpu:b", "--json").json["runs"]

    assert ["tagged-b"] == [run["run"] for run in runs]


def test_a_truncated_list_is_reported(terminal, trained):
    for key in ("many-a", "many-b", "many-c"):
        trained(key, [], experiment="many")

    result = terminal("runs", "list", "-e", "many", "--limit", "2")

    assert ["many-a", "many-b"] == [line.split()[0] for line in result.out.splitlines()[1:]]
    assert "more than 2" in result.err


def test_a_run_is_shown_with_its_curve(terminal, trained):
    trained("shown", [0.9, 0.8, 0.8, 0.8, 0.8], tags={"arch": "vit"})

    facts = dict(line.split(None, 1) for line in terminal("runs", "show", "shown").out.splitlines())

    assert "0.05 (plateau)" == facts["rate"].strip()
    assert "█████▁" == facts["rates"].strip()
    assert facts["val_loss"].startswith("█▁▁▁▁")
    assert facts["policy"].startswith("reduce_on_plateau (")


def test_history_shows_effective_reports(terminal, trained):
    run = trained("again", [0.9, 0.8, 0.7])
    run.begin(1)
    run.report(1, {"val_loss": math.nan})

    counting = terminal("runs", "history", "again", "--json").json["reports"]
    everything = terminal("runs", "history", "again", "--all", "--json").json["reports"]
    shown = terminal("runs", "history", "again").out

    assert [(0, 0.9), (1, "nan")] == [(each["epoch"], each["metrics"]["val_loss"]) for each in counting]
    assert 4 == len(everything)
    assert "nan" in shown


def test_history_can_be_limited_to_the_newest_epochs(terminal, trained):
    trained("long", [0.9] * 9)

    assert [7, 8] == [
        each["epoch"] for each in terminal("runs", "history", "long", "-n", "2", "--json").json["reports"]
    ]


def test_a_set_rate_applies_to_the_next_epoch(terminal, trained):
    run = trained("steered", [0.9])

    result = terminal("runs", "set-lr", "steered", "0.025", "--reason", "too hot")
    rates = [run.report(epoch, {"val_loss": 0.9}).learning_rate for epoch in (1, 2)]

    assert 0 == result.code
    assert result.out.endswith(" holds 0.025 from epoch 2 on, 0.1 becomes 0.025\n")
    assert [0.025, 0.025] == rates


def test_a_pin_over_a_plateau_is_noticed_and_one_over_a_curve_is_not(terminal, trained):
    trained("over-a-plateau", [0.9])
    trained("over-a-curve", [0.9], policy={"type": "cosine", "decay_steps": 9})

    noted = terminal("runs", "set-lr", "over-a-plateau", "0.025")
    rebased = terminal("runs", "set-lr", "over-a-plateau", "0.025", "--mode", "rebase")
    curve = terminal("runs", "set-lr", "over-a-curve", "0.025")

    assert (0, True, True) == (noted.code, noted.err.startswith("note: the policy obs"), "--mode rebase" in noted.err)
    assert [(0, "")] * 2 == [(each.code, each.err) for each in (rebased, curve)]


def test_a_release_names_the_rate_that_lay_beneath_the_pin(terminal, trained):
    run = trained("pinned-long", [0.9])
    before = terminal("runs", "show", "pinned-long").out
    terminal("runs", "set-lr", "pinned-long", "0.02")
    for epoch in range(1, 8):
        run.report(epoch, {"val_loss": 0.9})
    shown = terminal("runs", "show", "pinned-long").out
    result = terminal("runs", "release", "pinned-long")
    rate = run.report(8, {"val_loss": 0.1}).learning_rate

    assert result.out.endswith("from epoch 9 on, 0.02 becomes 0.025\n")
    assert "beneath" not in before
    assert "beneath 0.025 (the policy's rate, after `release`)" in " ".join(shown.split())
    assert 0.025 == rate


def test_a_job_that_is_fitted_again_for_more_epochs_shows_the_longer_length(terminal, trainers):
    policy = {"type": "constant", "learning_rate": 0.1}
    for total, first in ((6, 0), (9, 6)):
        run = trainers.run("longer", policy=policy, total_epochs=total)
        run.begin(first)
        for epoch in range(first, total):
            run.report(epoch, {"val_loss": 0.9})
        run.finish()

    (row,) = (line.split() for line in terminal("runs", "list").out.splitlines() if line.startswith("longer "))
    assert ["longer", "completed", "9/9"] == row[:3]


def test_a_command_to_a_run_that_is_over_says_so(terminal, trained):
    trained("over", [0.9]).finish()

    result = terminal("runs", "scale", "over", "0.5")

    assert (0, "note: the run is completed: this holds if it begins again\n") == (result.code, result.err)


def test_the_same_key_is_the_same_command(terminal, trained):
    run = trained("keyed", [0.9])

    numbers = {terminal("runs", "set-lr", "keyed", "0.05", "--key", "once", "--json").json["seq"] for _ in range(3)}

    assert 1 == len(numbers)
    assert 0.05 == run.report(1, {"val_loss": 0.9}).learning_rate


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["runs", "show", "missing"], 1, "remotelr: there is no run 'missing' (run_not_found)\n"),
        (["runs", "set-lr", "missing", "0.1"], 1, "run_not_found"),
        (["runs", "list", "--status", "asleep"], 1, "invalid_request"),
        (["runs", "set-lr", "missing", "fast"], 2, "Invalid value for 'RATE'"),
        (["runs", "set-lr", "missing", "1", "--until-epoch", "3", "--until-time", "now"], 1, "give one of them"),
        (["runs", "watch", "missing", "--once"], 1, "run_not_found"),
        (["runs", "list", "--url", "http://127.0.0.1:1"], 3, "run `remotelr doctor`"),
        (["runs", "list", "--url", "127.0.0.1:1"], 1, "must begin with http"),
        (["runs", "list", "--url", "http://"], 1, "must name a host"),
        (["runs", "show", ""], 1, "a run's key must not be"),
        (["runs", "show", ".."], 1, "a run's key must not be"),
        (["runs", "show", "a/b"], 1, "contains no '/'"),
        (["runs", "set-lr", "missing", "nan"], 1, "must be finite"),
        (["runs", "set-lr", "missing", "1", "--until-time", "tomorrow"], 1, "ISO 8601"),
        (["runs", "what-if", "missing", "[1]"], 1, "expected a JSON object"),
        (["runs", "replace-policy", "missing", "/no/such/file"], 1, "cannot be read"),
        (["runs", "tag", "missing", "novalue"], 1, "a tag must be NAME:VALUE"),
    ],
)
def test_a_user_error_is_one_line_and_an_exit_code(terminal, arguments, code, message):
    result = terminal(*arguments)

    assert (code, "") == (result.code, result.out)
    assert message in result.err
    assert "Traceback" not in result.err


def test_a_rejection_is_json_with_the_option_json(terminal):

    result = terminal("runs", "show", "missing", "--json")

    assert ("run_not_found", 404) == (json.loads(result.err)["code"], json.loads(result.err)["status"])


def test_control_characters_are_escaped(terminal, trained):
    """The service rejects such a tag; another server at this address may send anything."""
    from remotelr_service.cli.support.output import safe

    assert r"\x1b]0;pwned\x07 ok" == safe("\x1b]0;pwned\x07 ok")


def test_a_watch_shows_rates_and_losses_as_sparks(terminal, trained):
    trained("watched", [0.9, 0.5, 0.5, 0.5, 0.5], total_epochs=10)

    result = terminal("runs", "watch", "watched", "--once")

    header, row = [line.split() for line in result.out.splitlines()]
    assert ["run", "status", "epoch", "rate", "rates", "loss", "losses"] == header[:7]
    assert ["watched", "running", "5/10", "0.05", "█████▁", "0.5", "█▁▁▁▁", "plateau"] == row[:8]


def test_watch_to_the_end_exits_when_all_runs_have_ended(terminal, trained):
    trained("ending", [0.9, 0.5]).finish()

    result = terminal("runs", "watch", "ending", "--to-the-end", "--json")

    (update,) = result.out.splitlines()
    assert (0, True) == (result.code, '"completed"' in update)


def test_why_prints_the_sentence_of_a_decision(terminal, trained):
    trained("explained", [0.9, 0.9, 0.9, 0.9])

    result = terminal("runs", "why", "explained", "4")

    assert (0, True) == (result.code, "0.05" in result.out)
    assert terminal("runs", "why", "explained").out == result.out


def test_what_if_compares_policies_with_the_actual_rates(terminal, trained, tmp_path):
    trained("replayed", [0.9] * 6)
    (tmp_path / "patient.json").write_text('{"type": "reduce_on_plateau", "patience": 5, "flavor": "torch"}')
    steps = 'steps={"type": "step", "step_size": 2, "gamma": 0.5}'

    result = terminal(
        "runs", "what-if", "replayed", str(tmp_path / "patient.json"), steps, "--svg", str(tmp_path / "all.svg")
    )

    rows = {line.split("  ")[0]: line.split()[-3:] for line in result.out.splitlines()[1:]}
    assert ["actual", "patient", "steps"] == list(rows)
    assert "0.0125" in rows["steps"]
    assert (tmp_path / "all.svg").read_text().lstrip().startswith("<")


def test_a_replay_policy_gives_a_new_run_the_same_rates(terminal, trained):
    run = trained("recorded", [0.9, 0.9])
    terminal("runs", "set-lr", "recorded", "0.03")
    run.report(2, {"val_loss": 0.9})
    run.report(3, {"val_loss": 0.9})

    result = terminal("runs", "replay-policy", "recorded")
    again = trained("once-more", [5.0, 4.0, 3.0, 2.0], policy=result.json)

    assert run.decision.learning_rate == again.decision.learning_rate == 0.03


def test_wait_returns_when_the_trainer_has_used_the_rate(terminal, trained):
    import threading

    run = trained("waited-for", [0.9])
    ending = threading.Event()

    def train() -> None:
        while not ending.wait(0.1):
            decision = run.decision
            run.report(decision.epoch, {"val_loss": 0.9}, learning_rate=decision.learning_rate)

    trainer = threading.Thread(target=train)
    trainer.start()
    result = terminal("runs", "set-lr", "waited-for", "0.02", "--wait", "60")
    ending.set()
    trainer.join()

    # One line: that a plateau lies beneath the pin.
    assert (0, 1, True) == (result.code, result.err.count("\n"), result.err.startswith("note: the policy observes"))
    # The service runs in this process and logs to the same stdout.
    (line,) = [line for line in result.out.splitlines() if ": applied in epoch " in line]
    assert line.endswith("at rate 0.02")


def test_a_timeout_is_exit_code_4(terminal, trained):
    trained("waiting", [0.9])

    result = terminal("runs", "scale", "waiting", "0.5", "--wait", "0.1")

    assert (4, True) == (result.code, "is queued" in result.err)


def test_commands_are_listed_with_their_states(terminal, trained):
    run = trained("obedient", [0.9])
    terminal("runs", "set-lr", "obedient", "0.02", "-m", "too hot", "--actor", "ada")
    for epoch in (1, 2):
        run.report(epoch, {"val_loss": 0.9}, learning_rate=run.decision.learning_rate)
    terminal("runs", "stop", "obedient")

    applied, queued = terminal("runs", "commands", "obedient").out.splitlines()[1:]

    assert "holds 0.02 applied 2 0.02 ada too hot" in " ".join(applied.split())
    assert "queued" in queued


def test_a_command_with_an_outdated_seq_is_rejected(terminal, trained):
    run = trained("two-operators", [0.9])
    seen = str(terminal("runs", "show", "two-operators", "--json").json["seq"])
    run.report(1, {"val_loss": 0.9})
    late = terminal("runs", "scale", "two-operators", "0.5", "--expected-seq", seen)
    terminal("runs", "scale", "two-operators", "0.5")
    seen = str(terminal("runs", "show", "two-operators", "--json").json["seq"])
    in_time = terminal("runs", "scale", "two-operators", "2", "--expected-seq", seen)

    assert (1, True) == (late.code, "seq_conflict" in late.err)
    assert (0, "") == (in_time.code, in_time.err)


def test_keep_rate_starts_a_new_policy_at_the_current_rate(terminal, trained):
    run = trained("spliced", [0.9, 0.9, 0.9, 0.9])

    result = terminal("runs", "replace-policy", "spliced", '{"type": "cosine", "decay_steps": 2}', "--keep-rate")
    rates = [run.report(epoch, {"val_loss": 0.8}).learning_rate for epoch in (4, 5, 6)]

    assert (0, "") == (result.code, result.err)
    assert pytest.approx([0.05, 0.025, 0.0]) == rates


def test_keep_rate_is_rejected_for_many_runs(terminal):
    result = terminal("bulk", "replace-policy", '{"type": "cosine"}', "--keep-rate", "-e", "any", "-y")

    assert (1, True) == (result.code, "--keep-rate needs one run's rate" in result.err)


def test_log_prints_events_as_sentences(terminal, trained):
    trained("logged", [0.9, 0.9, 0.9, 0.9])
    terminal("runs", "note", "logged", "check this")

    sentences = [line.split("  ", 1)[1] for line in terminal("runs", "log", "logged").out.splitlines()]
    last = [json.loads(line) for line in terminal("runs", "log", "logged", "-n", "1", "--json").out.splitlines()]

    assert "halved" in sentences[-2]
    assert "check this" in sentences[-1]
    assert sentences[-1:] == [each["sentence"] for each in last]


def test_keep_rate_accounts_for_a_factor_and_a_pause(terminal, trained):
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


def test_tags_are_set_and_removed(terminal, trained):
    trained("tagging", [], tags={"team": "vision", "draft": "yes"})

    result = terminal("runs", "tag", "tagging", "team:audio", "gpu:a", "draft:")

    assert "tagging: gpu:a team:audio\n" == result.out


def test_finish_ends_a_run(terminal, trained):
    trained("gone-for-good", [0.9])

    assert "gone-for-good: failed\n" == terminal("runs", "finish", "gone-for-good").out
    assert "failed" == terminal("runs", "show", "gone-for-good", "--json").json["status"]


def test_a_command_whose_response_is_lost_is_sent_again_and_counts_once(terminal, trained, shared_service, lossy):
    """The service receives both requests; the first response is lost."""
    run = trained("lossy", [0.9])

    result = terminal("runs", "scale", "lossy", "0.5", "--url", lossy(shared_service.url, lost=1))

    assert (0, "") == (result.code, result.err)
    assert [0.05, 0.05] == [run.report(epoch, {"val_loss": 0.9}).learning_rate for epoch in (1, 2)]


def test_a_command_with_an_unknown_outcome_names_its_key(terminal, trained, shared_service, lossy):
    run = trained("lossier", [0.9])

    lost = terminal("runs", "scale", "lossier", "0.5", "--url", lossy(shared_service.url, lost=2))
    key = lost.err.split("--key ")[1].split(";")[0]
    again = terminal("runs", "scale", "lossier", "0.5", "--key", key)

    assert (3, 0) == (lost.code, again.code)
    assert [0.05, 0.05] == [run.report(epoch, {"val_loss": 0.9}).learning_rate for epoch in (1, 2)]
