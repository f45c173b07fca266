"""The concurrency limiter: slots, the queue and its timeout."""

import asyncio

from remotelr_service.http.admission import ConcurrencyLimiter


def test_places_are_taken_as_long_as_there_are_any():
    async def ask() -> list[bool]:
        limiter = ConcurrencyLimiter(2, timeout_s=0.01)
        come = []
        for _ in range(3):
            come.append(await limiter.acquire())
            limiter.__enter__()
        return come

    assert [True, True, False] == asyncio.run(ask())


def test_the_queue_is_first_in_first_out():
    async def ask() -> list[int]:
        limiter, order = ConcurrencyLimiter(1, timeout_s=60.0), []

        async def request(number: int) -> None:
            assert await limiter.acquire()
            with limiter:
                order.append(number)
                await asyncio.sleep(0.001)

        await asyncio.gather(*(request(number) for number in range(20)))
        assert (0, 0) == (limiter.taken, limiter.queue_length)
        return order

    assert list(range(20)) == asyncio.run(ask())


def test_never_more_are_worked_on_than_there_are_places():
    async def ask() -> int:
        limiter, most = ConcurrencyLimiter(3, timeout_s=60.0), 0

        async def request() -> None:
            nonlocal most
            assert await limiter.acquire()
            with limiter:
                most = max(most, limiter.taken)
                await asyncio.sleep(0.001)

        await asyncio.gather(*(request() for _ in range(50)))
        return most

    assert 3 == asyncio.run(ask())


def test_a_waiting_request_releases_its_slot():
    async def ask() -> tuple[bool, int, int]:
        limiter = ConcurrencyLimiter(1, timeout_s=60.0)
        assert await limiter.acquire()
        with limiter:
            following = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0)
            with limiter.released():
                waiting = limiter.waiting
                admitted = await following
        return admitted, waiting, limiter.taken

    assert (True, 1, 0) == asyncio.run(ask())


def test_when_all_in_line_have_given_up_the_next_one_is_admitted_at_once():
    async def ask() -> list[bool]:
        limiter = ConcurrencyLimiter(1, timeout_s=0.01)
        with limiter:
            late = await asyncio.gather(*(limiter.acquire() for _ in range(5)))
        return [*late, await limiter.acquire()]

    assert [*[False] * 5, True] == asyncio.run(ask())


def test_a_cancelled_request_in_the_queue_blocks_no_other():
    async def ask() -> bool:
        limiter = ConcurrencyLimiter(1, timeout_s=60.0)
        with limiter:
            gone = asyncio.create_task(limiter.acquire())
            following = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.sleep(0)
        return await following

    assert asyncio.run(ask())
