"""Policies of every kind, drawn from the annotations that the codec reads documents by."""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st

from remotelr.rules import InvalidPolicy, Policy, policy_from_json
from remotelr.rules.composition.modifiers import MODIFIERS, WithModifiers
from remotelr.rules.plateau.reduce_on_plateau import DEFAULTS
from remotelr.rules.policy.registry import NODES
from remotelr.rules.schedules.base import Schedule
from remotelr.rules.values.fields import FieldSpec, Range, fields_of

# What an annotation cannot say: fields that are lists in order, or as long as another one, and texts with a meaning.
_BOUNDARIES = st.lists(st.integers(0, 60), min_size=1, max_size=5, unique=True).map(sorted)
_FORMULAS = ("lr * 0.9", "initial_learning_rate / (1 + epoch)", "lr if epoch < 5 else lr * exp(-0.1)")


def policies(depth: int = 2) -> st.SearchStrategy[Policy]:
    """Valid policies, open-loop and closed-loop, alone and composed."""
    document = st.fixed_dictionaries(
        {"schedule": nodes(depth), "unit": st.sampled_from(["epoch", "step"])},
        optional={"min_lr": st.floats(0, 0.1), "max_lr": st.floats(0.1, 1000)},
    )
    return document.map(_policy_or_none).filter(lambda policy: policy is not None)


def nodes(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    """Documents of nodes; a few contradict themselves and are refused."""
    names = [name for name in NODES if depth > 0 or name not in ("sequential", "chained", "extended")]
    return st.sampled_from(names).flatmap(lambda name: node(name, depth))


def node(name: str, depth: int = 1) -> st.SearchStrategy[dict[str, Any]]:
    own = fields_of(NODES[name])
    taken = {field.name for field in own}
    modifying = [field for field in fields_of(WithModifiers) if field.name in MODIFIERS and field.name not in taken]
    required = {"type": st.just(name)} | {field.name: _field(field, depth) for field in own if field.required}
    optional = {field.name: _field(field, depth) for field in (*own, *modifying) if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(_consistent)


def _policy_or_none(document: dict[str, Any]) -> Policy | None:
    try:
        return policy_from_json(document)
    except InvalidPolicy:
        return None


def _field(field: FieldSpec, depth: int) -> st.SearchStrategy[Any]:
    if field.name in ("boundaries", "milestones"):
        return _BOUNDARIES
    if field.name == "expression":
        return st.sampled_from(_FORMULAS)
    if field.name == "monitor":
        return st.just("val_loss")
    return _values(field.hint, depth)


def _values(hint: Any, depth: int) -> st.SearchStrategy[Any]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _numbers(args[0], next(limit for limit in args[1:] if isinstance(limit, Range)))
    if origin in (Union, UnionType):
        return st.one_of(*(_values(option, depth) for option in args if option is not NoneType))
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(_values(args[0], depth - 1), min_size=1, max_size=4)
    if origin is tuple:
        return st.tuples(*(_values(arg, depth) for arg in args)).map(sorted)
    if hint is Schedule:
        return nodes(depth - 1)
    if hint in (bool, float, str):
        return {bool: st.booleans(), float: st.floats(0, 1), str: st.just("val_loss")}[hint]
    return st.fixed_dictionaries(
        {field.name: _field(field, depth) for field in fields_of(hint) if field.required},
        optional={field.name: _field(field, depth) for field in fields_of(hint) if not field.required},
    )


def _numbers(kind: type, limit: Range) -> st.SearchStrategy[Any]:
    low = limit.least if limit.least is not None else limit.above
    high = limit.most if limit.most is not None else limit.below
    if kind is int:
        return st.one_of(st.integers(int(low), min(int(high), int(low) + 5)), st.integers(int(low), int(high)))
    anywhere = st.floats(low, high, exclude_min=limit.above is not None, exclude_max=limit.below is not None)
    ordinary = st.sampled_from([0.05, 0.5, 1.0, 3.0, 10.0]).filter(lambda value: low < value < high)
    return st.one_of(ordinary, anywhere) if low < 0.5 < high or low < 10 < high else anywhere


def _consistent(document: dict[str, Any]) -> dict[str, Any]:
    """Lists that belong together made as long as they have to be, fields that exclude each other taken out."""
    if document["type"] == "piecewise_constant":
        return document | {"values": _stretched(document["values"], len(document["boundaries"]) + 1)}
    if document["type"] == "piecewise_interpolate":
        return document | {"values": _stretched(document["values"], len(document["boundaries"]))}
    if document["type"] == "sequential":
        parts = _stretched(document["schedules"], len(document["milestones"]) + 1)
        return document | {"schedules": parts}
    if document["type"] == "reduce_on_plateau":
        own = DEFAULTS[document.get("flavor", "keras")]
        foreign = {name for names in DEFAULTS.values() for name in names} - own.keys()
        if "schedule" in document:
            foreign.add("initial_learning_rate")
        return {name: value for name, value in document.items() if name not in foreign}
    if "alpha" in document:
        document.pop("end_learning_rate", None)
    return document


def _stretched(items: list[Any], length: int) -> list[Any]:
    return [items[index % len(items)] for index in range(length)]
