"""What this process has open, but for what services of other tests keep open in it."""

import threading
from pathlib import Path

# A service of another test gets more of these as it needs them, and keeps them: a client has no event loop.
_OF_EVENT_LOOPS = ("AnyIO", "asyncio", "uvloop")


def open_threads() -> int:
    return sum(not thread.name.startswith(_OF_EVENT_LOOPS) for thread in threading.enumerate())


def open_files() -> int:
    """The open files, sockets included. A service opens and closes database connections for its own tasks."""
    return sum("remotelr.db" not in where for where in map(_led_to, Path("/proc/self/fd").iterdir()))


def _led_to(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        # The one that this very list was read by.
        return "remotelr.db"
