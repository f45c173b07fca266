"""Fixtures: services that require tokens, and tokens for them."""

from collections.abc import Iterator

import pytest

from support.api_requests import ADMIN, bearer
from support.fixtures.service import Service, serving


@pytest.fixture
def guarded(database_url) -> Iterator[Service]:
    """A service that requires tokens with a client of the scope `admin`, on SQLite and on PostgreSQL."""
    with serving(database_url, auth="on", admin_token=ADMIN) as running:
        running.http.headers.update(bearer(ADMIN))
        yield running


@pytest.fixture(scope="module")
def one_guarded(sqlite_template, tmp_path_factory) -> Iterator[Service]:
    """As `guarded`, on SQLite and shared by a file, for tests that do not depend on the database."""
    file = tmp_path_factory.mktemp("guarded") / "remotelr.db"
    file.write_bytes(sqlite_template.read_bytes())
    with serving(f"sqlite:///{file}", auth="on", admin_token=ADMIN) as running:
        running.http.headers.update(bearer(ADMIN))
        yield running
