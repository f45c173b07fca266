"""The JSON Schema of a policy (draft 2020-12), drawn from the annotations the codec reads documents by.

It describes the canonical names. The codec takes aliases too, and refuses more: what only several fields together
can tell.
"""

from dataclasses import MISSING
from inspect import getdoc
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from remotelr.rules.composition.modifiers import MODIFIERS, WithModifiers
from remotelr.rules.policy.policy import Policy
from remotelr.rules.policy.registry import NODES
from remotelr.rules.schedules.base import Schedule
from remotelr.rules.values.fields import MAX_ITEMS, FieldSpec, Range, fields_of

_NAMES = {bool: "boolean", float: "number", int: "integer", str: "string"}


def json_schema() -> dict[str, Any]:
    """The schema of what `policy_from_json` reads: a policy, or a node alone. Every node has its own definition."""
    nested: dict[str, Any] = {}
    definitions = {
        "policy": _object(Policy, fields_of(Policy), nested),
        "schedule": {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in NODES]},
        **{name: _node(name, cls, nested) for name, cls in NODES.items()},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "RemoteLR policy",
        "oneOf": [{"$ref": "#/$defs/policy"}, {"$ref": "#/$defs/schedule"}],
        "$defs": definitions | nested,
    }


def _node(name: str, cls: type[Any], nested: dict[str, Any]) -> dict[str, Any]:
    own = fields_of(cls)
    taken = {field.name for field in own}
    modifying = [field for field in fields_of(WithModifiers) if field.name in MODIFIERS and field.name not in taken]
    schema = _object(cls, (*own, *modifying), nested)
    schema["properties"] = {"type": {"const": name}, **schema["properties"]}
    schema["required"] = ["type", *schema["required"]]
    return schema


def _object(cls: type[Any], fields: tuple[FieldSpec, ...], nested: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": getdoc(cls) or "",
        "properties": {field.name: _property(field, nested) for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }


def _property(field: FieldSpec, nested: dict[str, Any]) -> dict[str, Any]:
    schema = _of(field.hint, nested)
    # A default that is null or a Python object has no JSON form.
    plain = field.default is not MISSING and isinstance(field.default, bool | int | float | str)
    return schema | {"default": field.default} if plain else schema


def _of(hint: Any, nested: dict[str, Any]) -> dict[str, Any]:
    origin = get_origin(hint)
    if origin is Annotated:
        base, *limits = get_args(hint)
        return _of(base, nested) | {key: end for limit in limits for key, end in _ends(limit).items()}
    if origin in (Union, UnionType):
        return {"anyOf": [_of(option, nested) for option in get_args(hint)]}
    if origin is Literal:
        return {"type": "string", "enum": list(get_args(hint))}
    if origin is tuple:
        return _list(get_args(hint), nested)
    if hint is NoneType:
        return {"type": "null"}
    if hint in _NAMES:
        return {"type": _NAMES[hint]}
    return {"$ref": f"#/$defs/{_defined(hint, nested)}"}


def _list(items: tuple[Any, ...], nested: dict[str, Any]) -> dict[str, Any]:
    if items[-1] is Ellipsis:
        return {"type": "array", "items": _of(items[0], nested), "maxItems": MAX_ITEMS}
    return {
        "type": "array",
        "prefixItems": [_of(item, nested) for item in items],
        "items": False,
        "minItems": len(items),
    }


def _ends(limit: Range) -> dict[str, float]:
    ends = {
        "minimum": limit.least,
        "exclusiveMinimum": limit.above,
        "maximum": limit.most,
        "exclusiveMaximum": limit.below,
    }
    return {name: end for name, end in ends.items() if end is not None}


def _defined(hint: Any, nested: dict[str, Any]) -> str:
    """The name of the definition of a node or of a nested thing, which is defined when it is first met."""
    if hint is Schedule:
        return "schedule"
    name: str = hint.__name__.lower()
    if name not in nested:
        nested[name] = _object(hint, fields_of(hint), nested)
    return name
