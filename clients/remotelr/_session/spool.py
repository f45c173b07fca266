"""A file of JSON records that survives SIGKILL at any byte. It does not interpret the records.

    magic, then for each record: length (4 bytes), CRC-32 (4 bytes), JSON

An incomplete record at the end is cut off. One process at a time opens the file; a second one gets SpoolUnusable.
A file that is not a spool is neither read nor changed.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
import struct
import sys
import threading
import weakref
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

Record = Mapping[str, Any]

MAX_BYTES = 1024 * 1024

_MAGIC = b"remotelr-spool-1\n"
_HEADER = struct.Struct("<II")
# Windows has no O_NOFOLLOW and no O_NONBLOCK. O_NONBLOCK prevents blocking on a named pipe.
_SAFE_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

# A POSIX lock belongs to the process: this set distinguishes two spools of one process.
_OPEN_NAMES: set[str] = set()
_OPEN_LOCK = threading.Lock()


class SpoolUnusable(Exception):
    """The file is a link, too long, not a spool, in use, or not writable."""


class Spool:
    """The records in a file, oldest first.
    path: created with its directories if it is missing, readable for its owner alone.
    max_bytes: limit of its length; a record that does not fit is not appended.
    records: the content when it was opened.
    Raises SpoolUnusable.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._owner = os.getpid()
        self._handle = _Handle(os.path.realpath(path.parent) + os.sep + path.name)
        self._finalizer = weakref.finalize(self, self._handle.close)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = self._handle.open(path, max_bytes)
        except (OSError, ValueError) as error:
            raise SpoolUnusable(f"{path}: {error}") from error
        self.records, self._length = _parsed(content)
        if self._length != len(content):
            self._on_disk(lambda: os.ftruncate(self._handle.fd, self._length))

    def append(self, record: Record) -> bool:
        """Append a record; False if that fails. It survives the death of the process, after `sync` a power failure."""
        framed = _framed(record)
        if not self._usable or max(self._length, len(_MAGIC)) + len(framed) > self._max_bytes:
            return False
        if not self._length:
            framed = _MAGIC + framed

        def write() -> None:
            # At a fixed offset: after a partial write the next record overwrites it.
            _write(self._handle.fd, framed, self._length)

        written = self._on_disk(write)
        if written:
            self._length += len(framed)
        return written

    def sync(self) -> bool:
        """Wait until the appended records are on the disk: some milliseconds."""
        return self._usable and self._on_disk(lambda: os.fsync(self._handle.fd))

    def replace(self, records: Iterable[Record]) -> bool:
        """Replace the content by these records; returns False after a failure, with the content unchanged."""
        content = _MAGIC + b"".join(_framed(record) for record in records)
        if not self._usable or len(content) > self._max_bytes:
            return False
        replaced = self._on_disk(lambda: self._handle.replace(self.path, content))
        if replaced:
            self._length = len(content)
        return replaced

    def reject(self, record: Record, reason: str) -> None:
        """Append a record and the reason of its rejection to the file `rejected`."""
        line = json.dumps({"reason": reason, "record": record}).encode() + b"\n"

        def write() -> None:
            fd = os.open(self.rejected, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _SAFE_FLAGS, 0o600)
            try:
                if os.fstat(fd).st_size + len(line) <= self._max_bytes:
                    os.write(fd, line)
            finally:
                os.close(fd)

        self._on_disk(write)

    @property
    def rejected(self) -> Path:
        """The file of rejected records: JSON, one a line."""
        return self.path.with_name(self.path.name + ".rejected")

    def remove(self) -> None:
        if self._usable:
            self._on_disk(self.path.unlink)
        self.close()

    def close(self) -> None:
        """Close the file, which stays."""
        self._finalizer()

    @property
    def _usable(self) -> bool:
        # A forked data loader has a copy of this object, but must not use the file.
        return self._handle.is_open and self._owner == os.getpid()

    def _on_disk(self, action: Any) -> bool:
        try:
            action()
        except OSError:
            return False
        return True


