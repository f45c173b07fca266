"""Settings: read from the environment, refused in one line, and equal to their page."""

from pathlib import Path

import pytest

from remotelr_service.settings import InvalidSettings, read_settings, settings_page

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_of_settings_is_true():
    assert PAGE.read_text() == settings_page(), "docs/settings.md is old: run `remotelr settings > docs/settings.md`"


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("REMOTELR_PORT", "9000")
    monkeypatch.setenv("REMOTELR_DATABASE_URL", "sqlite:////tmp/x.db")

    assert (9000, "sqlite:////tmp/x.db") == (read_settings().port, read_settings().database_url)


def test_what_is_given_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv("REMOTELR_PORT", "9000")

    assert (9001, 9000) == (read_settings(port=9001).port, read_settings(port=None).port)


def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_variable(monkeypatch):
    monkeypatch.setenv("REMOTELR_PORT", "http")
    with pytest.raises(InvalidSettings, match=r"^REMOTELR_PORT: Input should be a valid integer"):
        read_settings()


@pytest.mark.parametrize("variable", ["REMOTELR_DATABSE_URL", "REMOTELR_LOGLEVEL", "REMOTELR_HOSTS"])
def test_a_misspelt_variable_is_refused_with_the_setting_it_means(monkeypatch, variable):
    monkeypatch.setenv(variable, "x")
    with pytest.raises(InvalidSettings, match=f"^{variable} is no setting: REMOTELR_(DATABASE_URL|LOG_LEVEL|HOST) is$"):
        read_settings()


@pytest.mark.parametrize("variable", ["REMOTELR_URL", "REMOTELR_MODE", "REMOTELR_TOKEN", "REMOTELR_SERVICE_HOST"])
def test_a_variable_of_somebody_else_is_left_alone(monkeypatch, variable):
    monkeypatch.setenv(variable, "x")
    assert 8000 == read_settings().port


def test_settings_do_not_show_the_database_password():
    assert "secret" not in repr(read_settings(database_url="postgresql://me:secret@host/db"))
