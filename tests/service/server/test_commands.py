"""The command line: what it says, and that a mistake is one line and never a traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from remotelr_service.server.banner import banner, warning_of_exposure
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


def assert_mistake(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert (1, "") == (done.returncode, done.stdout)
    assert re.fullmatch(f"remotelr: .*{said}.*\n", done.stderr), done.stderr


def test_the_version_is_printed(tmp_path):
    done = remotelr("--version", folder=tmp_path)

    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(r"remotelr \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("arguments", [["serve", "--colour"], ["fly"], ["serve", "--port", "http"]])
def test_wrong_usage_is_code_two(tmp_path, arguments):
    done = remotelr(*arguments, folder=tmp_path)

    assert (2, True, False) == (done.returncode, "Usage:" in done.stderr, "Traceback" in done.stderr)


def test_a_port_that_is_taken_is_a_mistake(tmp_path):
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        done = remotelr("serve", "--port", str(taken.getsockname()[1]), folder=tmp_path)

    assert_mistake(done, "is in use: .* --port")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://me:secret@host/db", "'mysql' are not supported"),
        ("what is this", "cannot be read"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:////no/such/folder/remotelr.db", "cannot be opened: No such file or directory"),
        ("postgresql://me:secret@127.0.0.1:1/db", "cannot be reached: .*127.0.0.1.* refused"),
    ],
)
def test_a_database_that_cannot_be_used_is_a_mistake_that_keeps_its_password(tmp_path, url, said):
    done = remotelr("serve", "--port", "0", "--database-url", url, folder=tmp_path)

    assert_mistake(done, said)
    assert "secret" not in done.stderr


def test_a_file_that_is_no_database_is_a_mistake(tmp_path):
    (tmp_path / "remotelr.db").write_text("a letter to a friend, " * 500)

    assert_mistake(remotelr("serve", "--port", "0", folder=tmp_path), "is damaged")


def test_a_setting_that_cannot_be_is_a_mistake(tmp_path):
    done = remotelr("serve", folder=tmp_path, REMOTELR_DRAIN_S="soon")

    assert_mistake(done, "REMOTELR_DRAIN_S: Input should be a valid number")


def test_an_option_that_cannot_be_is_named_as_it_was_given(tmp_path):
    done = remotelr("serve", "--port", "99999", folder=tmp_path, REMOTELR_PORT="8001")

    assert_mistake(done, "--port: Input should be less than or equal to 65535")


def test_a_second_service_on_one_file_is_a_mistake(sqlite_url, start_service, tmp_path):
    start_service(sqlite_url).wait_ready()

    assert_mistake(remotelr("serve", "--port", "0", "--database-url", sqlite_url, folder=tmp_path), "stop it")


def test_an_outdated_postgresql_is_refused_with_the_command_to_run(empty_postgres_url, tmp_path):
    done = remotelr("serve", "--port", "0", "--database-url", empty_postgres_url, folder=tmp_path)

    assert_mistake(done, "run `remotelr db upgrade`")


def test_serve_makes_and_migrates_the_file_it_is_given(empty_sqlite_url, start_service):
    service = start_service(empty_sqlite_url)
    ready_s = service.wait_ready()
    service.end()
    print(f"ready after {ready_s:.2f} s, migration included")

    assert 0 == service.process.returncode
    assert "Traceback" not in service.log.read_text()
    assert "arning" not in service.log.read_text()


def test_the_tables_are_brought_up_once_and_told(empty_database_url, tmp_path):
    def db(command: str) -> str:
        done = remotelr("db", command, "--database-url", empty_database_url, folder=tmp_path)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    said = [db("current"), db("upgrade"), db("upgrade"), db("current")]

    assert "no tables (this release needs" in said[0]
    assert said[1].endswith("now\n")
    assert said[2].endswith("already\n")
    assert said[3].endswith("(current)\n")


def test_to_look_at_a_file_that_is_not_there_does_not_make_it(tmp_path):
    done = remotelr("db", "current", folder=tmp_path)

    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(r"no tables \(this release needs \d+\)\n", done.stdout)
    assert [] == list(tmp_path.iterdir())


def test_the_url_may_come_from_the_environment(tmp_path):
    done = remotelr("db", "upgrade", folder=tmp_path, REMOTELR_DATABASE_URL="sqlite:///here.db")

    assert (0, True) == (done.returncode, (tmp_path / "here.db").exists())


def test_the_banner_says_where_and_what_to_paste():
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
def test_no_password_is_shown(url, shown):
    assert shown == shown_url(url)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "gpu-box"])
def test_a_host_that_others_reach_without_a_token_is_warned_of(host):
    assert "no token is needed" in (warning_of_exposure(host, needs_token=False) or "")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7"])
def test_tokens_without_tls_are_worth_a_note(host):
    assert "without TLS" in (warning_of_exposure(host, needs_token=True) or "")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_alone_is_no_cause_for_a_warning(host):
    assert warning_of_exposure(host, needs_token=False) is None


def test_the_warning_is_printed_when_serving_everybody(sqlite_url, start_service):
    service = start_service(sqlite_url, REMOTELR_HOST="0.0.0.0", REMOTELR_INSECURE="true")
    service.wait_ready()

    assert "warning: listening on every network of this machine" in service.log.read_text()
