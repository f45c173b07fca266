"""What an operator can order. How it is carried out: `commands`; what is left of it to do: `state.Order`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from remotelr.rules.policy.codec import policy_from_json, policy_to_json
from remotelr.rules.policy.limits import Limits
from remotelr.rules.policy.policy import Policy
from remotelr.rules.run.events import Event

# What people order; the service has one more of its own.
OrderType = Literal[
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
CommandType = Literal[OrderType, "limits"]
Mode = Literal["pin", "rebase", "one_shot"]
OverrideKind = Literal["pin", "one_shot"]
StateMode = Literal["keep", "reset"]
Continuity = Literal["keep_lr", "keep_fraction", "restart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """When a rate that is held is held no longer: one of the two.

    epoch: the first epoch that is the curve's again.
    time: ISO 8601 with an offset. The rules have no clock: `until_due` tells who has one.
    """

    epoch: int | None = None
    time: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"epoch": self.epoch} if self.time is None else {"time": self.time}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What an operator orders; it bears on the first epoch not yet decided.

    set_learning_rate (value, mode, until): `pin` holds this rate; `one_shot` holds it for one epoch, or `until` one,
        and gives back what was there before, a pin included; `rebase` scales the schedule so that it goes on from
        this rate.
    scale (factor, or `value` as older logs have it): multiply what is in force.
    release: back to the policy's curve, and no longer stopped. `only`: end the pin or the one-shot alone (the
        service's own, at the time of an `until`).
    pause: the rate in force is held and the schedule's clock stands still. resume_schedule: it goes on from there.
    replace_policy (policy, state): another policy; what the schedule remembers is kept where the tree has the same
        shape, or `reset`.
    extend (total, continuity): the run is `total` epochs long now, and the rest of its curve with it.
    stop: end with the next answer. note (text): a remark, for the record.
    cancel (seq): the command of that number, not yet delivered, is as if never given.
    limits (limits): the limits of the experiment, None for none (the service's own).

    key: the same key is the same command, so a retried factor counts once.
    expected_seq: the newest event of the run the operator saw; SeqConflict where there is a newer one.
    """

    type: CommandType
    value: float | None = None
    factor: float | None = None
    mode: Mode = "pin"
    until: Until | None = None
    only: OverrideKind | None = None
    policy: Policy | None = None
    state: StateMode = "keep"
    total: int | None = None
    continuity: Continuity = "keep_lr"
    text: str | None = None
    seq: int | None = None
    limits: Limits | None = None
    expected_seq: int | None = None
    key: str | None = None
    actor: str | None = None
    reason: str | None = None

    @property
    def multiplier(self) -> float | None:
        """What a `scale` multiplies with."""
        return self.value if self.factor is None else self.factor


# What stands in a payload as it is, and the defaults that do not.
_PLAIN = ("type", "value", "factor", "mode", "only", "state", "total", "continuity", "text", "seq", "actor", "reason")
_DEFAULTS = {"mode": "pin", "state": "keep", "continuity": "keep_lr"}


def command_to_json(order: Command) -> dict[str, Any]:
    """The command as its event keeps it: what is set, and is no default. Key and `expected_seq` are not part of it."""
    members = {name: getattr(order, name) for name in _PLAIN}
    document = {name: value for name, value in members.items() if value not in (None, _DEFAULTS.get(name))}
    if order.until is not None:
        document["until"] = order.until.to_json()
    if order.policy is not None:
        document["policy"] = policy_to_json(order.policy)
    if order.limits is not None:
        document["limits"] = order.limits.to_json()
    return document


def command_from_json(document: Mapping[str, Any], key: str | None = None) -> Command:
    """The inverse of `command_to_json`. Raises TypeError for a member nobody knows, and InvalidPolicy."""
    members = dict(document)
    if "until" in members:
        members["until"] = Until(**members["until"])
    if "policy" in members:
        members["policy"] = policy_from_json(members["policy"])
    if "limits" in members:
        members["limits"] = Limits.from_json(members["limits"])
    return Command(key=key, **members)


def is_command(event: Event) -> bool:
    """Whether an operator ordered what the event keeps: kind `command`, or `policy` by replace_policy or extend."""
    return event.kind == "command" or (event.kind == "policy" and "command" in event.payload)


def command_from_payload(event: Event) -> Command:
    """The command that an event keeps, for which `is_command` holds."""
    if event.kind == "command":
        return command_from_json(event.payload, event.key)
    order = command_from_json(event.payload["command"], event.key)
    if order.type == "replace_policy":
        # It stands in the event once, as the run's own.
        return replace(order, policy=policy_from_json(event.payload["policy"]))
    return order
