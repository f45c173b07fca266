"""Synchronous pruning for the command line."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

from remotelr_service.features.runs.pruning import PruneFilter, list_stale, list_stale_bulk, prune, prune_bulk
from remotelr_service.http.context import Context

T = TypeVar("T")

_BY = "remotelr db prune"


def keys_to_prune(ctx: Context, stale: PruneFilter) -> Iterator[str]:
    """Keys of the runs that pruning would delete."""
    after: str | None = None
    while keys := list_stale(ctx.reads, stale, after):
        yield from keys
        after = keys[-1]


def pruned(ctx: Context, stale: PruneFilter) -> Iterator[str]:
    """Delete the runs; yields each key after its deletion is committed."""
    for keys in _each(prune(ctx.writer, ctx.reads, stale, by=_BY)):
        yield from keys


def bulk_to_prune(ctx: Context, stale: PruneFilter) -> Iterator[int]:
    """Ids of the bulk commands that pruning would delete."""
    yield from list_stale_bulk(ctx.reads, stale)


def bulk_pruned(ctx: Context, stale: PruneFilter) -> Iterator[int]:
    """Delete the bulk commands; yields each id after its deletion is committed."""
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
