"""Settings: environment variables, error messages, and docs/settings.md."""

from pathlib import Path

import pytest

from remotelr_service.settings import InvalidSettings, read_settings, settings_page

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_settings_page_is_current():
    assert PAGE.read_text() == settings_page(), (
        "docs/settings.md is outdated: run `remotelr settings > docs/settings.md`"
    )


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("REMOTELR_PORT", "9000")
    monkeypatch.setenv("REMOTELR_DATABASE_URL", "sqlite:////tmp/x.db")

    assert (9000, "sqlite:////tmp/x.db") == (read_settings().port, read_settings().database_url)


def test_options_take_precedence_over_the_environment(monkeypatch):
    monkeypatch.setenv("REMOTELR_PORT", "9000")

    assert (9001, 9000) == (read_settings(port=9001).port, read_settings(port=None).port)


def test_an_invalid_value_is_rejected_with_its_variable(monkeypatch):
    monkeypatch.setenv("REMOTELR_PORT", "http")
    with pytest.raises(InvalidSettings, match=r"^REMOTELR_PORT: Input should be a valid integer"):
        read_settings()


@pytest.mark.parametrize("variable", ["REMOTELR_DATABSE_URL", "REMOTELR_LOGLEVEL", "REMOTELR_HOSTS"])
def test_a_misspelt_variable_is_rejected_with_a_suggestion(monkeypatch, variable):
    monkeypatch.setenv(variable, "x")
    with pytest.raises(
        InvalidSettings, match=rf"^{variable} is not a setting; did you mean REMOTELR_(DATABASE_URL|LOG_LEVEL|HOST)\?$"
    ):
        read_settings()


@pytest.mark.parametrize("variable", ["REMOTELR_URL", "REMOTELR_MODE", "REMOTELR_TOKEN", "REMOTELR_SERVICE_HOST"])
def test_variables_of_other_programs_are_ignored(monkeypatch, variable):
    monkeypatch.setenv(variable, "x")
    assert 8000 == read_settings().port


def test_the_repr_of_settings_hides_the_database_password():
    assert "secret" not in repr(read_settings(database_url="postgresql://me:secret@host/db"))
