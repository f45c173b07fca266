"""`remotelr runs watch`: a table of runs that updates itself.

An event of the service's stream triggers an update; without a stream there is one every few seconds. Each update
fetches new reports only.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from remotelr.errors import RemoteLRError, ServiceRefused, ServiceUnreachable
from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import Json, ServiceClient, connect, run_path
from remotelr_service.cli.support.run_data import (
    effective,
    losses_of,
    main_metric,
    progress,
    rates_of,
    selected,
    seq_before,
    status_text,
)

# Epochs in a sparkline.
_SPARKS = 16
MAX_RUNS = 200

# A stream may have many events a second.
_MIN_PAUSE_S = 0.25

_NUMBERS = ("epoch", "rate", "loss")


@dataclass(slots=True)
class Watched:
    """A run and its newest reports, as last fetched."""

    run: Json
    reports: list[Json] = field(default_factory=list)
    seq: int = 0

    def update(self, service: ServiceClient, run: Json) -> None:
        """Store the run's new state and fetch its new reports."""
        seq = run["decision"]["seq"]
        if seq != self.seq:
            after = self.reports[-1]["seq"] if self.reports else seq_before(run, _SPARKS)
            new = list(service.pages(run_path(run["run"], "history"), "reports", after=after))
            if run["attempt"] != self.run["attempt"]:
                # A rewind may have superseded reports that are stored here.
                new, self.reports = list(service.pages(run_path(run["run"], "history"), "reports")), []
            self.reports = [*self.reports, *new]
        self.run, self.seq = run, seq

    @property
    def curve(self) -> list[Json]:
        """The effective reports, one per epoch."""
        return effective(self.reports)


class Watch:
    """The watched runs: those with the given keys, or those that the selection matches."""

    def __init__(self, service: ServiceClient, keys: list[str], selection: dict[str, Any]) -> None:
        self._service = service
        self._keys = keys
        self._selection = selection
        self._known: dict[str, Watched] = {}

    def update(self) -> list[Watched]:
        """All watched runs in their current state. Raises ServiceRefused and ServiceUnreachable."""
        seen = []
        for run in self._runs():
            watched = self._known.setdefault(run["run"], Watched(run))
            watched.update(self._service, run)
            seen.append(watched)
        return seen

    def _runs(self) -> list[Json]:
        if self._keys:
            return [self._service.get(run_path(key)) for key in self._keys]
        return selected(self._service, **self._selection, limit=MAX_RUNS)


def once(url: str | None, keys: list[str], selection: dict[str, Any], *, as_json: bool) -> None:
    """Print the runs once."""
    with connect(url) as service:
        seen = Watch(service, keys, selection).update()
    output.show(document(seen), as_json, lambda: table(seen))


def follow(
    url: str | None, keys: list[str], selection: dict[str, Any], *, every_s: float, as_json: bool, to_the_end: bool
) -> None:
    """Print the runs again and again until Ctrl-C; with `to_the_end`, until all have ended.

    every_s: longest time between updates. As JSON, each update is one line. If the service is unreachable, the old
    state is shown with the reason, and the next update tries again.
    """
    with connect(url) as service, _new_events(url, keys, selection) as news, _screen(as_json) as show:
        watch = Watch(service, keys, selection)
        seen = watch.update()
        show(seen, None)
        while not (to_the_end and all(each.run["status"] != "running" for each in seen)):
            news.wait(every_s)
            time.sleep(_MIN_PAUSE_S)
            news.clear()
            failure = None
            try:
                seen = watch.update()
            except ServiceUnreachable as error:
                failure = error.reason
            show(seen, failure)


@contextmanager
def _screen(as_json: bool) -> Iterator[Any]:
    """A function that shows an update: as a line of JSON, in a live table, or without a terminal as a new table."""
    if as_json:
        yield lambda seen, failure: output.print_line({**document(seen), "trouble": failure})
        return
    from rich.live import Live

    console = output.console()
    if not console.is_terminal:
        yield lambda seen, failure: output.print_drawn(_page(seen, failure))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda seen, failure: live.update(_page(seen, failure), refresh=True)


@contextmanager
def _new_events(url: str | None, keys: list[str], selection: dict[str, Any]) -> Iterator[threading.Event]:
    """A flag that is set by every event of the runs' stream."""
    news, ending = threading.Event(), threading.Event()
    # A daemon, because it may block in a read when the block ends.
    threading.Thread(
        target=_listen, args=(url, keys, selection, news, ending), name="remotelr-stream", daemon=True
    ).start()
    try:
        yield news
    finally:
        ending.set()


def _listen(
    url: str | None, keys: list[str], selection: dict[str, Any], news: threading.Event, ending: threading.Event
) -> None:
    """Set `news` for each event until `ending`. Returns if the service rejects the stream."""
    path = run_path(keys[0], "stream") if len(keys) == 1 else "/v1/stream"
    tag = selection.get("tag") or [None]
    params = {} if keys else {"experiment": selection.get("experiment"), "tag": tag[0]}
    while not ending.is_set():
        try:
            with connect(url) as service, service.stream(path, **params) as lines:
                for line in lines:
                    if line.startswith("data:"):
                        news.set()
        except ServiceRefused:
            return
        except (RemoteLRError, RuntimeError):
            # RuntimeError: httpx starts no thread while the interpreter exits.
            ending.wait(2.0)


def document(seen: list[Watched]) -> Json:
    """The runs as JSON."""
    return {"runs": [{**each.run, "recent": each.curve[-_SPARKS:]} for each in seen]}


def table(seen: list[Watched]) -> Any:
    """The runs as a table."""
    made = output.table("run", "status", "epoch", "rate", "rates", "loss", "losses", "by", "updated", right=_NUMBERS)
    for each in seen:
        run, curve = each.run, each.curve
        losses = losses_of(curve, main_metric(run, curve))
        rates = [*rates_of(curve), run["learning_rate"]]
        made.add_row(
            run["run"],
            output.status(status_text(run)),
            progress(run),
            output.rate(run["learning_rate"]),
            output.spark(rates, _SPARKS, logarithmic=True),
            output.measured(losses[-1]) if losses else "",
            output.spark(losses, _SPARKS),
            run["decision"]["reason"],
            output.ago(run["updated_at"]),
        )
    return made


def _page(seen: list[Watched], failure: str | None) -> Any:
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [table(seen) if seen else Text("no runs", "dim")]
    if failure is not None:
        parts.append(Text(output.safe(f"the service does not respond: {failure}"), "red"))
    return Group(*parts)
