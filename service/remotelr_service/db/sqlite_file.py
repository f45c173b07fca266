"""The SQLite file of a service: locked for one process, checked at start, and still the same file while it is used."""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Final

from remotelr_service.errors import DatabaseDamaged, DatabaseInUse, DatabaseUnavailable, InvalidDatabaseUrl

BUSY_TIMEOUT_MS: Final = 5_000
# quick_check reads the whole file. The service must start within 1 s, so a large file is checked for this time only:
# its header, its tables, its first pages.
CHECK_LIMIT_S: Final = 0.4


def create_file(file: Path) -> None:
    """Create the file if it does not exist, readable for its owner only. Raises InvalidDatabaseUrl."""
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise InvalidDatabaseUrl(f"the SQLite file {file} cannot be opened: {error.strerror}") from error


class SqliteFile:
    """The file `file`, locked by this process until `close`, whatever name another process uses for it.

    Raises DatabaseInUse if another process uses the file.
    """

    def __init__(self, file: Path) -> None:
        create_file(file)
        self.path = file.resolve()
        self._lock = _lock(Path(f"{self.path}.lock"), self.path)
        # Of the file itself, for a hard link has another path. SQLite's own locks are of another kind.
        self._file = self.path.open("rb")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise DatabaseInUse(
                f"another service process uses {file} under another name: stop it, or use PostgreSQL to run several"
            ) from None
        self._name, self._identity = str(self.path), _identity(self._file.fileno())

    def close(self) -> None:
        """Release the locks. No connection may be open: closing a file drops SQLite's locks on it."""
        self._file.close()
        self._lock.close()

    def check_identity(self) -> None:
        """Raises DatabaseUnavailable if the file was removed or replaced.

        SQLite continues on a removed file, and acknowledges commits that are lost with its process.
        """
        if _identity(self._name) != self._identity:
            raise DatabaseUnavailable(
                f"{self.path} was removed or replaced under the service; restore the file and restart the service"
            )

    def check_content(self) -> None:
        """Raises DatabaseDamaged if a quick check fails, InvalidDatabaseUrl for a file of another application.

        The file is not changed.
        """
        with closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
            try:
                tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                # First, for the check of a large file may not end.
                if tables and "alembic_version" not in tables:
                    listed = ", ".join(sorted(tables)[:3])
                    raise InvalidDatabaseUrl(
                        f"{self.path} has the tables of another application ({listed}): use another file"
                    )
                with _interrupted_after(CHECK_LIMIT_S, connection):
                    found = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                    return
                raise DatabaseDamaged(f"{self.path} cannot be checked: {error}") from error
            except sqlite3.DatabaseError as error:
                raise damaged(str(self.path), str(error)) from error
        if found != ["ok"]:
            raise damaged(str(self.path), found[0])


def damaged(file: str, found: str) -> DatabaseDamaged:
    return DatabaseDamaged(
        f"{file} is damaged ({found}); nothing was changed; keep a copy of it and restore the last backup"
    )


def _lock(lock_file: Path, file: Path) -> IO[bytes]:
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    lock = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = (lock.read(32) or b"").decode(errors="replace").strip()
        lock.close()
        raise DatabaseInUse(
            f"another service process ({owner or 'unknown pid'}) uses {file}; stop it, "
            f"or use PostgreSQL for several processes"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n".encode())
    return lock


def _identity(file: str | int) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116  # for each transaction, and pathlib's takes three times as long
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _interrupted_after(seconds: float, connection: sqlite3.Connection) -> Iterator[None]:
    """Interrupt a slow statement, by a thread: a progress handler runs between steps, and a table's check is one."""
    is_over = threading.Event()

    def interrupt() -> None:
        wait_s = seconds
        while not is_over.wait(wait_s):
            # Repeated: an interrupt before the begin of the statement has no effect.
            connection.interrupt()
            wait_s = 0.05

    clock = threading.Thread(target=interrupt, name="remotelr-check", daemon=True)
    clock.start()
    try:
        yield
    finally:
        is_over.set()
        clock.join()
