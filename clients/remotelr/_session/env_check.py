"""Variables of the environment that look like ours, and are not: what nobody reads, nobody misses in time."""

import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from remotelr.errors import RemoteLRWarning

PREFIX = "REMOTELR_"
VARIABLES = ("URL", "RUN", "MODE", "SPOOL_DIR", "TOKEN", "TOKEN_FILE", "ALLOW_HTTP")

# How alike two names are (1.0: the same) of which one was meant. The service's own variables are further away; in a
# short name one slip is a large part of it.
_ALIKE, _ALIKE_SHORT, _SHORT = 0.8, 0.66, 4
_ALIKE_PREFIX = 0.9

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
        if not get_close_matches(f"{head}_", [PREFIX], cutoff=_ALIKE_PREFIX):
            continue
        alike = _ALIKE_SHORT if len(rest) <= _SHORT else _ALIKE
        # With another prefix only what is right behind it: there are other programs.
        for meant in get_close_matches(rest, VARIABLES, n=1, cutoff=alike if f"{head}_" == PREFIX else 1.0):
            yield name, PREFIX + meant
