"""Exit codes and error messages of the command line. Expected errors have no traceback.

| code | |
|---|---|
| 0 | done |
| 1 | the service rejected the request, an argument or file is invalid, or doctor found a problem |
| 2 | wrong usage |
| 3 | the service is unreachable, or cannot respond now |
| 4 | timeout of `--wait` or of a bulk command |
| 130 | Ctrl-C |
"""

import json
import sys
from collections.abc import Callable
from io import TextIOWrapper

from remotelr.errors import RemoteLRError, ServiceRefused, ServiceUnreachable
from remotelr_service.cli.support.output import safe
from remotelr_service.errors import ServiceError, UserError

REFUSED, UNREACHABLE, NOT_IN_TIME, INTERRUPTED = 1, 3, 4, 130


class CommandRejected(UserError):
    """The command was stored, but did not and will not apply."""


class TimedOut(UserError):
    """The command did not apply in time."""


def run(cli: Callable[[], object]) -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        # Print characters that the terminal's encoding lacks as escapes instead of failing.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        cli()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        # A slow import, and an error of the rules has made it already.
        from remotelr.rules.errors import RulesError

        if not isinstance(error, UserError | RemoteLRError | RulesError | ServiceError):
            raise
        name, code = _kind(error)
        # The parsed options are out of reach here.
        as_json = "--json" in sys.argv
        print(json.dumps(_document(error, name)) if as_json else f"remotelr: {_line(error)}", file=sys.stderr)
        sys.exit(code)


def _kind(error: Exception) -> tuple[str, int]:
    """The error's `code` in JSON and the exit code."""
    if isinstance(error, ServiceUnreachable):
        return "unreachable", UNREACHABLE
    return ("not_in_time", NOT_IN_TIME) if isinstance(error, TimedOut) else ("mistake", REFUSED)


def _document(error: Exception, code: str) -> dict[str, object]:
    if isinstance(error, ServiceRefused):
        return {**error.members, "code": error.code, "detail": error.detail, "status": error.status}
    return {"code": code, "detail": str(error)}


def _line(error: Exception) -> str:
    if isinstance(error, ServiceUnreachable):
        return safe(f"{error}; run `remotelr doctor` to find the cause")
    if isinstance(error, ServiceRefused) and error.status == 401:
        return safe(f"{error}; set REMOTELR_TOKEN or REMOTELR_TOKEN_FILE")
    return safe(error)
