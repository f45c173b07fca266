"""Who decides a training: a service, the rules alone, or not we. Arguments say so first, then the environment.

| variable | |
|---|---|
| `REMOTELR_URL` | address of the service |
| `REMOTELR_RUN` | the run's key |
| `REMOTELR_MODE` | `online`; `local`: no service, the same rules here; `disabled`: the optimizer's own rate stays |
| `REMOTELR_SPOOL_DIR` | where reports are kept while the service is away |
| `REMOTELR_TOKEN` | what the service lets us in by; or the file it stands in: `REMOTELR_TOKEN_FILE` |
| `REMOTELR_ALLOW_HTTP` | `1`: the token may go to another machine over plain http |
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast, get_args

from remotelr._http.requests import run_key
from remotelr._session.identity import ProcessIdentity, restart_id
from remotelr._session.journal import Journal
from remotelr._session.session import OnUnreachable, Session
from remotelr._session.spool import Spool, SpoolUnusable, default_directory, spool_path
from remotelr.client import Client
from remotelr.errors import RemoteLRWarning

Mode = Literal["online", "local", "disabled"]

# The run of a training that names none and has no service to tell it to.
_UNNAMED = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all sessions of one callback have in common.

    client: None where no service is asked.
    file: what carries the run from life to life; None for nothing. lasting: it stays when the run has ended.
    implied: nobody said that there is no service, or where it is.
    clock: of its sessions.
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

    def session(self, members: Mapping[str, Any], life: ProcessIdentity, say: Callable[[str], None]) -> Session:
        """A life of the training. A file that cannot be used is a warning."""
        return Session(
            self.client,
            self.run,
            members,
            journal=Journal(self._spool(life), lasting=self.lasting),
            life=life,
            on_unreachable=self.on_unreachable,
            live=self.live,
            say=say,
            clock=self.clock,
        )

    def _spool(self, life: ProcessIdentity) -> Spool | None:
        if self.file is None:
            return None
        path = self.file if life.rank == 0 else self.file.with_name(f"{self.file.name}.rank{life.rank}")
        try:
            return Spool(path)
        except SpoolUnusable as error:
            warnings.warn(
                f"RemoteLR: {error}. Should this process die, what the service has not heard by then is lost.",
                RemoteLRWarning,
                stacklevel=2,
            )
            return None


def set_up(
    url: str | None,
    run: str | None,
    *,
    on_unreachable: OnUnreachable,
    live: bool,
    state_file: str | os.PathLike[str] | None,
    spool_dir: str | os.PathLike[str] | None,
    **client: Any,
) -> Setup:
    """The setup these arguments and the environment make. client: as `Client` takes it. Raises ValueError."""
    warn_of_misspelled(os.environ)
    url, run = url or os.environ.get("REMOTELR_URL"), run or os.environ.get("REMOTELR_RUN")
    mode = _mode(url)
    if on_unreachable not in get_args(OnUnreachable):
        raise ValueError(f"on_unreachable is one of {', '.join(get_args(OnUnreachable))}, not {on_unreachable!r}")
    if mode != "online" or url is None:
        return Setup(
            mode=mode,
            run=run or _UNNAMED,
            url=None,
            implied="REMOTELR_MODE" not in os.environ,
            client=None,
            file=None if state_file is None else Path(state_file),
            lasting=True,
            on_unreachable=on_unreachable,
            live=False,
        )
    if not run:
        raise ValueError(
            "RemoteLR needs the key of the training job, as in run='mnist-7', or the environment variable REMOTELR_RUN"
        )
    directory = Path(spool_dir) if spool_dir is not None else default_directory(os.environ)
    return Setup(
        mode=mode,
        run=run_key(run),
        url=url,
        implied=False,
        client=Client(url, **client),
        file=spool_path(directory, url, run) if state_file is None else Path(state_file),
        lasting=state_file is not None,
        on_unreachable=on_unreachable,
        live=live,
    )


def refuse_nameless_ranks(life: ProcessIdentity) -> None:
    """Raises ValueError for ranks that could not begin one attempt together."""
    if life.world_size > 1 and life.attempt_key is None and restart_id(os.environ) is None:
        raise ValueError(
            f"the {life.world_size} ranks of a run begin one attempt together: give all of them the same "
            f"attempt_key, another one after every restart"
        )


def _mode(url: str | None) -> Mode:
    named = os.environ.get("REMOTELR_MODE")
    if not named:
        return "local" if url is None else "online"
    if named not in get_args(Mode):
        raise ValueError(f"REMOTELR_MODE is one of {', '.join(get_args(Mode))}, not {named!r}")
    if named == "online" and url is None:
        raise ValueError(
            "REMOTELR_MODE is online, but there is no address of a service: give url='http://127.0.0.1:8000', or "
            "the environment variable REMOTELR_URL"
        )
    return cast(Mode, named)


PREFIX = "REMOTELR_"
VARIABLES = ("URL", "RUN", "MODE", "SPOOL_DIR", "TOKEN", "TOKEN_FILE", "ALLOW_HTTP")

# How alike two names are (1.0: the same) of which one was meant. The service's own variables are further away; in a
# short name one slip is a large part of it.
_ALIKE, _ALIKE_SHORT, _SHORT = 0.8, 0.66, 4
_ALIKE_PREFIX = 0.9

_warned: set[str] = set()


def warn_of_misspelled(environ: Mapping[str, str]) -> None:
    """Say of each, once in this process, what it may have been meant for."""
    for name, meant in misspelled_variables(environ):
        if name not in _warned:
            _warned.add(name)
            warnings.warn(
                f"RemoteLR: nobody reads the environment variable {name}: did you mean {meant}?",
                RemoteLRWarning,
                stacklevel=2,
            )


def misspelled_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each of those, and what it may have been meant for."""
    ours = {PREFIX + name for name in VARIABLES}
    for name in sorted(set(environ) - ours):
        head, _, rest = name.upper().partition("_")
        if not get_close_matches(f"{head}_", [PREFIX], cutoff=_ALIKE_PREFIX):
            continue
        alike = _ALIKE_SHORT if len(rest) <= _SHORT else _ALIKE
        # With another prefix only what is right behind it: there are other programs.
        for meant in get_close_matches(rest, VARIABLES, n=1, cutoff=alike if f"{head}_" == PREFIX else 1.0):
            yield name, PREFIX + meant
