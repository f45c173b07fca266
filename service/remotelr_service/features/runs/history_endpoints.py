"""Endpoints of a run's history: reports as JSON or CSV, and the log."""

import csv
from collections.abc import Iterator
from io import StringIO
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from remotelr.rules import describe
from remotelr.rules.run.events import Kind
from remotelr_service.features.runs import history
from remotelr_service.features.runs.schemas import EpochAnswer, EventAnswer, EventPage, HistoryPage
from remotelr_service.http.context import Context
from remotelr_service.http.dependencies import Configured, Ctx, run_until_disconnect
from remotelr_service.http.fields import MAX_PAGE, AfterSequence, Limit, OptionalLimit, RunKey, Wait
from remotelr_service.http.problems import described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1/runs/{run}", tags=["history"], route_class=StrictRoute)

# The maximum of a CSV table without `limit`. Spreadsheets have a similar maximum.
MAX_ROWS = 100_000

Format = Annotated[
    Literal["json", "csv"] | None,
    Query(alias="format", description="Absent: the header Accept decides; `text/csv` gives CSV."),
]

OneKind = Annotated[Kind | None, Query(description="Only events of this kind.")]


@router.get(
    "/history",
    operation_id="get_history",
    responses={
        200: {"model": HistoryPage, "content": {"text/csv": {"schema": {"type": "string"}}}},
        **described("run_not_found", "invalid_request", "database_unavailable"),
    },
    response_model=None,
)
def get_history(
    *,
    run: RunKey,
    request: Request,
    ctx: Ctx,
    after: AfterSequence = 0,
    limit: OptionalLimit = None,
    form: Format = None,
) -> HistoryPage | Response:
    """The run's reports in order of arrival. Superseded reports are marked.

    JSON has pages of 100 reports by default. CSV has all reports by default, with one column for each metric.
    """
    wants_csv = form == "csv" or (form is None and "text/csv" in request.headers.get("accept", ""))
    if wants_csv:
        return Response(_table(list(_rows(ctx, run, after, limit))), media_type="text/csv")
    rows = [_epoch(row) for row in history.history(ctx.reads, run, after, (limit or 100) + 1)]
    shown = rows[: limit or 100]
    return HistoryPage(run=run, reports=shown, next=shown[-1].seq if len(rows) > len(shown) else None)


@router.get(
    "/events",
    operation_id="list_events",
    responses=described("run_not_found", "invalid_request", "database_unavailable"),
)
async def list_events(
    *,
    run: RunKey,
    request: Request,
    ctx: Ctx,
    settings: Configured,
    after: AfterSequence = 0,
    limit: Limit = 100,
    kind: OneKind = None,
    wait: Wait = 0.0,
) -> EventPage:
    """The run's events, oldest first: reports, decisions, attempts, commands, policies.

    With `wait`, the service answers when there is a new event. After `wait` seconds the answer is empty.
    """
    if wait > 0:
        wait_s = min(wait, settings.wait_limit_s)
        await run_until_disconnect(
            request, history.wait_for_events(ctx.reads, ctx.waiters, run, after, wait_s=wait_s, kind=kind)
        )
    found = await run_in_threadpool(history.events, ctx.reads, run, after, limit + 1, kind)
    shown = [EventAnswer.read(event, sentence=describe(event), created_at=at) for event, at in found[:limit]]
    return EventPage(run=run, events=shown, next=shown[-1].seq if len(found) > limit else None)


def _epoch(row: history.HistoryRow) -> EpochAnswer:
    decision, payload = row.decision, row.event.payload
    return EpochAnswer.read(
        row,
        row.event,
        metrics=payload["metrics"],
        used_learning_rate=payload.get("learning_rate"),
        next_learning_rate=None if decision is None else decision.learning_rate,
        reason=None if decision is None else decision.reason,
        action=None if decision is None else decision.action,
    )


def _rows(ctx: Context, run: str, after: int, limit: int | None) -> Iterator[EpochAnswer]:
    remaining = MAX_ROWS if limit is None else limit
    while remaining > 0:
        page = history.history(ctx.reads, run, after, min(remaining, MAX_PAGE))
        yield from map(_epoch, page)
        if len(page) < MAX_PAGE:
            return
        remaining, after = remaining - len(page), page[-1].event.seq


def _table(rows: list[EpochAnswer]) -> str:
    """The rows as CSV. Every column name begins with a letter, so that no spreadsheet reads it as a formula."""
    columns = [name for name in EpochAnswer.model_fields if name != "metrics"]
    metrics = sorted({name for row in rows for name in row.metrics})
    table = StringIO()
    writer = csv.writer(table)
    writer.writerow([*columns, *metrics])
    for row in rows:
        members = row.model_dump(mode="json")
        writer.writerow([*(members[name] for name in columns), *(row.metrics.get(name) for name in metrics)])
    return table.getvalue()