class _Handle:
    """The open and locked file."""

    def __init__(self, name: str) -> None:
        self.fd = -1
        self._name = name
        # False while another handle holds the name.
        self._named = False

    @property
    def is_open(self) -> bool:
        return self.fd >= 0

    def open(self, path: Path, max_bytes: int) -> bytes:
        """Lock the file; returns its content. Raises OSError."""
        with _OPEN_LOCK:
            if self._name in _OPEN_NAMES:
                raise BlockingIOError("is in use by another callback of this process")
            # Before opening: closing any descriptor of a file releases its lock.
            _OPEN_NAMES.add(self._name)
            self._named = True
        try:
            self.fd = _opened(path)
            return _read(self.fd, max_bytes)
        except BaseException:
            self.close()
            raise

    def replace(self, path: Path, content: bytes) -> None:
        """Replace the file by a new one, which is locked before it becomes visible. Raises OSError."""
        temporary = path.with_name(path.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE_FLAGS, 0o600)
        try:
            _lock(fd)
            _write(fd, content, 0)
            os.fsync(fd)
            temporary.replace(path)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        self.fd, old = fd, self.fd
        os.close(old)
        _sync_directory(path.parent)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        with _OPEN_LOCK:
            if self._named:
                _OPEN_NAMES.discard(self._name)
            self._named = False


def spool_path(directory: Path, url: str, run: str) -> Path:
    """The spool file of a run at one service."""
    # The digest distinguishes runs whose keys differ only in characters that a file name cannot contain.
    digest = hashlib.sha256(f"{url}\n{run}".encode()).hexdigest()[:16]
    return directory / f"{re.sub(r'[^A-Za-z0-9._-]', '-', run)[:80]}-{digest}.spool"


def default_directory(environ: Mapping[str, str]) -> Path:
    """`REMOTELR_SPOOL_DIR`, or the user's directory for program state."""
    given = environ.get("REMOTELR_SPOOL_DIR")
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or Path.home()) / "remotelr"
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "remotelr"


def _framed(record: Record) -> bytes:
    payload = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def _parsed(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The complete records, and their length in bytes with the magic."""
    if len(content) < len(_MAGIC):
        return [], 0
    records: list[dict[str, Any]] = []
    offset = len(_MAGIC)
    while offset + _HEADER.size <= len(content):
        length, checksum = _HEADER.unpack_from(content, offset)
        payload = content[offset + _HEADER.size : offset + _HEADER.size + length]
        record = _record(payload) if len(payload) == length and zlib.crc32(payload) == checksum else None
        if record is None:
            break
        records.append(record)
        offset += _HEADER.size + length
    return records, offset


def _record(payload: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _opened(path: Path) -> int:
    """The descriptor of the locked file, which still has that name. Raises OSError."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _SAFE_FLAGS, 0o600)
        try:
            _lock(fd)
            # Another process may have replaced the file just before it released the lock.
            if os.path.samestat(os.fstat(fd), path.lstat()):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int) -> None:
    if sys.platform == "win32":
        return
    try:
        # Not flock: a forked data loader that outlives this process would hold that lock.
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise BlockingIOError("is in use by another process") from None


def _read(fd: int, max_bytes: int) -> bytes:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("is not a regular file")
    if found.st_size > max_bytes:
        raise OSError(f"is {found.st_size:,} bytes long, more than the {max_bytes:,} of a spool")
    content = os.read(fd, found.st_size)
    if not content.startswith(_MAGIC[: len(content)]):
        raise OSError("is not a spool of remotelr: choose another file")
    if sys.platform != "win32":
        os.fchmod(fd, 0o600)
    return content


def _write(fd: int, content: bytes, offset: int) -> None:
    os.lseek(fd, offset, os.SEEK_SET)
    if os.write(fd, content) != len(content):
        raise OSError("the record was written in part")


def _sync_directory(directory: Path) -> None:
    # Windows cannot open directories; its file system keeps renames in order.
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
