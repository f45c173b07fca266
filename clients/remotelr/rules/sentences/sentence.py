"""Sentences for decisions, from their `why`, and for events."""

from collections.abc import Mapping
from math import isclose
from typing import Any

from remotelr.rules.run.command import is_command
from remotelr.rules.run.decision import Decision
from remotelr.rules.run.events import Event
from remotelr.rules.sentences.command_text import describe_command, format_factor, format_number, times

Why = Mapping[str, Any]


def describe(of: Event | Decision) -> str:
    """The effect of an event, or the cause of a decision's rate, as one sentence with a full stop.

    Texts of operators (reasons, notes) are quoted unchanged.
    """
    if isinstance(of, Decision):
        return f"{_decided(of)}."
    if is_command(of):
        return f"{describe_command(of)}."
    if of.decision is not None:
        return f"{_begun(of, _decided(of.decision))}{_noticed(of)}."
    return f"{_undecided(of)}."


def _begun(event: Event, decided: str) -> str:
    begins = {"attempt": f"Attempt {event.attempt} begins", "created": "The run is created"}.get(event.kind)
    return decided if begins is None else f"{begins}, and {decided[0].lower()}{decided[1:]}"


def _undecided(event: Event) -> str:
    if event.kind == "finished":
        return f"The run is {event.payload['status']}"
    if event.kind == "policy" and event.payload["mode"] == "length":
        return f"The trainer states that the run is {times(event.payload['total_epochs'], 'epoch')} long"
    if event.kind == "policy":
        memory = "is reset" if event.payload["mode"] == "restart" else "is kept where it fits"
        return f"The run's owner replaced its policy, and the state of its schedule {memory}"
    if "late" in event.notes:
        return f"Rank {event.rank} reported epoch {event.epoch} after it was decided"
    return f"Rank {event.rank} reported epoch {event.epoch}, and other ranks are missing{_noticed(event)}"


def _noticed(event: Event) -> str:
    used, noticed = event.payload.get("learning_rate"), ""
    if "drift" in event.notes and used is not None:
        decided = format_number(event.notes["drift"])
        noticed = f"; epoch {event.epoch} was trained with {format_number(used)}, not with {decided}"
    if "gap" in event.notes:
        noticed += f"; no report for {times(event.notes['gap'], 'epoch')} before it"
    return noticed


def _decided(decision: Decision) -> str:
    why = decision.why
    if decision.action == "stop":
        return f"Epoch {decision.epoch} is not trained: {_stopped((why or {}).get('stop', {}))}"
    rate = format_number(decision.learning_rate)
    start = f"Epoch {decision.epoch} trains with {rate}"
    if decision.action == "rollback":
        start = f"Epoch {decision.epoch} trains from the checkpoint of epoch {decision.rollback_to} with {rate}"
    if why is None:
        return f"{start}: {_OF_OLD[decision.reason]}"
    return f"{start}: {_cause(decision, why)}{_factors(why)}{_bound(decision, why)}"


# For decisions of releases that stored no why.
_OF_OLD = {
    "start": "the run, or an attempt, begins there",
    "schedule": "as the schedule gives it",
    "plateau": "the schedule's rate changed with what was reported",
    "command": "an operator's command holds",
    "bounds": "the bounds allow no other rate",
    "guard": "the guard holds",
}


def _cause(decision: Decision, why: Why) -> str:
    """The cause of the rate before factors and bounds."""
    until = f" until {why['until']}" if "until" in why else ""
    if "one_shot" in why:
        return f"an operator set {format_number(why['one_shot'])} for a while{until}"
    if "pin" in why:
        return f"an operator holds {format_number(why['pin'])}{until}"
    guard = why.get("guard", {})
    if "did" in guard:
        return _guarded(decision, guard)
    if "held" in guard:
        return f"the guard holds {format_number(guard['held'])}"
    if why.get("paused"):
        return f"the {why['schedule']} schedule is paused"
    if "plateau" in why:
        return _watched(decision, why["plateau"])
    if why.get("held"):
        return f"ranks were missing, so the {why['schedule']} schedule continues without the report"
    return f"as the {why['schedule']} schedule gives it"


