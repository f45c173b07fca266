"""Variables of the environment that look like ours, and are not: what nobody reads, nobody misses in time."""

import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from remotelr.errors import RemoteLRWarning

PREFIX = "REMOTELR_"
VARIABLES = ("URL", "RUN", "MODE", "SPOOL_DIR", "TOKEN", "TOKEN_FILE", "ALLOW_HTTP")

# How alike two names are (1.0: the same) of which one was meant. The service's own variables are further away.
_ALIKE = 0.8

_told: set[str] = set()


def warn_of_misspelt(environ: Mapping[str, str]) -> None:
    """Say of each, once in this process, what it may have been meant for."""
    for name, meant in misspelt(environ):
        if name not in _told:
            _told.add(name)
            warnings.warn(
                f"RemoteLR: nobody reads the environment variable {name}: did you mean {meant}?",
                RemoteLRWarning,
                stacklevel=2,
            )


def misspelt(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each of those, and what it may have been meant for."""
    ours = {PREFIX + name for name in VARIABLES}
    for name in sorted(set(environ) - ours):
        head, _, rest = name.upper().partition("_")
        if not get_close_matches(f"{head}_", [PREFIX], cutoff=_ALIKE):
            continue
        # With another prefix only what is right behind it: there are other programs.
        for meant in get_close_matches(rest, VARIABLES, n=1, cutoff=_ALIKE if f"{head}_" == PREFIX else 1.0):
            yield name, PREFIX + meant
