"""Commands: their table, their members and their JSON.

`commands.execute` applies a command to a run. `state.Override` is the part of a command that is in force.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from remotelr.rules.policy.codec import policy_from_json, policy_to_json
from remotelr.rules.policy.limits import Limits
from remotelr.rules.policy.policy import Policy
from remotelr.rules.run.events import Event

OperatorCommandType = Literal[
    "set_learning_rate",
    "scale",
    "release",
    "pause",
    "resume_schedule",
    "replace_policy",
    "extend",
    "stop",
    "note",
    "cancel",
]
# Only the service sends `limits`.
CommandType = Literal[OperatorCommandType, "limits"]
Mode = Literal["pin", "rebase", "one_shot"]
OverrideKind = Literal["pin", "one_shot"]
StateMode = Literal["keep", "reset"]
Continuity = Literal["keep_lr", "keep_fraction", "restart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """What distinguishes one command type from the others.

    fields: the members that it takes beside those of every command. required: the member that it needs.
    rate_field: the member that determines the new rate, which bounds and limits restrict.
    exempt_from_limits: `max_change` does not apply.
    immediate: it is applied when it is stored, and cannot be superseded. cancellable: a queued one can be cancelled.
    replaced_by: the later commands that supersede a queued one.
    policy_mode: the `mode` of its `policy` event; None if it changes no policy.
    """

    fields: tuple[str, ...] = ()
    required: str | None = None
    rate_field: str | None = None
    exempt_from_limits: bool = False
    immediate: bool = False
    cancellable: bool = True
    replaced_by: tuple[CommandType, ...] = ()
    policy_mode: Literal["replace", "extend"] | None = None


COMMANDS: Mapping[CommandType, CommandSpec] = {
    "set_learning_rate": CommandSpec(
        fields=("value", "mode", "until"), rate_field="value", replaced_by=("set_learning_rate", "release")
    ),
    "scale": CommandSpec(fields=("factor", "value"), rate_field="factor", replaced_by=("set_learning_rate", "release")),
    "release": CommandSpec(
        fields=("only",), exempt_from_limits=True, replaced_by=("set_learning_rate", "scale", "pause", "stop")
    ),
    "pause": CommandSpec(exempt_from_limits=True, replaced_by=("resume_schedule", "release")),
    "resume_schedule": CommandSpec(exempt_from_limits=True, replaced_by=("pause", "release")),
    "replace_policy": CommandSpec(
        fields=("policy", "state"), required="policy", replaced_by=("replace_policy",), policy_mode="replace"
    ),
    "extend": CommandSpec(fields=("total", "continuity"), required="total", policy_mode="extend"),
    "stop": CommandSpec(exempt_from_limits=True, replaced_by=("release",)),
    "note": CommandSpec(fields=("text",), required="text", immediate=True, cancellable=False),
    "cancel": CommandSpec(fields=("seq",), required="seq", exempt_from_limits=True, immediate=True, cancellable=False),
    "limits": CommandSpec(fields=("limits",), exempt_from_limits=True, cancellable=False, replaced_by=("limits",)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """The end of a pin or a one-shot: one of the two members.

    epoch: the first epoch without the override.
    time: ISO 8601 with an offset. The rules have no clock: see `expired_override`.
    """

    epoch: int | None = None
    time: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"epoch": self.epoch} if self.time is None else {"time": self.time}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of an operator; it takes effect at the first undecided epoch.

    set_learning_rate (value, mode, until): `pin` holds the rate. `one_shot` holds it for one epoch or until `until`,
        then restores the earlier override. `rebase` scales the schedule so that it continues from the rate.
    scale (factor; `value` in older logs): multiplies the rate in force.
    release: removes overrides and a stop. With `only` it ends the pin or the one-shot alone (sent by the service at
        the time of an `until`).
    pause: holds the rate in force and stops the schedule's clock. resume_schedule: starts the clock again.
    replace_policy (policy, state): sets another policy. The schedule's state is kept if the trees have the same
        shape, or `reset`.
    extend (total, continuity): sets the length of the run to `total` epochs and stretches the rest of its curve.
    stop: the next decision has the action `stop`. note (text): stores a remark.
    cancel (seq): removes the command with this number if it is not delivered.
    limits (limits): sets the limits of the experiment, None for none (sent by the service).

    key: a command with a known key is a retry and is applied once.
    expected_seq: the newest event that the operator saw; SeqConflict if the log has a newer one.
    """

    # In the order in which events store them.
    type: CommandType
    value: float | None = None
    factor: float | None = None
    mode: Mode = "pin"
    only: OverrideKind | None = None
    state: StateMode = "keep"
    total: int | None = None
    continuity: Continuity = "keep_lr"
    text: str | None = None
    seq: int | None = None
    actor: str | None = None
    reason: str | None = None
    until: Until | None = None
    policy: Policy | None = None
    limits: Limits | None = None
    expected_seq: int | None = None
    key: str | None = None

    @property
    def spec(self) -> CommandSpec:
        return COMMANDS[self.type]

    @property
    def multiplier(self) -> float | None:
        """The factor of a `scale`."""
        return self.value if self.factor is None else self.factor


_DEFAULTS = {field.name: field.default for field in fields(Command) if field.name not in ("expected_seq", "key")}


def command_to_json(command: Command) -> dict[str, Any]:
    """The members that differ from their defaults, without `key` and `expected_seq`."""
    members = {name: getattr(command, name) for name in _DEFAULTS}
    document = {name: value for name, value in members.items() if value is not None and value != _DEFAULTS[name]}
    if command.until is not None:
        document["until"] = command.until.to_json()
    if command.policy is not None:
        document["policy"] = policy_to_json(command.policy)
    if command.limits is not None:
        document["limits"] = command.limits.to_json()
    return document


def command_from_json(document: Mapping[str, Any], key: str | None = None) -> Command:
    """The inverse of `command_to_json`. Raises TypeError for an unknown member, and InvalidPolicy."""
    members = dict(document)
    if "until" in members:
        members["until"] = Until(**members["until"])
    if "policy" in members:
        members["policy"] = policy_from_json(members["policy"])
    if "limits" in members:
        members["limits"] = Limits.from_json(members["limits"])
    return Command(key=key, **members)


def is_command(event: Event) -> bool:
    """Whether the event stores a command: kind `command`, or `policy` by replace_policy or extend."""
    return event.kind == "command" or (event.kind == "policy" and "command" in event.payload)


def command_from_payload(event: Event) -> Command:
    """The command of an event for which `is_command` is true."""
    if event.kind == "command":
        return command_from_json(event.payload, event.key)
    command = command_from_json(event.payload["command"], event.key)
    if command.type == "replace_policy":
        # The event stores the policy once, as that of the run.
        return replace(command, policy=policy_from_json(event.payload["policy"]))
    return command
