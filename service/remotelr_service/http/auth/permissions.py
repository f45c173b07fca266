"""The scopes of each call: a caller needs one of them. `admin` contains all scopes.

A call without a row needs the scope `admin`; a test fails for a missing row.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from remotelr_service.http.auth.callers import Scope

Rights = AbstractSet[Scope]

# No token needed: these calls show the state of the service and nothing about runs.
OPEN: Final[Rights] = frozenset()
ANY: Final[Rights] = frozenset({"report", "view"})
TRAIN: Final[Rights] = frozenset({"report"})
TRAIN_OR_OPERATE: Final[Rights] = frozenset({"report", "operate"})
# A token of the scope `report` reads only its own runs, so it has no access to calls that list runs.
SEE_ONE: Final[Rights] = frozenset({"report", "view"})
SEE_MANY: Final[Rights] = frozenset({"view"})
OPERATE: Final[Rights] = frozenset({"operate"})
ADMIN: Final[Rights] = frozenset({"admin"})

RIGHTS: Final[Mapping[str, Rights]] = {
    "livez": OPEN,
    "readyz": OPEN,
    "get_metrics": OPEN,
    "get_version": ANY,
    # Policies: these calls store nothing and show nothing about runs.
    "preview_policy": ANY,
    "get_policy_schema": ANY,
    # Training.
    "put_run": TRAIN_OR_OPERATE,
    "begin_attempt": TRAIN,
    "report": TRAIN,
    "report_batch": TRAIN,
    "get_decision": SEE_ONE,
    "finish_run": TRAIN_OR_OPERATE,
    # Reading.
    "get_run": SEE_ONE,
    "get_history": SEE_ONE,
    "list_events": SEE_ONE,
    "stream_run": SEE_ONE,
    "get_decision_of_epoch": SEE_ONE,
    "get_replay_policy": SEE_ONE,
    "what_if": SEE_ONE,
    "list_commands": SEE_ONE,
    "get_command": SEE_ONE,
    "list_runs": SEE_MANY,
    "stream_runs": SEE_MANY,
    "list_experiments": SEE_MANY,
    "get_experiment": SEE_MANY,
    "get_bulk_command": SEE_MANY,
    # Operating.
    "command": OPERATE,
    "bulk_command": OPERATE,
    "tag_run": OPERATE,
    # Limits for operators, and irreversible actions.
    "put_experiment": ADMIN,
    "delete_run": ADMIN,
    "create_token": ADMIN,
    "list_tokens": ADMIN,
    "revoke_token": ADMIN,
    "list_audit": ADMIN,
}
