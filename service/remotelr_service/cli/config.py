"""`remotelr config`: the settings of this shell and their sources."""

import os
from collections.abc import Mapping
from typing import Any

import typer

from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import NOT_SET, address, credentials, token_source, without_user
from remotelr_service.cli.support.options import AsJson

app = typer.Typer(help="Show settings.", no_args_is_help=True, rich_markup_mode=None)

# Variables of a trainer that is started from this shell, beside the address.
_TRAINER = ("REMOTELR_RUN", "REMOTELR_MODE", "REMOTELR_SPOOL_DIR")
_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@app.command()
def show(as_json: AsJson = False) -> None:
    """Show all settings and their sources.

    Secrets are masked.
    """
    sections = {"terminal": _terminal(), "trainer": _named(_TRAINER), "network": _network(), "service": _service()}
    output.show(sections, as_json, lambda: _page(sections))


Setting = Mapping[str, str | None]


def _terminal() -> dict[str, Setting]:
    url, url_source = address()
    sent = credentials(url).get("authorization")
    return {
        "url": {"value": url, "source": url_source},
        "token": {"value": None if sent is None else masked(sent.removeprefix("Bearer ")), "source": token_source()},
    }


def _named(names: tuple[str, ...]) -> dict[str, Setting]:
    return {
        name: {"value": os.environ.get(name), "source": "environment" if name in os.environ else NOT_SET}
        for name in names
    }


def _network() -> dict[str, Setting]:
    """The proxy and certificate variables that are set, in upper or lower case."""
    found = {name: os.environ.get(name) or os.environ.get(name.lower()) for name in _NETWORK}
    return {name: {"value": without_user(value), "source": "environment"} for name, value in found.items() if value}


def _service() -> dict[str, Setting]:
    """The settings that `remotelr serve` would use in this shell."""
    from remotelr_service.settings import SECRETS, read_settings, shown_url, variable_of

    settings = read_settings()
    shown: dict[str, Setting] = {}
    for name in type(settings).model_fields:
        value: Any = getattr(settings, name)
        variable = variable_of(name)
        source = next((each for each in (variable, f"{variable}_FILE") if each in os.environ), "default")
        if name == "database_url":
            value = shown_url(value)
        elif name in SECRETS:
            value = None if value is None else masked(str(value))
        elif isinstance(value, tuple):
            value = ", ".join(value) or None
        shown[name] = {"value": None if value is None else str(value), "source": source}
    return shown


def masked(secret: str) -> str:
    """The secret's prefix, such as `rlr_`, and nothing else of it."""
    prefix, mark, rest = secret.partition("_")
    return f"{prefix}_…" if mark and len(rest) >= 16 and len(prefix) <= 10 else "…"


def _page(sections: Mapping[str, Mapping[str, Setting]]) -> Any:
    page = output.table("setting", "value", "source")
    for section, settings in sections.items():
        if settings:
            page.add_row(section, style="bold")
        for name, setting in settings.items():
            style = "dim" if setting["source"] in ("default", NOT_SET) else None
            page.add_row(f"  {name}", output.safe(setting["value"] or ""), setting["source"] or "", style=style)
    return page
