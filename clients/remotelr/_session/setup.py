"""The configuration of a training, from arguments and, where they are absent, from the environment.

| variable | |
|---|---|
| `REMOTELR_URL` | address of the service |
| `REMOTELR_RUN` | the run's key |
| `REMOTELR_MODE` | `online`; `local`: the same rules without a service; `disabled`: the optimizer's own rate stays |
| `REMOTELR_SPOOL_DIR` | directory of the spool files |
| `REMOTELR_TOKEN` | the token, or `REMOTELR_TOKEN_FILE`: the file that contains it |
| `REMOTELR_ALLOW_HTTP` | `1`: the token may go to another machine over plain http |

Misspelled variables are warned of once.
"""

import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast, get_args

from remotelr._http.requests import run_key
from remotelr._session.identity import ProcessIdentity
from remotelr._session.journal import Journal
from remotelr._session.session import OnUnreachable, Session
from remotelr._session.spool import Spool, SpoolUnusable, default_directory, spool_path
from remotelr.client import Client
from remotelr.errors import warn

Mode = Literal["online", "local", "disabled"]

PREFIX = "REMOTELR_"
VARIABLES = ("URL", "RUN", "MODE", "SPOOL_DIR", "TOKEN", "TOKEN_FILE", "ALLOW_HTTP")

# The key of a run that has neither a name nor a service.
_UNNAMED = "local"

# Similarity (1.0: equal) from which a name is a misspelling. The names of the service's settings are less similar; in
# a short name one wrong letter is a large part.
_SIMILAR, _SIMILAR_SHORT, _SHORT = 0.8, 0.66, 4
_SIMILAR_PREFIX = 0.9

_warned: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The configuration shared by all sessions of one callback.
    client: None without a service.
    file: the spool or state file; None for none. lasting: the file stays when the run has ended.
    implied: there is no service because none was named.
    clock: of the sessions.
    """

    mode: Mode
    run: str
    url: str | None
    implied: bool
    client: Client | None
    file: Path | None
    lasting: bool
    on_unreachable: OnUnreachable
    live: bool
    clock: Callable[[], float] = time.monotonic

    def session(self, members: Mapping[str, Any], identity: ProcessIdentity, say: Callable[[str], None]) -> Session:
        """A new session. If the file cannot be used, it warns and goes on without one."""
        if self.implied and identity.number == 1:
            say(
                "RemoteLR: no service is given, so the rules decide in this process alone. Set `url=` or REMOTELR_URL "
                "to see and change the run elsewhere."
            )
        return Session(
            self.client,
            self.run,
            members,
            journal=Journal(self._spool(identity.rank), lasting=self.lasting),
            identity=identity,
            on_unreachable=self.on_unreachable,
            live=self.live,
            say=say,
            clock=self.clock,
        )

    def _spool(self, rank: int) -> Spool | None:
        if self.file is None:
            return None
        path = self.file if rank == 0 else self.file.with_name(f"{self.file.name}.rank{rank}")
        try:
            return Spool(path)
        except SpoolUnusable as error:
            warn(
                f"{error}. Reports are kept in memory only: if this process dies, those that the service has "
                f"not acknowledged are lost."
            )
            return None


def set_up(
    url: str | None,
    run: str | None,
    identity: ProcessIdentity,
    *,
    on_unreachable: OnUnreachable,
    live: bool,
    state_file: str | os.PathLike[str] | None,
    spool_dir: str | os.PathLike[str] | None,
    **client: Any,
) -> Setup:
    """The setup of a trainer process. client: as `Client` takes it. Raises ValueError."""
    warn_of_misspelled(os.environ)
    identity.check()
    if live and identity.world_size > 1:
        raise ValueError(f"live=True needs world_size=1, got {identity.world_size}: ranks would differ within an epoch")
    url, run = url or os.environ.get("REMOTELR_URL"), run or os.environ.get("REMOTELR_RUN")
    if run and run.startswith(("http://", "https://")):
        if url and not url.startswith(("http://", "https://")):
            raise ValueError(f"url and run are the other way round: use url={run!r}, run={url!r}")
        raise ValueError(f"run must be the run's key, got the address {run!r}; give the address as url=")
    mode = _mode(url)
    if on_unreachable not in get_args(OnUnreachable):
        raise ValueError(f"on_unreachable must be one of {', '.join(get_args(OnUnreachable))}, got {on_unreachable!r}")
    file = None if state_file is None else Path(state_file)
    common: dict[str, Any] = {"mode": mode, "on_unreachable": on_unreachable}
    if mode != "online" or url is None:
        implied = "REMOTELR_MODE" not in os.environ
        name = run or _UNNAMED
        return Setup(**common, run=name, url=None, implied=implied, client=None, file=file, lasting=True, live=False)
    if not run:
        if identity.world_size > 1:
            raise ValueError("the run's key is missing: give all ranks the same run='mnist-7', or set REMOTELR_RUN")
        run = new_run_key()
    directory = Path(spool_dir) if spool_dir is not None else default_directory(os.environ)
    return Setup(
        **common,
        run=run_key(run),
        url=url,
        implied=False,
        client=Client(url, **client),
        file=file or spool_path(directory, url, run),
        lasting=file is not None,
        live=live,
    )


def new_run_key() -> str:
    """A readable key for a run without one: script, time (UTC) and four random digits."""
    script = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(sys.argv[0]).stem).strip("-._") or "run"
    return f"{script[:100]}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def _mode(url: str | None) -> Mode:
    mode = os.environ.get("REMOTELR_MODE")
    if not mode:
        return "local" if url is None else "online"
    if mode not in get_args(Mode):
        raise ValueError(f"REMOTELR_MODE must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    if mode == "online" and url is None:
        raise ValueError(
            "REMOTELR_MODE is online, but the service's address is missing: give url='http://127.0.0.1:8000' or set "
            "REMOTELR_URL"
        )
    return cast(Mode, mode)


def warn_of_misspelled(environ: Mapping[str, str]) -> None:
    """Warn of each misspelled variable, once in this process."""
    for name, meant in misspelled_variables(environ):
        if name not in _warned:
            _warned.add(name)
            warn(f"the environment variable {name} is unknown: did you mean {meant}?")


def misspelled_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each misspelled variable and the one it is similar to."""
    known = {PREFIX + name for name in VARIABLES}
    for name in sorted(set(environ) - known):
        head, _, rest = name.upper().partition("_")
        if not get_close_matches(f"{head}_", [PREFIX], cutoff=_SIMILAR_PREFIX):
            continue
        similar = _SIMILAR_SHORT if len(rest) <= _SHORT else _SIMILAR
        # With a misspelled prefix the rest must be exact: the variable may belong to another program.
        for meant in get_close_matches(rest, VARIABLES, n=1, cutoff=similar if f"{head}_" == PREFIX else 1.0):
            yield name, PREFIX + meant
