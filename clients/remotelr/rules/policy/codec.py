"""Policies from JSON documents and back. Every refusal is an InvalidPolicy with its path in the document."""

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any

from remotelr.rules.composition.modifiers import MODIFIERS, WithModifiers
from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.policy.aliases import canonical
from remotelr.rules.policy.cost import check_cost
from remotelr.rules.policy.policy import Policy
from remotelr.rules.policy.registry import NODES
from remotelr.rules.schedules.base import Schedule
from remotelr.rules.values.fields import FieldSpec, coerce, fields_of, format_value

# Levels of objects and lists, of the document itself on.
MAX_DEPTH = 16

MAX_OBJECTS = 1_000


def policy_from_json(document: object) -> Policy:
    """The policy a document describes: `{"schedule": node, "unit": ...}`, or a node alone.

    Raises InvalidPolicy.
    """
    _refuse_boundless(document)
    if not isinstance(document, dict):
        raise InvalidPolicy(f"a policy must be an object, is {format_value(document)}")
    if "schedule" not in document or "type" in document:
        return Policy(schedule=_affordable(_node(document)))
    policy: Policy = _dataclass(Policy, document)
    try:
        _affordable(policy.schedule)
    except InvalidPolicy as error:
        raise error.under("schedule") from None
    return policy


def policy_to_json(policy: Policy) -> dict[str, Any]:
    """The policy in its canonical form: every field that is not null. `policy_from_json` gives the same policy back."""
    return _fields_to_json(policy)


def node_from_json(document: object) -> Schedule:
    """The schedule a node describes. Raises InvalidPolicy."""
    _refuse_boundless(document)
    return _affordable(_node(document))


def node_to_json(schedule: Schedule) -> dict[str, Any]:
    """The schedule in its canonical form, its modifiers on the node itself."""
    if isinstance(schedule, WithModifiers):
        modifiers = {name: value for name, value in _fields_to_json(schedule).items() if name in MODIFIERS}
        return node_to_json(schedule.schedule) | modifiers
    return {"type": schedule.type, **_fields_to_json(schedule)}


def _affordable(schedule: Schedule) -> Schedule:
    check_cost(schedule)
    return schedule


def _node(document: object) -> Schedule:
    if not isinstance(document, dict):
        raise InvalidPolicy(f"a schedule must be an object, is {format_value(document)}")
    document = canonical(document)
    cls = _class_of(document)
    document = _by_first_names(cls, document)
    own = [field.name for field in fields_of(cls)]
    modifying = [field for field in fields_of(WithModifiers) if field.name in MODIFIERS and field.name not in own]
    known = ["type", *own, *(field.name for field in modifying)]
    _refuse_unknown(document, known)

    schedule: Schedule = _made(cls, fields_of(cls), document)
    modifiers = {field.name: _value_of(field, document) for field in modifying if document.get(field.name) is not None}
    return WithModifiers(schedule=schedule, **modifiers) if modifiers else schedule


def _class_of(document: Mapping[str, Any]) -> type[Any]:
    if "type" not in document:
        raise InvalidPolicy(f"is missing; one of {', '.join(NODES)}", "type")
    name = document["type"]
    if not isinstance(name, str) or name not in NODES:
        raise InvalidPolicy(
            f"{format_value(name)} is not known{_perhaps(name, NODES)}; one of {', '.join(NODES)}", "type"
        )
    return NODES[name]


def _by_first_names(cls: type[Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    for field in fields_of(cls):
        if field.also is None or field.also not in document:
            continue
        rest = {name: value for name, value in document.items() if name != field.also}
        if rest.setdefault(field.name, document[field.also]) != document[field.also]:
            raise InvalidPolicy(
                f"means the same as {field.name}, which is {format_value(rest[field.name])}", field.also
            )
        document = rest
    return document


def _dataclass(cls: type[Any], document: object) -> Any:
    """A nested thing that is no node: the settings of a warm-up, of noise, of the ranks."""
    if not isinstance(document, dict):
        raise InvalidPolicy(f"must be an object, is {format_value(document)}")
    _refuse_unknown(document, [field.name for field in fields_of(cls)])
    return _made(cls, fields_of(cls), document)


def _made(cls: type[Any], fields: Iterable[FieldSpec], document: Mapping[str, Any]) -> Any:
    values = {}
    for field in fields:
        if field.name in document:
            values[field.attribute] = _value_of(field, document)
        elif field.required:
            raise InvalidPolicy("is missing", field.name)
    return cls(**values)


def _value_of(field: FieldSpec, document: Mapping[str, Any]) -> Any:
    try:
        return coerce(field.hint, document[field.name], _nested)
    except InvalidPolicy as error:
        raise error.under(field.name) from None


def _nested(hint: Any, document: Any) -> Any:
    return _node(document) if hint is Schedule else _dataclass(hint, document)


def _refuse_unknown(document: Mapping[str, Any], known: Iterable[str]) -> None:
    known = list(known)
    for name in document:
        if name not in known:
            raise InvalidPolicy(f"is not known{_perhaps(name, known)}; known are {', '.join(known)}", str(name)[:60])


def _perhaps(name: object, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1) if isinstance(name, str) and len(name) <= 100 else []
    return f' (did you mean "{close[0]}"?)' if close else ""


def _refuse_boundless(document: object) -> None:
    """Before anything recurses into it: bound how deep a document goes and how many objects it holds."""
    level, objects = [document], 0
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        objects += sum(isinstance(child, dict) for child in level)
        if objects > MAX_OBJECTS:
            raise InvalidPolicy(f"holds more than {MAX_OBJECTS:,} objects")
        if not level:
            return
    raise InvalidPolicy(f"is nested deeper than {MAX_DEPTH} levels")


def _children(value: object) -> Iterable[object]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return (item for item in items if isinstance(item, dict | list | tuple))


def _fields_to_json(thing: Any) -> dict[str, Any]:
    values = ((field.name, getattr(thing, field.attribute)) for field in fields_of(type(thing)))
    return {name: _plain(value) for name, value in values if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "observe"):
        return node_to_json(value)
    return _fields_to_json(value) if is_dataclass(value) else value
