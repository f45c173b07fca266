"""The process of the long evaluations: `python -m remotelr_service.evaluation.worker`.

One JSON object a line: `{"task", "arguments", "cpu_limit_s"}` on stdin, `{"result"}` or `{"error"}` on stdout.
It has the lowest priority: on a busy machine reports come first. It ends with its stdin, so it does not outlive the
service, and a timer ends it when a task takes more CPU time than it may.
"""

import json
import os
import signal
import sys
from typing import Any

from remotelr.rules import InvalidPolicy, RulesError
from remotelr_service.evaluation.tasks import TASKS

_LOWEST_PRIORITY = 19


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_LOWEST_PRIORITY)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # The default action of its signal ends the process, in the middle of whatever it evaluates.
        signal.setitimer(signal.ITIMER_PROF, request["cpu_limit_s"])
        sys.stdout.buffer.write(json.dumps(_answer(request)).encode() + b"\n")
        sys.stdout.buffer.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": TASKS[request["task"]](request["arguments"])}
    except InvalidPolicy as error:
        return {"error": {"code": error.code, "message": error.reason, "path": error.path}}
    except RulesError as error:
        return {"error": {"code": error.code, "message": error.message, "details": dict(error.details)}}


if __name__ == "__main__":
    main()
