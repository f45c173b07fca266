"""The service's address and the client's token, with the checks that keep the token secret."""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

# Longer than any token of the service, which detects a wrong file.
_MAX_CHARACTERS = 1_000


def address(url: str) -> str:
    """`url`, if it can be the service's address. Raises ValueError; its message contains no password."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the service's address must begin with http:// or https://, got {url!r}")
    if "@" in urlsplit(url).netloc:
        raise ValueError("the service's address must not contain a name or password: give the token as `token=`")
    return url


def bearer(url: str, token: str | None = None, *, allow_http: bool = False) -> dict[str, str]:
    """The header with the token; empty without a token.
    token: by default `REMOTELR_TOKEN`, or the content of the file `REMOTELR_TOKEN_FILE`.
    Raises ValueError for an invalid token, and for one that would go over http to another machine. No message
    contains the token.
    """
    found = _found(token, os.environ)
    if found is None:
        return {}
    if not found or len(found) > _MAX_CHARACTERS or not all("!" <= character <= "~" for character in found):
        raise ValueError(
            f"the token must be 1 to {_MAX_CHARACTERS} characters of printable ASCII without spaces: check its source"
        )
    if not (allow_http or os.environ.get("REMOTELR_ALLOW_HTTP") == "1" or _is_private(url)):
        raise ValueError(
            f"the token would go to {urlsplit(url).hostname} over http, where others can read it: use https, or set "
            f"allow_http=True (REMOTELR_ALLOW_HTTP=1) if the network is trusted"
        )
    return {"authorization": f"Bearer {found}"}


def _found(token: str | None, environ: Mapping[str, str]) -> str | None:
    if token is not None:
        return token.strip()
    value, file = environ.get("REMOTELR_TOKEN"), environ.get("REMOTELR_TOKEN_FILE")
    if value and file:
        raise ValueError("REMOTELR_TOKEN and REMOTELR_TOKEN_FILE are both set: set one of them")
    if not file:
        return value.strip() if value else None
    try:
        with Path(file).open(encoding="ascii", errors="replace") as opened:
            return opened.read(_MAX_CHARACTERS + 2).strip()
    except OSError as error:
        raise ValueError(f"REMOTELR_TOKEN_FILE: {file} cannot be read: {error.strerror}") from None


def _is_private(url: str) -> bool:
    """Whether a request to `url` is encrypted or stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_local(parts.hostname or "")


def is_local(host: str) -> bool:
    """Whether a request to `host` stays on this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
