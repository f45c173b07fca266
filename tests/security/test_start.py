"""The start of a service: a reachable service requires tokens, unless `--insecure` is given."""

import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from remotelr_service.features.tokens.bootstrap import (
    FILE_NAME,
    InsecureAddress,
    TokenFileUnwritable,
    _write,
    needs_first_token,
    require_authentication,
)
from remotelr_service.http.auth.credentials import is_token
from remotelr_service.settings import InvalidSettings, Settings, read_settings
from support.api_requests import ADMIN, bearer
from support.fixtures.service import ServiceProcess, serving

ALL_INTERFACES = {"REMOTELR_HOST": "0.0.0.0"}


def status(url: str, token: str | None = None) -> int:
    headers = {} if token is None else bearer(token)
    return httpx.get(f"{url}/v1/runs", headers=headers, timeout=30, trust_env=False).status_code


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        ({"host": "127.0.0.1", "auth": "off"}, False),
        ({"host": "::1", "auth": "off"}, False),
        ({"host": "localhost", "auth": "off"}, False),
        ({"host": "0.0.0.0", "auth": "off"}, True),
        ({"host": "::", "auth": "off"}, True),
        ({"host": "192.168.1.7", "auth": "off"}, True),
        ({"host": "gpu-box", "auth": "off"}, True),
        ({"host": "127.0.0.1.evil.example", "auth": "off"}, True),
        ({"host": "0.0.0.0", "auth": "off", "insecure": True}, False),
        ({"host": "0.0.0.0"}, False),
    ],
)
def test_a_reachable_service_without_tokens_needs_insecure(settings, is_refused):
    if is_refused:
        with pytest.raises(InsecureAddress, match="--insecure"):
            require_authentication(Settings(**settings))
    else:
        require_authentication(Settings(**settings))


@pytest.mark.parametrize(
    ("settings", "is_needed"),
    [
        ({"host": "127.0.0.1"}, False),
        ({"host": "127.0.0.1", "auth": "on"}, True),
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "insecure": True}, False),
        ({"host": "0.0.0.0", "admin_token": ADMIN}, False),
    ],
)
def test_a_first_token_is_created_if_tokens_are_required(settings, is_needed):
    assert is_needed == needs_first_token(Settings(**settings))


def test_an_insecure_configuration_ends_the_start_with_one_line(sqlite_url, start_service):
    service = start_service(sqlite_url, **ALL_INTERFACES, REMOTELR_AUTH="off")
    code = service.process.wait(90)

    assert 1 == code
    assert 1 == len(service.log.read_text().splitlines())


def test_a_first_reachable_start_creates_a_token_and_prints_its_file(sqlite_url, start_service):
    """
    Only this user can read the file, and the token appears nowhere else. A second start creates no other token.
    """
    file = Path(sqlite_url.removeprefix("sqlite:///")).with_name(FILE_NAME)
    service = start_service(sqlite_url, **ALL_INTERFACES, REMOTELR_LOG_LEVEL="debug")
    service.wait_ready()
    token = file.read_text().strip()
    pasted = re.search(r"export (REMOTELR_TOKEN=\$\(.*\))", service.log.read_text())
    assert pasted is not None
    said = subprocess.run(
        ["sh", "-c", f"{pasted[1]}; echo $REMOTELR_TOKEN"], capture_output=True, text=True, check=True
    )
    statuses = status(service.url), status(service.url, said.stdout.strip())
    service.end()
    again = start_service(sqlite_url, **ALL_INTERFACES)
    again.wait_ready()
    later = status(again.url, token)
    again.end()

    assert is_token(token)
    assert 0o600 == mode(file)
    assert (401, 200, 200) == (*statuses, later)
    assert str(file) in service.log.read_text()
    assert token not in service.log.read_text() + again.log.read_text()
    assert str(file) not in again.log.read_text()
    assert token == file.read_text().strip()


def test_replicas_that_start_at_once_make_one_token(postgres_url, start_service, tmp_path):
    replicas = [start_service(postgres_url, **ALL_INTERFACES) for _ in range(2)]
    for replica in replicas:
        replica.wait_ready()
    left = [file.name for file in tmp_path.iterdir() if file.name.startswith(FILE_NAME)]
    token = (tmp_path / FILE_NAME).read_text().strip()

    assert [FILE_NAME] == left
    assert [200, 200] == [status(replica.url, token) for replica in replicas]


def test_a_token_that_cannot_be_written_is_not_made(tmp_path):
    with pytest.raises(TokenFileUnwritable, match="REMOTELR_ADMIN_TOKEN"):
        _write(tmp_path / "no" / "such" / "folder", "rlr_x")


def test_a_token_is_not_written_through_a_link(tmp_path):
    target = tmp_path / "target"
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(TokenFileUnwritable):
        _write(tmp_path / "link", "rlr_x")

    assert not target.exists()


