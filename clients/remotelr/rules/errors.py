"""Errors of the rules.

RulesError
├── InvalidPolicy      an invalid policy; names the path in the tree
├── InvalidReport      an invalid rank or step, or a non-finite metric that the policy rejects
├── InvalidCommand     an invalid command, or a rate outside the bounds or limits
├── SeqConflict        the run has an event that the operator has not seen
├── PolicyConflict     the run exists with another policy
├── AttemptConflict    the attempt key is known for another epoch
├── StaleAttempt       a newer attempt is in force: this process must stop
├── UnknownAttempt     an attempt that this run does not have
├── ReportConflict     a retry with other metrics
├── OutOfOrder         an epoch before the newest decision that was not reported
├── ServerBehind       the trainer has decisions that this log lacks
└── RunFinished        the run is finished
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class RulesError(Exception):
    """Base of all errors. code: its name on the wire. details: members of the problem."""

    code: ClassVar[str] = "rules_error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details


class InvalidPolicy(RulesError):
    """An invalid policy. path: of the field, such as `schedule.schedules[1].factor`."""

    code = "invalid_policy"

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message, path=path)
        self.reason = message
        self.path = path

    def under(self, parent: str) -> "InvalidPolicy":
        """The same error with the path below `parent`: `factor` under `schedule` is `schedule.factor`."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return InvalidPolicy(self.reason, f"{parent}{joint}{self.path}")


class InvalidReport(RulesError):
    code = "invalid_report"


class InvalidCommand(RulesError):
    code = "invalid_command"


class SeqConflict(RulesError):
    code = "seq_conflict"


class PolicyConflict(RulesError):
    code = "policy_conflict"


class AttemptConflict(RulesError):
    code = "attempt_conflict"


class StaleAttempt(RulesError):
    code = "stale_attempt"


class UnknownAttempt(RulesError):
    code = "unknown_attempt"


class ReportConflict(RulesError):
    code = "report_conflict"


class OutOfOrder(RulesError):
    code = "out_of_order"


class ServerBehind(RulesError):
    code = "server_behind"


class RunFinished(RulesError):
    code = "run_finished"
