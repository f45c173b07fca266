"""Runs long evaluations in a process of their own, so that they slow neither reports nor other calls.

A thread would share the interpreter's lock with the event loop and the writer, and nothing could end it. The process
has the lowest priority, serves one task at a time, and is killed when a task takes too long or its caller is gone.
"""

import asyncio
import json
import subprocess
import sys
from contextlib import suppress
from typing import Any, Final

from remotelr.rules import InvalidPolicy, RulesError
from remotelr.rules.errors import InvalidReport
from remotelr_service.errors import EvaluationTooLong, Overloaded
from remotelr_service.evaluation.tasks import TASKS

# CPU seconds that one task may take, seconds until its caller is answered on a busy machine, and tasks that may wait.
CPU_LIMIT_S: Final = 10.0
TIMEOUT_S: Final = 60.0
QUEUE_SIZE: Final = 16

# Evaluated parts (see `remotelr.rules.policy.cost`) that may be spent outside this process, some 10 ms; and at all.
INLINE_COST: Final = 100_000
MAX_COST: Final = 400_000_000

_COMMAND: Final = (sys.executable, "-m", "remotelr_service.evaluation.worker")
_ERRORS: dict[str, type[RulesError]] = {InvalidReport.code: InvalidReport}


class Evaluator:
    """The process and the queue before it. It starts with the first task, and anew after a task that was ended."""

    def __init__(
        self, cpu_limit_s: float = CPU_LIMIT_S, timeout_s: float = TIMEOUT_S, queue_size: int = QUEUE_SIZE
    ) -> None:
        self._cpu_limit_s = cpu_limit_s
        self._timeout_s = timeout_s
        self._queue_size = queue_size
        self._waiting = 0
        self._turn = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    async def evaluate(self, task: str, arguments: dict[str, Any], *, count: int, cost: int, what: str) -> Any:
        """The result of a task, from a thread of this process where it is short.

        count: the positions that it evaluates, of `cost` parts each. what: the request's member that gives `count`.
        Raises what `run` raises, and EvaluationTooLong for more positions than any task may have.
        """
        if check_cost(count, cost, what):
            return await asyncio.to_thread(TASKS[task], arguments)
        return await self.run(task, arguments)

    async def run(self, task: str, arguments: dict[str, Any]) -> Any:
        """The result of a task of `evaluation.tasks`. If it is cancelled, the task ends.

        Raises Overloaded when too many tasks wait, EvaluationTooLong, and what the rules raise.
        """
        if self._waiting >= self._queue_size:
            raise Overloaded(f"{self._waiting} long evaluations wait, and no more fit: send the request later")
        self._waiting += 1
        try:
            async with self._turn:
                answer = await self._evaluate(task, arguments)
        finally:
            self._waiting -= 1
        if "error" in answer:
            raise _error(answer["error"])
        return answer["result"]

    async def close(self) -> None:
        """End the process at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(_reap, process)

    async def _evaluate(self, task: str, arguments: dict[str, Any]) -> dict[str, Any]:
        request = {"task": task, "arguments": arguments, "cpu_limit_s": self._cpu_limit_s}
        done = False
        try:
            async with asyncio.timeout(self._timeout_s):
                line = await asyncio.to_thread(_exchange, self._started(), json.dumps(request).encode() + b"\n")
            if not line:
                raise self._too_long(f"{self._cpu_limit_s:g} s of CPU")
            answer: dict[str, Any] = json.loads(line)
            done = True
        except TimeoutError:
            raise self._too_long(f"{self._timeout_s:g} s") from None
        finally:
            # Whatever ended it, its process is in the middle of a task: the next task gets another one.
            if not done:
                await self.close()
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        # Not by asyncio: uvloop forks, which libraries with threads of their own forbid.
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process

    @staticmethod
    def _too_long(limit: str) -> EvaluationTooLong:
        return EvaluationTooLong(
            f"the evaluation takes longer than {limit}: evaluate fewer positions at once, or use a policy with fewer "
            f"formulas and less noise"
        )


def check_cost(count: int, cost: int, what: str) -> bool:
    """Whether `count` positions of `cost` parts each are few enough to evaluate in place.

    Raises EvaluationTooLong where they are more than any evaluation may be. what: the member that gives the count.
    """
    if count * cost > MAX_COST:
        raise EvaluationTooLong(
            f"{what}: {count:,} positions of {cost:,} evaluated parts each are more than {MAX_COST:,}: evaluate "
            f"{MAX_COST // cost:,} positions or fewer at once",
            count=count,
            limit=MAX_COST // cost,
        )
    return count * cost <= INLINE_COST


def _exchange(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    """The line that answers the request; empty if the process ends before."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(request)
        process.stdin.flush()
        return process.stdout.readline()
    except OSError:
        return b""


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            # A request that was not read is still in the buffer of stdin.
            pipe.close()  # type: ignore[union-attr]  # both were asked for


def _error(found: dict[str, Any]) -> RulesError:
    if found["code"] == InvalidPolicy.code:
        return InvalidPolicy(found["message"], found["path"])
    return _ERRORS.get(found["code"], RulesError)(found["message"], **found["details"])
