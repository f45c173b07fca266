"""Queries on the runs of a selector. The caller owns the transaction; no query commits."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from remotelr.rules import metrics_from_json
from remotelr_service.db.queries.runs import select_runs
from remotelr_service.db.rows import from_text
from remotelr_service.db.tables import events, runs


def list_keys(
    connection: Connection,
    *,
    experiment: str | None,
    status: str | None,
    tags: Mapping[str, str],
    after: str | None,
    limit: int,
) -> list[str]:
    """Up to `limit` keys above `after` of runs that meet every condition, in order."""
    query = select_runs(runs.c.key, experiment=experiment, status=status, tags=tags, after=after, limit=limit)
    return list(connection.execute(query).scalars())


def list_keys_among(
    connection: Connection, keys: Sequence[str], *, experiment: str | None, status: str | None, tags: Mapping[str, str]
) -> set[str]:
    """Those of `keys` whose runs meet every condition."""
    query = select_runs(runs.c.key, experiment=experiment, status=status, tags=tags)
    query = query.where(runs.c.key.in_(keys))
    return set(connection.execute(query).scalars())


def list_unknown(connection: Connection, keys: Collection[str]) -> set[str]:
    """Those of `keys` without a run."""
    return set(keys) - set(connection.execute(select(runs.c.key).where(runs.c.key.in_(keys))).scalars())


def last_metrics(connection: Connection, keys: Sequence[str]) -> dict[str, dict[str, float]]:
    """The metrics of the last report of each run, from any rank, by key. A run without a report is left out."""
    of_run = events.alias("of_run")
    newest = (
        select(of_run.c.seq)
        .where(of_run.c.run_id == runs.c.id, of_run.c.kind == "report", of_run.c.superseded_by.is_(None))
        # Backwards from the end of the log to the first report: a few rows.
        .order_by(of_run.c.seq.desc())
        .limit(1)
        .correlate(runs)
        .scalar_subquery()
    )
    query = (
        select(runs.c.key, events.c.payload)
        .select_from(runs)
        .join(events, (events.c.run_id == runs.c.id) & (events.c.seq == newest))
        .where(runs.c.key.in_(keys))
    )
    return {key: _metrics(payload) for key, payload in connection.execute(query)}


def _metrics(payload: str) -> dict[str, float]:
    document: dict[str, Any] = from_text(payload)
    return dict(metrics_from_json(document["metrics"]))
