"""The text that `remotelr serve` prints when it is ready."""

import shlex
from pathlib import Path

from remotelr_service.settings import shown_url

_ALL_INTERFACES = ("0.0.0.0", "::", "")


def banner(address: str, database_url: str, release: str, token_file: Path | None = None) -> str:
    """Address, database and first steps. token_file: the file of the first token, if this start created it."""
    token: list[str] = []
    if token_file is not None:
        token = [
            f"    token      in {token_file} (scope admin: keep it secret)",
            f"               {use_of_token(token_file)}",
        ]
    return "\n".join(
        [
            "",
            f"  RemoteLR {release} is ready",
            "",
            f"    address    {address}   (documentation: {address}/docs)",
            f"    database   {shown_url(database_url)}",
            *token,
            "    in Keras   from remotelr.keras import RemoteLR",
            f'               model.fit(..., callbacks=[RemoteLR(url="{address}", run="my-run", patience=5)])',
            "",
            "  Ctrl-C stops the service; every acknowledged report is stored.",
            "",
        ]
    )


def use_of_token(file: Path) -> str:
    """The line of a shell that takes the token from its file."""
    return f"export REMOTELR_TOKEN=$(cat {shlex.quote(str(file))})"


def exposure_warning(host: str, *, needs_token: bool) -> str | None:
    """The warning about an address that other machines reach; None for a loopback address."""
    if host in ("127.0.0.1", "::1", "localhost"):
        return None
    interfaces = "every network of this machine" if host in _ALL_INTERFACES else host
    if needs_token:
        return (
            f"note: listening on {interfaces} without TLS: the network can read tokens. Use a TLS proxy unless the "
            f"network is trusted (docs/operations.md)."
        )
    return (
        f"warning: listening on {interfaces}, and no token is needed: any client of this port can read and change all "
        f"runs. Use a firewall, or serve without --insecure."
    )
