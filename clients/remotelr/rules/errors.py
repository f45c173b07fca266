"""What can go wrong in the rules, in the domain's words. Nothing here knows of HTTP.

RulesError
├── InvalidPolicy      a policy document that cannot be one; names the path in the tree
├── InvalidReport      a report the run cannot take: rank, step or a non-finite metric it refuses
├── InvalidCommand     an order outside the policy's bounds or the limits, or one that makes no sense
├── SeqConflict        the run has moved on since the operator looked
├── PolicyConflict     the run exists with another policy
├── AttemptConflict    the attempt key is known, for another epoch
├── StaleAttempt       a newer attempt has taken over: this process must stop
├── UnknownAttempt     an attempt this run never had
├── ReportConflict     the same point, a different value
├── OutOfOrder         a hole behind the last decided epoch
├── ServerBehind       the trainer knows of decisions this log does not hold
└── RunFinished        the run takes no further reports
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class RulesError(Exception):
    """The base of all refusals. `code` is on the wire and never renamed; `details` are its members."""

    code: ClassVar[str] = "rules_error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details


class InvalidPolicy(RulesError):
    """A policy that cannot be one. `path` leads to the field, as in `schedule.schedules[1].factor`."""

    code = "invalid_policy"

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message, path=path)
        self.reason = message
        self.path = path

    def under(self, parent: str) -> "InvalidPolicy":
        """The same error seen from one level further up: `factor` under `schedule` is `schedule.factor`."""
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
