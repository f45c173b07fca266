"""What each call needs: the scopes of which the caller has to hold one. `admin` holds them all.

A call that is not in this table takes an admin; a test asks for its row.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from remotelr_service.http.auth.callers import Scope

Rights = AbstractSet[Scope]

# No token at all: who asks these asks how we are, and is told nothing of runs.
OPEN: Final[Rights] = frozenset()
ANY: Final[Rights] = frozenset({"report", "view"})
TRAIN: Final[Rights] = frozenset({"report"})
TRAIN_OR_OPERATE: Final[Rights] = frozenset({"report", "operate"})
# `report` sees the runs it is kept to; a call that is about no single run would show others.
SEE_ONE: Final[Rights] = frozenset({"report", "view"})
SEE_MANY: Final[Rights] = frozenset({"view"})
OPERATE: Final[Rights] = frozenset({"operate"})
ADMIN: Final[Rights] = frozenset({"admin"})

RIGHTS: Final[Mapping[str, Rights]] = {
    "livez": OPEN,
    "readyz": OPEN,
    "get_metrics": OPEN,
    "get_version": ANY,
    # Policies: nothing is stored, and nothing of a run is told.
    "preview_policy": ANY,
    "get_policy_schema": ANY,
    # Training.
    "put_run": TRAIN_OR_OPERATE,
    "begin_attempt": TRAIN,
    "report": TRAIN,
    "report_batch": TRAIN,
    "get_decision": SEE_ONE,
    "finish_run": TRAIN_OR_OPERATE,
    # Looking.
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
    # What bounds operators, and what cannot be had back.
    "put_experiment": ADMIN,
    "delete_run": ADMIN,
    "create_token": ADMIN,
    "list_tokens": ADMIN,
    "revoke_token": ADMIN,
    "list_audit": ADMIN,
}
