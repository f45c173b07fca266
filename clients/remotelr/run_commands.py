"""What can be ordered of a run, each order a call: `Run.scale(0.5)`, and `Run.command` for all of them."""

import uuid
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from remotelr._http import wire as _wire
from remotelr._http.caller import Service
from remotelr._http.wire import Commanded
from remotelr.rules import Policy, policy_to_json
from remotelr.rules.run.command import Continuity, Keeping, Mode, OrderType


class About(TypedDict, total=False):
    """What every order takes, by name.

    reason, actor: for the log: why, and who (with a token, the service notes the token's name).
    key: the same key is the same order, which counts once; random when not given.
    expected_seq: the number of the newest event seen of the run; the order is refused where there is a newer one.
    timeout_s: another budget than the client's.
    """

    reason: str | None
    actor: str | None
    key: str | None
    expected_seq: int | None
    timeout_s: float | None


class Orders:
    """What an operator orders of the run `key`. It bears on the first epoch that has no rate yet.

    Every order takes what `About` names.

    Raises ServiceRefused (`invalid_command`, `seq_conflict`…) and ServiceUnreachable.
    """

    key: str
    _service: Service

    def set_learning_rate(
        self,
        value: float,
        *,
        mode: Mode = "pin",
        until_epoch: int | None = None,
        until_time: str | None = None,
        **about: Unpack[About],
    ) -> Commanded:
        """Set the rate.

        mode: `pin` holds it, whatever the schedule says; `one_shot` holds it for one epoch; `rebase` lets the
            schedule go on from it.
        until_epoch: the first epoch that is the schedule's again. until_time: as that, from a time on, in ISO
            8601 with its offset.
        """
        until = {"epoch": until_epoch} if until_time is None else {"time": until_time}
        held = until_epoch is None and until_time is None
        return self.command("set_learning_rate", value=value, mode=mode, until=None if held else until, **about)

    def scale(self, factor: float, **about: Unpack[About]) -> Commanded:
        """Multiply what is in force."""
        return self.command("scale", factor=factor, **about)

    def release(self, **about: Unpack[About]) -> Commanded:
        """Back to the policy's own curve, and no longer told to stop."""
        return self.command("release", **about)

    def pause(self, **about: Unpack[About]) -> Commanded:
        """Hold the rate in force, and let the schedule stand still."""
        return self.command("pause", **about)

    def resume_schedule(self, **about: Unpack[About]) -> Commanded:
        """Let the schedule go on from where it was paused."""
        return self.command("resume_schedule", **about)

    def replace_policy(
        self, policy: Policy | Mapping[str, Any], *, state: Keeping = "keep", **about: Unpack[About]
    ) -> Commanded:
        """Another policy. state: `keep` what the schedule remembers where the new one has its shape, or `reset`."""
        return self.command("replace_policy", policy=_document(policy), state=state, **about)

    def extend(self, total: int, *, continuity: Continuity = "keep_lr", **about: Unpack[About]) -> Commanded:
        """The run is `total` epochs long now.

        continuity: `keep_lr` goes on from the rate in force, `keep_fraction` from the same part of the curve,
            `restart` from the beginning of it.
        """
        return self.command("extend", total=total, continuity=continuity, **about)

    def stop(self, **about: Unpack[About]) -> Commanded:
        """Tell the trainer to end after the epoch it is in."""
        return self.command("stop", **about)

    def note(self, text: str, **about: Unpack[About]) -> Commanded:
        """A remark for the log, that changes nothing."""
        return self.command("note", text=text, **about)

    def cancel(self, seq: int, **about: Unpack[About]) -> Commanded:
        """The order of that number, not yet delivered, is as if it had never been given."""
        return self.command("cancel", seq=seq, **about)

    def command(
        self,
        order: OrderType,
        *,
        reason: str | None = None,
        actor: str | None = None,
        key: str | None = None,
        expected_seq: int | None = None,
        timeout_s: float | None = None,
        **members: Any,
    ) -> Commanded:
        """Any order, with its members by their names on the wire. Gives its number and the epoch it holds from."""
        # Always a key: an order given twice because its answer was lost must count once.
        told = {**members, "reason": reason, "actor": actor, "key": key or uuid.uuid4().hex}
        request = _wire.command(self.key, {"type": order, **told, "expected_seq": expected_seq})
        return self._service.ask(request, _wire.read_commanded, timeout_s)


def _document(policy: Policy | Mapping[str, Any]) -> Mapping[str, Any]:
    return policy_to_json(policy) if isinstance(policy, Policy) else policy
