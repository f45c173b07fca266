"""What `remotelr serve` says when it is ready: where it is, where the runs are kept, what to paste into a trainer."""

import shlex
from pathlib import Path

from remotelr_service.settings import shown_url

_EVERYBODY = ("0.0.0.0", "::", "")


def banner(address: str, database_url: str, release: str, token_file: Path | None = None) -> str:
    """token_file: where the first token lies, if it was made just now."""
    made = [
        f"    token      in {token_file}: it may do everything, and is for you alone",
        f"               export REMOTELR_TOKEN=$(cat {shlex.quote(str(token_file))})",
    ]
    return "\n".join(
        [
            "",
            f"  RemoteLR {release} is ready",
            "",
            f"    address    {address}   (documentation: {address}/docs)",
            f"    database   {shown_url(database_url)}",
            *(made if token_file is not None else []),
            "    in Keras   from remotelr.keras import RemoteLR",
            f'               model.fit(..., callbacks=[RemoteLR(url="{address}", run="my-run", patience=5)])',
            "",
            "  Ctrl-C ends it; nothing that was answered is lost.",
            "",
        ]
    )


def warning_of_exposure(host: str, *, needs_token: bool) -> str | None:
    """What to say about a host that others reach, else None."""
    if host in ("127.0.0.1", "::1", "localhost"):
        return None
    reach = "every network of this machine" if host in _EVERYBODY else host
    if needs_token:
        return (
            f"note: listening on {reach} without TLS: tokens can be read on their way. Where that matters, put a proxy "
            f"with a certificate in front (docs/operations.md)."
        )
    return (
        f"warning: listening on {reach}, and no token is needed: whoever reaches this port can read and "
        f"change every run. Keep it behind a firewall, or serve without --insecure."
    )
