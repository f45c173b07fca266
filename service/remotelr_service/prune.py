"""Pruning from the command line: the actions, asked one after the other."""

import asyncio
from collections.abc import AsyncIterator, Iterator

from remotelr_service.actions.pruning import Stale, list_stale, prune
from remotelr_service.actions.resources import Resources

_BY = "remotelr db prune"


def keys_to_prune(resources: Resources, stale: Stale) -> Iterator[str]:
    """Which runs would go."""
    after: str | None = None
    while keys := list_stale(resources.reads, stale, after):
        yield from keys
        after = keys[-1]


def pruned(resources: Resources, stale: Stale) -> Iterator[str]:
    """Takes them away; gives each when it is gone for good."""
    gone = prune(resources.writer, resources.reads, stale, by=_BY)
    with asyncio.Runner() as runner:
        while True:
            try:
                yield from runner.run(_next(gone))
            except StopAsyncIteration:
                return


async def _next(gone: AsyncIterator[list[str]]) -> list[str]:
    return await anext(gone)
