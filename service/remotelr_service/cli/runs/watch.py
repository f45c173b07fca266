"""`remotelr runs watch`: runs as they train, in a table that keeps itself up to date.

Where the service has an event stream it is the doorbell: something happened, look again. Without one the
runs are looked at every few seconds. What is new is asked for, and nothing twice.
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
    counting,
    losses_of,
    main_metric,
    place_before,
    progress,
    rates_of,
    selected,
    status_text,
)

# Eight sparks are a glance; more than so many runs are no table for people.
_SPARKS = 16
MOST_RUNS = 200

# A stream may ring many times a second: who looks needs it less often.
_LEAST_PAUSE_S = 0.25


@dataclass(slots=True)
class Watched:
    """A run and its newest epochs, as far as they are known here."""

    run: Json
    reports: list[Json] = field(default_factory=list)
    seq: int = 0

    def learn(self, desk: ServiceClient, run: Json) -> None:
        """Take the run as it is now, and ask for the epochs that are new."""
        seq = run["decision"]["seq"]
        if seq != self.seq:
            after = self.reports[-1]["seq"] if self.reports else place_before(run, _SPARKS)
            news = list(desk.pages(run_path(run["run"], "history"), "reports", after=after))
            if run["attempt"] != self.run["attempt"]:
                # A new life may have gone back over epochs: what is known of them is not true any more.
                news, self.reports = list(desk.pages(run_path(run["run"], "history"), "reports")), []
            self.reports = [*self.reports, *news]
        self.run, self.seq = run, seq

    @property
    def curve(self) -> list[Json]:
        """One report for each epoch that counts."""
        return counting(self.reports)


class Watch:
    """What is watched: these runs, or those the service selects."""

    def __init__(self, desk: ServiceClient, keys: list[str], selection: dict[str, Any]) -> None:
        self._desk = desk
        self._keys = keys
        self._selection = selection
        self._known: dict[str, Watched] = {}

    def look(self) -> list[Watched]:
        """Everything as it is now. Raises ServiceRefused and ServiceUnreachable."""
        seen = []
        for run in self._runs():
            watched = self._known.setdefault(run["run"], Watched(run))
            watched.learn(self._desk, run)
            seen.append(watched)
        return seen

    def _runs(self) -> list[Json]:
        if self._keys:
            return [self._desk.get(run_path(key)) for key in self._keys]
        return selected(self._desk, **self._selection, limit=MOST_RUNS)


def once(url: str | None, keys: list[str], selection: dict[str, Any], *, as_json: bool) -> None:
    """Look, and print what is seen."""
    with connect(url) as desk:
        seen = Watch(desk, keys, selection).look()
    output.show(document(seen), as_json, lambda: table(seen))


def follow(
    url: str | None, keys: list[str], selection: dict[str, Any], *, every_s: float, as_json: bool, to_the_end: bool
) -> None:
    """Look again and again, until Ctrl-C, or `to_the_end`: until none of them runs.

    As JSON it is a line for every look. A service that is away for a while is waited for.
    """
    with connect(url) as desk, _doorbell(url, keys, selection) as rung, _screen(as_json) as show:
        watch, seen = Watch(desk, keys, selection), []
        seen = watch.look()
        show(seen, None)
        while not (to_the_end and all(each.run["status"] != "running" for each in seen)):
            rung.wait(every_s)
            time.sleep(_LEAST_PAUSE_S)
            rung.clear()
            trouble = None
            try:
                seen = watch.look()
            except ServiceUnreachable as error:
                trouble = error.reason
            show(seen, trouble)


@contextmanager
def _screen(as_json: bool) -> Iterator[Any]:
    """What shows a look: a live table, or where nobody could see one move, tables one below the other."""
    if as_json:

        def lines(seen: list[Watched], trouble: str | None) -> None:
            output.print_line({**document(seen), "trouble": trouble})

        yield lines
        return
    from rich.live import Live

    console = output.console()
    if not console.is_terminal:

        def tables(seen: list[Watched], trouble: str | None) -> None:
            output.print_drawn(_page(seen, trouble))

        yield tables
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda seen, trouble: live.update(_page(seen, trouble), refresh=True)


@contextmanager
def _doorbell(url: str | None, keys: list[str], selection: dict[str, Any]) -> Iterator[threading.Event]:
    """An event that is set whenever the service's stream says something of these runs."""
    rung, ending = threading.Event(), threading.Event()
    # A daemon: it may be reading when we end, and nothing of it is worth waiting for.
    threading.Thread(
        target=_listen, args=(url, keys, selection, rung, ending), name="remotelr-stream", daemon=True
    ).start()
    try:
        yield rung
    finally:
        ending.set()


def _listen(
    url: str | None, keys: list[str], selection: dict[str, Any], rung: threading.Event, ending: threading.Event
) -> None:
    """Ring for each event, until the end. A service without streams is left alone."""
    path = run_path(keys[0], "stream") if len(keys) == 1 else "/v1/stream"
    tag = selection.get("tag") or [None]
    params = {} if keys else {"experiment": selection.get("experiment"), "tag": tag[0]}
    while not ending.is_set():
        try:
            with connect(url) as desk, desk.stream(path, **params) as lines:
                for line in lines:
                    if line.startswith("data:"):
                        rung.set()
        except ServiceRefused:
            return
        except (RemoteLRError, RuntimeError):
            # RuntimeError: the interpreter ends, and takes no more threads.
            ending.wait(2.0)


def document(seen: list[Watched]) -> Json:
    """What is seen, for programs."""
    return {"runs": [{**each.run, "recent": each.curve[-_SPARKS:]} for each in seen]}


def table(seen: list[Watched]) -> Any:
    """What is seen, for people."""
    made = output.table("run", "status", "epoch", "rate", "rates", "loss", "losses", "by", "heard of", right=_NUMBERS)
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


_NUMBERS = ("epoch", "rate", "loss")


def _page(seen: list[Watched], trouble: str | None) -> Any:
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [table(seen) if seen else Text("no runs", "dim")]
    if trouble is not None:
        parts.append(Text(output.safe(f"the service does not answer: {trouble}"), "red"))
    return Group(*parts)
