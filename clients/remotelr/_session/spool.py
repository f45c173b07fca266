"""A file that keeps what a trainer has to say until the service has heard it. Records in, records out; no meaning.

    magic, then for each record: length (4 bytes), CRC-32 (4 bytes), JSON

Safe under SIGKILL at any byte: what does not add up at the end was never written. One process at a
time: the second is refused. Nothing but a spool is ever opened, read or cut.
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
_HEAD = struct.Struct("<II")
# Windows has no O_NOFOLLOW and no O_NONBLOCK; the second keeps us from waiting at a named pipe.
_SAFELY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

# The lock of POSIX is one per process, so two spools of one process are kept apart here.
_OPEN: set[str] = set()
_OPEN_LOCK = threading.Lock()


class SpoolUnusable(Exception):
    """The file cannot be the spool: a link, too long, not ours, in use, or not to be written."""


class Spool:
    """The records in a file, oldest first.

    path: made with its directories where it is missing, readable for its owner alone.
    max_bytes: how long it may become; a record that does not fit is not taken.

    records: what was in it when it was opened.

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
        """Add a record; False where it does not fit, or the file takes no more.

        From then on the death of this process does not lose it; after `sync` a power cut does not either.
        """
        framed = _framed(record)
        if not self._usable or max(self._length, len(_MAGIC)) + len(framed) > self._max_bytes:
            return False
        if not self._length:
            framed = _MAGIC + framed

        def write() -> None:
            # One write at a known place: after a failure half-way the next record overwrites the half.
            _write(self._handle.fd, framed, self._length)

        written = self._on_disk(write)
        if written:
            self._length += len(framed)
        return written

    def sync(self) -> bool:
        """Wait until what was appended is on the disk: some milliseconds."""
        return self._usable and self._on_disk(lambda: os.fsync(self._handle.fd))

    def replace(self, records: Iterable[Record]) -> bool:
        """Hold these records and no others, or, after a failure, still the old ones; False then."""
        content = _MAGIC + b"".join(_framed(record) for record in records)
        if not self._usable or len(content) > self._max_bytes:
            return False
        replaced = self._on_disk(lambda: self._handle.replace(self.path, content))
        if replaced:
            self._length = len(content)
        return replaced

    def reject(self, record: Record, reason: str) -> None:
        """Lay a record aside that nobody will ever take, with the reason, in a file beside this one."""
        line = json.dumps({"reason": reason, "record": record}).encode() + b"\n"

        def write() -> None:
            fd = os.open(self.rejected, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _SAFELY, 0o600)
            try:
                if os.fstat(fd).st_size + len(line) <= self._max_bytes:
                    os.write(fd, line)
            finally:
                os.close(fd)

        self._on_disk(write)

    @property
    def rejected(self) -> Path:
        """Where rejected records lie: JSON, one a line."""
        return self.path.with_name(self.path.name + ".rejected")

    def remove(self) -> None:
        """Delete the file: everything in it has been heard."""
        if self._usable:
            self._on_disk(self.path.unlink)
        self.close()

    def close(self) -> None:
        """Let go of the file, which stays."""
        self._finalizer()

    @property
    def _usable(self) -> bool:
        # A forked data loader has a copy of this object, and no part in the file.
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
        # Only then the name is ours to give back: who was refused has the name of somebody else.
        self._named = False

    @property
    def is_open(self) -> bool:
        return self.fd >= 0

    def open(self, path: Path, max_bytes: int) -> bytes:
        """The file's content, once it is ours. Raises OSError."""
        with _OPEN_LOCK:
            if self._name in _OPEN:
                raise BlockingIOError("is in use by another callback of this process")
            # Before there is a descriptor: to close any of a file lets go of its lock.
            _OPEN.add(self._name)
            self._named = True
        try:
            self.fd = _opened(path)
            return _read(self.fd, max_bytes)
        except BaseException:
            self.close()
            raise

    def replace(self, path: Path, content: bytes) -> None:
        """Put a new file in the place of the old one, locked before anybody can see it. Raises OSError."""
        temporary = path.with_name(path.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY, 0o600)
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
                _OPEN.discard(self._name)
            self._named = False


def spool_path(directory: Path, url: str, run: str) -> Path:
    """Where the spool of a run at one service lies."""
    # The name is for people, the digest keeps runs apart that differ in what a file name cannot show.
    digest = hashlib.sha256(f"{url}\n{run}".encode()).hexdigest()[:16]
    return directory / f"{re.sub(r'[^A-Za-z0-9._-]', '-', run)[:80]}-{digest}.spool"


def default_directory(environ: Mapping[str, str]) -> Path:
    """`REMOTELR_SPOOL_DIR`, or the place where a user's programs keep their state."""
    given = environ.get("REMOTELR_SPOOL_DIR")
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or Path.home()) / "remotelr"
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "remotelr"


def _framed(record: Record) -> bytes:
    payload = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _parsed(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The whole records, and how many bytes of the file they take."""
    if len(content) < len(_MAGIC):
        return [], 0
    records: list[dict[str, Any]] = []
    place = len(_MAGIC)
    while place + _HEAD.size <= len(content):
        length, checksum = _HEAD.unpack_from(content, place)
        payload = content[place + _HEAD.size : place + _HEAD.size + length]
        record = _record(payload) if len(payload) == length and zlib.crc32(payload) == checksum else None
        if record is None:
            break
        records.append(record)
        place += _HEAD.size + length
    return records, place


def _record(payload: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _opened(path: Path) -> int:
    """The file, locked, and still the one of that name. Raises OSError."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _SAFELY, 0o600)
        try:
            _lock(fd)
            # Another process may have put a new file in its place just before it let go of the lock.
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
        # Not flock: a forked data loader that outlives us would hold that one.
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise BlockingIOError("is in use by another process") from None


def _read(fd: int, max_bytes: int) -> bytes:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("is no regular file")
    if found.st_size > max_bytes:
        raise OSError(f"holds {found.st_size:,} bytes, more than the {max_bytes:,} of a spool")
    content = os.read(fd, found.st_size)
    if not content.startswith(_MAGIC[: len(content)]):
        raise OSError("is no spool of remotelr")
    if sys.platform != "win32":
        os.fchmod(fd, 0o600)
    return content


def _write(fd: int, content: bytes, place: int) -> None:
    os.lseek(fd, place, os.SEEK_SET)
    if os.write(fd, content) != len(content):
        raise OSError("the disk took a part of it")


def _sync_directory(directory: Path) -> None:
    # Windows opens no directories; there the file system keeps renames in order.
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