def _guarded(decision: Decision, guard: Why) -> str:
    trouble = _trouble(guard)
    if guard["did"] == "hold":
        return f"{trouble}, so the guard holds the rate"
    change = format_factor(guard["factor"])
    if guard["did"] == "rollback":
        return f"{trouble}, so the guard goes back to epoch {decision.rollback_to}, and the rate was {change}"
    return f"{trouble}, so the guard had the rate {change}"


def _trouble(guard: Why) -> str:
    value = f"{guard['monitor']} {format_number(guard['value'])}"
    if "mean" not in guard:
        return f"{value} is not finite"
    return f"{value} exploded beyond its running mean of {format_number(guard['mean'])}"


def _watched(decision: Decision, plateau: Why) -> str:
    """The effect of the report on a plateau."""
    monitor = plateau["monitor"]
    if "missing" in plateau:
        return f"no {monitor} was reported, so the plateau did not change"
    value, best = f"{monitor} {format_number(plateau['value'])}", plateau["best"]
    match plateau["did"]:
        case "improved":
            return f"{value} is the best so far" + ("" if best is None else f", after {format_number(best)}")
        case "raised":
            return f"{value} raised the rate from {format_number(plateau['of'])}"
        case "cooled":
            return f"{value} came during the cooldown of the plateau"
        case "reduced":
            return f"{_no_better(value, plateau)}, so {_reduced(decision, plateau)}"
        case _:
            stays = "the rate is the schedule's" if decision.changed else "the rate stays"
            return f"{_no_better(value, plateau)}, so {stays}"


def _reduced(decision: Decision, plateau: Why) -> str:
    change = format_factor(plateau["factor"])
    alone = isclose(plateau["of"] * plateau["factor"], decision.learning_rate, rel_tol=1e-6)
    return f"{format_number(plateau['of'])} was {change}" if alone else f"the schedule's rate was {change}"


def _no_better(value: str, rule: Why) -> str:
    best = "anything before" if rule["best"] is None else f"{format_number(rule['best'])} (best)"
    return f"{value} was no better than {best} for {times(rule['wait'], 'epoch')}, patience {rule['patience']}"


def _stopped(stop: Why) -> str:
    match stop.get("by"):
        case "command":
            return "an operator stopped the run"
        case "early_stopping" if "monitor" in stop:
            return _no_better(f"{stop['monitor']} {format_number(stop['value'])}", stop)
        case "target" if "monitor" in stop:
            value, target = format_number(stop["value"]), format_number(stop["target"])
            return f"{stop['monitor']} {value} has reached the target {target}"
        case "budget":
            steps = f", which are {times(stop['steps'], 'step')}" if "steps" in stop else ""
            return f"the budget is spent, after {times(stop['epochs'], 'epoch')}{steps}"
        case "guard" if "monitor" in stop:
            return f"{_trouble(stop)}, and the guard stops the run"
        case "early_stopping" | "target" | "guard":
            return f"the run was stopped before, by its {stop['by'].replace('_', ' ')}"
        case _:
            return "the run was stopped"


def _factors(why: Why) -> str:
    """Further factors of the rate, and the delay of its schedule."""
    if "one_shot" in why or "pin" in why:
        return ""
    text = ""
    if "scale" in why:
        text += f"; an operator's factor of {format_number(why['scale'])} applies"
    guard = why.get("guard", {})
    if "scale" in guard and "held" not in guard and "did" not in guard:
        text += f"; a factor of {format_number(guard['scale'])} of the guard applies"
    if "shift" in why:
        text += f"; pauses delayed the schedule by {format_number(why['shift'])}"
    return text


def _bound(decision: Decision, why: Why) -> str:
    if "wanted" not in why:
        return ""
    whose = "the policy's bounds" if why["bound"] == "policy" else "the limits of the experiment"
    end = "no more" if why["wanted"] > decision.learning_rate else "no less"
    wanted, given = format_number(why["wanted"]), format_number(decision.learning_rate)
    return f"; it would be {wanted}, and {whose} allow {end} than {given}"
