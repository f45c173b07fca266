"""How a command ends: the exit codes, and what is said on stderr. No traceback for what a person can put right.

| code | |
|---|---|
| 0 | done |
| 1 | the service refused it, or something has to be put right first; doctor found something |
| 2 | wrong usage |
| 3 | the service cannot be reached, or cannot answer now |
| 4 | it did not come in the time that was given to wait |
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
    """The command was noted, and will not be carried out."""


class TimedOut(UserError):
    """What was waited for has not come."""


def run(cli: Callable[[], object]) -> None:
    """Run the command line, and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A name that a narrow terminal cannot show is shown by its code, and is no error.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        cli()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        # Imported here, where somebody has imported it already: it is the one thing slow to import.
        from remotelr.rules.errors import RulesError

        if not isinstance(error, UserError | RemoteLRError | RulesError | ServiceError):
            raise
        _say(error)
        sys.exit(_code(error))


def _code(error: Exception) -> int:
    if isinstance(error, ServiceUnreachable):
        return UNREACHABLE
    return NOT_IN_TIME if isinstance(error, TimedOut) else REFUSED


def _say(error: Exception) -> None:
    # The options are known only to the command that failed; the word itself is enough here.
    if "--json" in sys.argv:
        print(json.dumps(_document(error)), file=sys.stderr)
        return
    print(f"remotelr: {_line(error)}", file=sys.stderr)


def _document(error: Exception) -> dict[str, object]:
    if isinstance(error, ServiceRefused):
        return {**error.members, "code": error.code, "detail": error.detail, "status": error.status}
    code = (
        "unreachable"
        if isinstance(error, ServiceUnreachable)
        else "not_in_time"
        if isinstance(error, TimedOut)
        else "mistake"
    )
    return {"code": code, "detail": str(error)}


def _line(error: Exception) -> str:
    if isinstance(error, ServiceUnreachable):
        return safe(f"{error}: `remotelr doctor` looks for the cause")
    if isinstance(error, ServiceRefused) and error.status == 401:
        return safe(f"{error}: set REMOTELR_TOKEN, or REMOTELR_TOKEN_FILE")
    return safe(error)