def test_a_token_can_be_created_directly_in_the_database(sqlite_url):
    """
    When the last token is lost. Printed alone, so that it can go where it belongs without being seen.
    """
    command = [sys.executable, "-m", "remotelr_service", "db", "token", "found again", "--database-url", sqlite_url]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with serving(sqlite_url) as service:
        statuses = status(service.url), status(service.url, made.strip())

    assert is_token(made.removesuffix("\n"))
    assert (401, 200) == statuses


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """`remotelr serve` without settings: its address and its database."""
    folder = tmp_path_factory.mktemp("started")
    process = ServiceProcess(f"sqlite:///{folder}/remotelr.db", folder)
    process.wait_ready()
    yield process.url, folder / "remotelr.db"
    process.close()


def test_the_files_of_the_database_are_this_users_alone(started):
    url, file = started
    status(url)
    modes = {each.name: mode(each) for each in file.parent.glob(f"{file.name}*")}

    assert {file.name, f"{file.name}-wal", f"{file.name}-shm", f"{file.name}.lock"} == set(modes)
    assert {0o600} == set(modes.values())


def test_this_machine_is_admitted_without_a_token_until_there_is_one(started):
    url, _ = started
    before = status(url)
    made = httpx.post(f"{url}/v1/tokens", json={"name": "a", "scope": "admin"}, timeout=30, trust_env=False)

    assert (200, 401, 200) == (before, status(url), status(url, made.json()["token"]))


def test_the_demo_needs_no_token_whatever_the_settings(monkeypatch, tmp_path):
    from remotelr_service.demo import show

    monkeypatch.setenv("REMOTELR_ADMIN_TOKEN", ADMIN)
    with show.serving(tmp_path) as url:
        assert 200 == status(url)


@pytest.mark.parametrize("secret", ["admin_token", "database_url", "database_password"])
def test_a_secret_can_be_read_from_a_file(monkeypatch, tmp_path, secret):
    file = tmp_path / "secret"
    said = {"admin_token": ADMIN, "database_url": "postgresql://me:word@host/db", "database_password": "p@ss:/w"}[
        secret
    ]
    file.write_text(f"{said}\n")
    monkeypatch.setenv(f"REMOTELR_{secret.upper()}_FILE", str(file))
    if secret == "database_password":
        monkeypatch.setenv("REMOTELR_DATABASE_URL", "postgresql://me@host/db")
    settings = read_settings()

    assert said == getattr(settings, secret)
    assert said not in repr(settings)


def test_a_password_of_any_characters_gets_into_the_url(monkeypatch):
    from remotelr_service.db.engine import parse_url

    monkeypatch.setenv("REMOTELR_DATABASE_PASSWORD", "p@ss:/w?rd%20#")
    url = parse_url(read_settings(database_url="postgresql://me@host:5432/db").database_url)

    assert ("me", "p@ss:/w?rd%20#", "host", "db") == (url.username, url.password, url.host, url.database)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ADMIN_TOKEN_FILE": "/no/such/file"}, "REMOTELR_ADMIN_TOKEN_FILE: /no/such/file cannot be read"),
        ({"ADMIN_TOKEN_FILE": "/dev/null"}, "REMOTELR_ADMIN_TOKEN_FILE: /dev/null is empty"),
        ({"ADMIN_TOKEN_FILE": "/dev/null", "ADMIN_TOKEN": ADMIN}, "are both set"),
        ({"ADMIN_TOKEN": "short"}, "at least 32 characters"),
        ({"ADMIN_TOKEN": "ä" * 40}, "at least 32 characters"),
        ({"ADMIN_TOKEN": "changeme" * 5}, "could be guessed"),
        ({"ADMIN_TOKEN": "admin-secret-token-password-0123456789"}, "could be guessed"),
        ({"ADMIN_TOKEN": "a" * 64}, "could be guessed"),
        ({"DATABASE_PASSWORD": "x"}, "like postgresql://user@host/name"),
        ({"DATABASE_PASSWORD": "x", "DATABASE_URL": "postgresql://me:y@host/db"}, "a user and no password"),
    ],
)
def test_an_invalid_secret_is_rejected_without_being_shown(monkeypatch, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(f"REMOTELR_{name}", value)
    with pytest.raises(InvalidSettings) as refused:
        read_settings()

    assert said in str(refused.value)
    assert variables.get("ADMIN_TOKEN", ADMIN) not in str(refused.value)


def test_a_server_bound_to_another_address_requires_tokens_there(sqlite_url):
    """
    `uvicorn --host` knows an address that the settings do not: what counts is where the request came in.
    """
    from remotelr_service.http.auth.gate import AccessGate
    from remotelr_service.http.context import Context

    ctx = Context.open(sqlite_url)
    try:
        gate = AccessGate(Settings(database_url=sqlite_url), ctx)
        needs = {
            server: gate.needs_token({"server": (server, 8000)})
            for server in ("127.0.0.1", "::1", "192.168.1.7", "10.0.0.1")
        }
    finally:
        ctx.close()

    assert {"127.0.0.1": False, "::1": False, "192.168.1.7": True, "10.0.0.1": True} == needs
