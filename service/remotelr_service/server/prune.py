"""Synchronous pruning for the command line."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TypeVar

from remotelr_service.features.runs.pruning import PruneFilter, list_stale, list_stale_bulk, prune, prune_bulk
from remotelr_service.http.context import Context

T = TypeVar("T")

_BY = "remotelr db prune"


def prune_runs(ctx: Context, stale: PruneFilter, *, dry_run: bool) -> Iterator[str]:
    """Delete the runs; yields each key after its deletion is committed. A dry run yields the keys only."""
    if not dry_run:
        for keys in _each(prune(ctx.writer, ctx.reads, stale, by=_BY)):
            yield from keys
        return
    after: str | None = None
    while keys := list_stale(ctx.reads, stale, after):
        yield from keys
        after = keys[-1]


def prune_bulk_commands(ctx: Context, stale: PruneFilter, *, dry_run: bool) -> Iterable[int]:
    """Delete the bulk commands; yields each id after its deletion is committed. A dry run yields the ids only."""
    if dry_run:
        return list_stale_bulk(ctx.reads, stale)
    return _each(prune_bulk(ctx.writer, ctx.reads, stale, by=_BY))


def _each(gone: AsyncIterator[T]) -> Iterator[T]:
    with asyncio.Runner() as runner:
        while True:
            try:
                yield runner.run(_next(gone))
            except StopAsyncIteration:
                return


async def _next(gone: AsyncIterator[T]) -> T:
    return await anext(gone)
