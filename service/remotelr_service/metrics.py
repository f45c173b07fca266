"""Prometheus metrics of the service. docs/operations.md lists the ones to watch.

Every label has a closed set of values. Names chosen by users, such as runs, are never labels: each of 100,000 runs
would be a series.
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
    """The metrics of one service; two services in one process count separately."""

    content_type: ClassVar[str] = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        # The `_created` series would double the page.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types
        self._registry = CollectorRegistry()
        reports = self._counter("remotelr_reports", "Reports answered, by outcome.", "outcome")
        decisions = self._counter("remotelr_decisions", "Decisions made, by reason.", "reason")
        # All series exist from the start: a series that appears with its first event hides it from rate().
        self._reports = {outcome: reports.labels(outcome) for outcome in get_args(Outcome)}
        self._decisions = {reason: decisions.labels(reason) for reason in get_args(Reason)}
        self._requests = self._counter("remotelr_http_requests", "Requests answered.", "method", "route", "status")
        self._durations = self._histogram(
            "remotelr_http_request_duration_seconds",
            "Seconds from a request's head to its response.",
            _SECONDS,
            "method",
            "route",
        )
        self._by_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._rejected = self._counter("remotelr_http_requests_rejected", "Requests rejected by the full queue (503).")
        self._group_sizes = self._histogram(
            "remotelr_writer_group_size", "Actions per write transaction.", _GROUP_SIZES
        )
        self._transactions = self._histogram(
            "remotelr_writer_transaction_duration_seconds", "Seconds from BEGIN to the end of COMMIT.", _SECONDS
        )
        refusals = self._counter("remotelr_refusals", "Requests refused by the access gate, by code.", "code")
        self._refusals = {code: refusals.labels(code) for code in get_args(RefusalCode)}
        ProcessCollector(registry=self._registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request. route: the path template, never the path."""
        key = (method, route, status)
        found = self._by_request.get(key)
        if found is None:
            known = method if method in _METHODS else "other"
            found = (self._requests.labels(known, route, str(status)), self._durations.labels(known, route))
            if known == method:
                self._by_request[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def rejected(self) -> None:
        """Count a request that the full queue rejected."""
        self._rejected.inc()

    def refusal(self, code: RefusalCode) -> None:
        """Count a request that the access gate refused."""
        self._refusals[code].inc()

    def report(self, outcome: Outcome) -> None:
        """Count an answered report."""
        self._reports[outcome].inc()

    def answer(self, answer: Decision | Waiting) -> None:
        """Count a report by its answer, and the decision."""
        if isinstance(answer, Waiting):
            self.report("waiting")
            return
        self.report("replayed" if answer.replayed else "decided")
        self.decision(answer)

    def decision(self, decision: Decision) -> None:
        """Count a decision, unless it repeats an earlier one."""
        if not decision.replayed:
            self._decisions[decision.reason].inc()

    def group(self, size: int, seconds: float) -> None:
        """Count a committed write transaction of `size` actions."""
        self._group_sizes.observe(size)
        self._transactions.observe(seconds)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read at each scrape."""
        Gauge(name, help_text, registry=self._registry).set_function(value)

    def set_build_info(self, release: str) -> None:
        """Add the gauge whose labels are the release and the version of the rules."""
        labels = ["release", "rules_version"]
        build = Gauge("remotelr_build_info", "1, with the release as label.", labels, registry=self._registry)
        build.labels(release, str(RULES_VERSION)).set(1)

    def page(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self._registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, help_text, labels, buckets=buckets, registry=self._registry)
