"""`remotelr token`: after the first token, every request needs one."""

import pytest

from support.fixtures.service import serving


@pytest.fixture
def guarded(sqlite_url, terminal, monkeypatch):
    """A service, and an admin token for it in the environment."""
    with serving(sqlite_url) as running:
        monkeypatch.setenv("REMOTELR_URL", running.url)
        made = terminal("token", "create", "boss", "--scope", "admin")
        assert 0 == made.code, made.err
        monkeypatch.setenv("REMOTELR_TOKEN", made.out.strip())
        yield running


def test_a_new_token_is_the_only_text_on_stdout_and_is_accepted(guarded, terminal, monkeypatch):
    made = terminal("token", "create", "night shift", "--scope", "view", "--lasts", "30d")
    monkeypatch.setenv("REMOTELR_TOKEN", made.out.strip())

    assert 1 == len(made.out.split())
    assert "night shift, view" in made.err
    assert 0 == terminal("runs", "list").code
    assert 1 == terminal("runs", "set-lr", "any", "0.1").code


def test_a_missing_token_is_reported_with_the_variable_to_set(guarded, terminal, monkeypatch):
    monkeypatch.delenv("REMOTELR_TOKEN")

    refused, doctor = terminal("runs", "list"), terminal("doctor")

    assert (1, True) == (refused.code, "set REMOTELR_TOKEN" in refused.err)
    assert (1, True) == (doctor.code, "set REMOTELR_TOKEN" in doctor.out)


def test_a_token_can_be_revoked_by_name(guarded, terminal, monkeypatch):
    other = terminal("token", "create", "gone", "--scope", "operate")

    assert 0 == terminal("token", "revoke", "gone").code
    assert ["boss"] == [each["name"] for each in terminal("token", "list", "--json").json["tokens"]]
    assert "gone" in terminal("token", "list", "--all").out
    assert 1 == terminal("token", "revoke", "gone").code
    monkeypatch.setenv("REMOTELR_TOKEN", other.out.strip())
    assert 1 == terminal("runs", "list").code


def test_a_report_token_is_bound_to_its_run(guarded, terminal):
    result = terminal("token", "create", "job", "--scope", "report", "--run", "job-1", "--json")

    assert ("report", "job-1") == (result.json["scope"], result.json["run"])
    assert "run job-1" in terminal("token", "list").out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--scope", "god"], 2, "god"),
        (["--scope", "view", "--lasts", "soon"], 1, "as in 30d"),
        (["--scope", "report"], 1, "needs an experiment or a run"),
    ],
)
def test_invalid_token_options_are_rejected(terminal, options, code, message):
    result = terminal("token", "create", "x", *options)

    assert (code, True) == (result.code, message in result.err)


def test_the_audit_lists_created_and_revoked_tokens(guarded, terminal):
    terminal("token", "create", "brief", "--scope", "view")
    terminal("token", "revoke", "brief")

    entries = terminal("token", "audit", "--json").json["entries"]

    assert [("boss", "token_created"), ("boss", "token_revoked")] == [
        (each["actor"], each["action"]) for each in entries if each["subject"] == "brief"
    ]
    assert "token revoked" in terminal("token", "audit").out
