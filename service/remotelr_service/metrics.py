"""What the service counts of itself, and how Prometheus reads it. docs/operations.md says what to watch.

Every label takes its values from a closed set. No run, experiment, metric or anything else that a user has
named is ever one: there may be a hundred thousand of them, and each would be a series of its own.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from remotelr.rules import RULES_VERSION, Decision, Waiting
from remotelr.rules.run.decision import Reason

Outcome = Literal["decided", "replayed", "waiting", "refused", "failed"]
RefusalCode = Literal["unauthorized", "forbidden", "rate_limited", "misdirected_request", "cross_origin"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_GROUP_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The counters of one service process. Nothing of them is global: two services in one process count apart."""

    content_type: ClassVar[str] = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        # They would double the page, and nobody needs them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it ships without one
        self._registry = CollectorRegistry()
        reports = self._counter("remotelr_reports", "Reports answered, by how.", "outcome")
        decisions = self._counter("remotelr_decisions", "Decisions taken, by their reason.", "reason")
        # Made now: a counter that appears with its first event hides that event from rate().
        self._reports = {outcome: reports.labels(outcome) for outcome in get_args(Outcome)}
        self._decisions = {reason: decisions.labels(reason) for reason in get_args(Reason)}
        self._requests = self._counter("remotelr_http_requests", "Requests answered.", "method", "route", "status")
        self._durations = self._histogram(
            "remotelr_http_request_duration_seconds", "From its head to its answer.", _SECONDS, "method", "route"
        )
        self._by_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._turned_away = self._counter("remotelr_http_requests_rejected", "Stood in line too long: 503.")
        self._group_sizes = self._histogram(
            "remotelr_writer_group_size", "Actions that shared a transaction.", _GROUP_SIZES
        )
        self._transactions = self._histogram(
            "remotelr_writer_transaction_duration_seconds", "From BEGIN to the end of COMMIT.", _SECONDS
        )
        refusals = self._counter("remotelr_refusals", "Requests refused at the door, by why.", "code")
        self._refusals = {code: refusals.labels(code) for code in get_args(RefusalCode)}
        ProcessCollector(registry=self._registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered. route: its template, never its path."""
        key = (method, route, status)
        found = self._by_request.get(key)
        if found is None:
            known = method if method in _METHODS else "other"
            found = (self._requests.labels(known, route, str(status)), self._durations.labels(known, route))
            if known == method:
                self._by_request[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def turned_away(self) -> None:
        """A request stood in line too long."""
        self._turned_away.inc()

    def refusal(self, code: RefusalCode) -> None:
        """Somebody was refused at the door."""
        self._refusals[code].inc()

    def report(self, outcome: Outcome) -> None:
        """A report was answered."""
        self._reports[outcome].inc()

    def answer(self, answer: Decision | Waiting) -> None:
        """A report was answered like this."""
        if isinstance(answer, Waiting):
            self.report("waiting")
            return
        self.report("replayed" if answer.replayed else "decided")
        self.decision(answer)

    def decision(self, decision: Decision) -> None:
        """A decision was told. One that was taken before is not counted again."""
        if not decision.replayed:
            self._decisions[decision.reason].inc()

    def group(self, size: int, seconds: float) -> None:
        """A transaction of the writer was committed."""
        self._group_sizes.observe(size)
        self._transactions.observe(seconds)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Ask for a value whenever somebody reads the metrics."""
        Gauge(name, help_text, registry=self._registry).set_function(value)

    def tell_build(self, release: str) -> None:
        build = Gauge(
            "remotelr_build_info", "1, with the release.", ["release", "rules_version"], registry=self._registry
        )
        build.labels(release, str(RULES_VERSION)).set(1)

    def page(self) -> bytes:
        """All of it, in Prometheus's text format, of type `content_type`."""
        return generate_latest(self._registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self._registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, help_text, labels, buckets=buckets, registry=self._registry)
