"""What the service lets a client in by: where it comes from, and to whom it is never shown."""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

# Longer than any token of the service; what is longer is some other file.
_LONGEST = 1_000


def address(url: str) -> str:
    """`url`, if it can be the service's address. Raises ValueError, which shows nothing that might be secret."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the service's address begins with http:// or https://, not {url!r}")
    if "@" in urlsplit(url).netloc:
        raise ValueError("the service's address has no name or password in it: give what lets you in as `token=`")
    return url


def bearer(url: str, token: str | None = None, *, allow_http: bool = False) -> dict[str, str]:
    """The header that carries the token; none where there is no token.

    token: else `REMOTELR_TOKEN`, or what stands in the file `REMOTELR_TOKEN_FILE`.

    Raises ValueError for what can be no token, and where others could read it on its way: over http to another
    machine. No message shows it.
    """
    found = _found(token, os.environ)
    if found is None:
        return {}
    if not found or len(found) > _LONGEST or not all("!" <= character <= "~" for character in found):
        raise ValueError("the token is one word of printable ASCII; this one is empty, too long, or has something else")
    if not (allow_http or os.environ.get("REMOTELR_ALLOW_HTTP") == "1" or _is_private(url)):
        raise ValueError(
            f"the token would go to {urlsplit(url).hostname} over http, where others can read it: use https, or say "
            f"allow_http=True (REMOTELR_ALLOW_HTTP=1) if nobody listens on the way"
        )
    return {"authorization": f"Bearer {found}"}


def _found(token: str | None, environ: Mapping[str, str]) -> str | None:
    if token is not None:
        return token.strip()
    word, file = environ.get("REMOTELR_TOKEN"), environ.get("REMOTELR_TOKEN_FILE")
    if word and file:
        raise ValueError("REMOTELR_TOKEN and REMOTELR_TOKEN_FILE are both set: set one of them")
    if not file:
        return word.strip() if word else None
    try:
        with Path(file).open(encoding="ascii", errors="replace") as opened:
            return opened.read(_LONGEST + 2).strip()
    except OSError as error:
        raise ValueError(f"REMOTELR_TOKEN_FILE: {file} cannot be read: {error.strerror}") from None


def _is_private(url: str) -> bool:
    """Nobody on the way can read what is sent there: it is encrypted, or stays on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return True
    host = parts.hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
