"""Commands on the service's machine. A user error is one line without a traceback."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from remotelr_service.server.banner import banner, exposure_warning
from remotelr_service.server.uvicorn_server import listen
from remotelr_service.settings import shown_url


def remotelr(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "remotelr_service", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_user_error(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert (1, "") == (done.returncode, done.stdout)
    assert re.fullmatch(f"remotelr: .*{message}.*\n", done.stderr), done.stderr


def test_the_version_is_printed(tmp_path):
    done = remotelr("--version", folder=tmp_path)

    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(r"remotelr \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("arguments", [["serve", "--colour"], ["fly"], ["serve", "--port", "http"]])
def test_wrong_usage_is_exit_code_2(tmp_path, arguments):
    done = remotelr(*arguments, folder=tmp_path)

    assert (2, True, False) == (done.returncode, "Usage:" in done.stderr, "Traceback" in done.stderr)


def test_a_port_in_use_is_a_user_error(tmp_path):
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        done = remotelr("serve", "--port", str(taken.getsockname()[1]), folder=tmp_path)

    assert_user_error(done, "is in use; .* --port")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:secret@host/db", "'mysql' are not supported"),
        ("what is this", "cannot be read"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:////no/such/folder/remotelr.db", "cannot be opened: No such file or directory"),
        ("postgresql://me:secret@127.0.0.1:1/db", "cannot be reached: .*127.0.0.1.* refused"),
    ],
)
def test_an_unusable_database_is_a_user_error_without_the_password(tmp_path, url, message):
    done = remotelr("serve", "--port", "0", "--database-url", url, folder=tmp_path)

    assert_user_error(done, message)
    assert "secret" not in done.stderr


def test_a_file_that_is_not_a_database_is_a_user_error(tmp_path):
    (tmp_path / "remotelr.db").write_text("some text, " * 500)

    assert_user_error(remotelr("serve", "--port", "0", folder=tmp_path), "is damaged")


def test_an_invalid_setting_is_a_user_error(tmp_path):
    done = remotelr("serve", folder=tmp_path, REMOTELR_DRAIN_S="soon")

    assert_user_error(done, "REMOTELR_DRAIN_S: Input should be a valid number")


def test_an_invalid_option_is_named_as_an_option(tmp_path):
    done = remotelr("serve", "--port", "99999", folder=tmp_path, REMOTELR_PORT="8001")

    assert_user_error(done, "--port: Input should be less than or equal to 65535")


def test_a_second_service_on_a_sqlite_file_is_a_user_error(sqlite_url, start_service, tmp_path):
    start_service(sqlite_url).wait_ready()

    assert_user_error(remotelr("serve", "--port", "0", "--database-url", sqlite_url, folder=tmp_path), "stop it")


def test_an_outdated_postgresql_schema_is_rejected_with_the_command_to_run(empty_postgres_url, tmp_path):
    done = remotelr("serve", "--port", "0", "--database-url", empty_postgres_url, folder=tmp_path)

    assert_user_error(done, "run `remotelr db upgrade`")


def test_serve_creates_and_migrates_the_sqlite_file(empty_sqlite_url, start_service):
    service = start_service(empty_sqlite_url)
    ready_s = service.wait_ready()
    service.end()
    print(f"ready after {ready_s:.2f} s, migration included")

    assert 0 == service.process.returncode
    assert "Traceback" not in service.log.read_text()
    assert "arning" not in service.log.read_text()


def test_db_upgrade_migrates_once_and_db_current_prints_the_revision(empty_database_url, tmp_path):
    def db(command: str) -> str:
        done = remotelr("db", command, "--database-url", empty_database_url, folder=tmp_path)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    outputs = [db("current"), db("upgrade"), db("upgrade"), db("current")]

    assert "no tables (this release needs" in outputs[0]
    assert outputs[1].endswith("now\n")
    assert outputs[2].endswith("already\n")
    assert outputs[3].endswith("(current)\n")


def test_db_current_does_not_create_a_missing_file(tmp_path):
    done = remotelr("db", "current", folder=tmp_path)

    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(r"no tables \(this release needs \d+\)\n", done.stdout)
    assert [] == list(tmp_path.iterdir())


def test_the_database_url_may_come_from_the_environment(tmp_path):
    done = remotelr("db", "upgrade", folder=tmp_path, REMOTELR_DATABASE_URL="sqlite:///here.db")

    assert (0, True) == (done.returncode, (tmp_path / "here.db").exists())


def test_the_banner_shows_the_address_and_a_callback():
    text = banner("http://127.0.0.1:8000", "postgresql://me:secret@db/runs", "0.1.0")

    assert "http://127.0.0.1:8000/docs" in text
    assert "postgresql://me:***@db/runs" in text
    assert 'RemoteLR(url="http://127.0.0.1:8000", run="my-run", patience=5)' in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///remotelr.db", "sqlite:///remotelr.db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:p@ss:w/rd@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p@ss@host:5432/db?password=x", "postgresql://me:***@host:5432/db"),
        ("postgresql:///db?host=/run&password=x", "postgresql:///db"),
    ],
)
def test_a_shown_url_has_no_password(url, shown):
    assert shown == shown_url(url)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "gpu-box"])
def test_a_public_address_without_tokens_causes_a_warning(host):
    assert "no token is needed" in (exposure_warning(host, needs_token=False) or "")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7"])
def test_tokens_without_tls_cause_a_note(host):
    assert "without TLS" in (exposure_warning(host, needs_token=True) or "")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_loopback_address_causes_no_warning(host):
    assert exposure_warning(host, needs_token=False) is None


def test_serving_on_all_interfaces_prints_the_warning(sqlite_url, start_service):
    service = start_service(
        sqlite_url, REMOTELR_HOST="0.0.0.0", REMOTELR_INSECURE="true", REMOTELR_LOG_FORMAT="console"
    )
    service.wait_ready()

    assert "warning: listening on every network of this machine" in service.log.read_text()


def test_serving_on_all_interfaces_without_a_terminal_logs_the_warning(sqlite_url, start_service):
    service = start_service(sqlite_url, REMOTELR_HOST="0.0.0.0", REMOTELR_INSECURE="true")
    service.wait_ready()

    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    (warning,) = (line for line in lines if line["level"] == "warning")
    assert "warning: listening on every network of this machine" in warning["detail"]


@pytest.mark.parametrize("level", ["info", "warning"])
def test_the_first_token_of_a_public_service_is_named_at_level_warning_too(sqlite_url, start_service, level):
    service = start_service(sqlite_url, REMOTELR_HOST="0.0.0.0", REMOTELR_LOG_LEVEL=level)
    service.wait_ready()

    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    (created,) = (line for line in lines if line["event"] == "the first token is created")
    assert Path(created["token_file"]).read_text().startswith("rlr_")
