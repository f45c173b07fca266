"""A warning names each environment variable that RemoteLR does not read but that resembles one it reads."""

import pytest

from remotelr._session import setup
from remotelr._session.setup import VARIABLES, misspelled_variables, warn_of_misspelled
from remotelr.errors import RemoteLRWarning
from remotelr_service.settings import Settings


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REMOTELR_ULR", "REMOTELR_URL"),
        ("REMOTELR_TOKENS", "REMOTELR_TOKEN"),
        ("REMOTELR_SPOOLDIR", "REMOTELR_SPOOL_DIR"),
        ("REMOTELR_TOKENFILE", "REMOTELR_TOKEN_FILE"),
        ("REMOTLR_URL", "REMOTELR_URL"),
        ("remotelr_url", "REMOTELR_URL"),
        ("REMOTELR_URI", "REMOTELR_URL"),
    ],
)
def test_a_misspelled_variable_is_matched_to_the_known_one(name, meant):
    assert list(misspelled_variables({name: "x"})) == [(name, meant)]


@pytest.mark.parametrize("name", ["PATH", "REMOTE_URL", "REMOTELR_NOTHING_LIKE_IT", "URL", "MLFLOW_RUN"])
def test_variables_of_other_programs_are_not_matched(name):
    assert list(misspelled_variables({name: "x"})) == []


def test_known_variables_of_service_and_client_are_not_misspelled():
    names = [f"REMOTELR_{name.upper()}{end}" for name in Settings.model_fields for end in ("", "_FILE")]

    assert list(misspelled_variables(dict.fromkeys([*names, *(f"REMOTELR_{name}" for name in VARIABLES)], "x"))) == []


def test_a_misspelled_variable_is_warned_of_once(monkeypatch, recwarn):
    monkeypatch.setattr(setup, "_warned", set())

    for _ in range(3):
        warn_of_misspelled({"REMOTELR_ULR": "http://127.0.0.1:8000"})

    assert [(each.category, str(each.message)) for each in recwarn] == [
        (RemoteLRWarning, "RemoteLR: the environment variable REMOTELR_ULR is unknown: did you mean REMOTELR_URL?")
    ]
