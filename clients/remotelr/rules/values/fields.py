"""Field types of a policy, and the check of a value by its annotation.

The codec, the constructors of nodes and the JSON Schema use the same annotations.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.values.floats import nearest_float

# A higher rate is a mistake in a policy.
MAX_LEARNING_RATE = 1e3

MAX_ITEMS = 1_000


@dataclass(frozen=True, slots=True)
class Range:
    """A range of numbers; each end is open or closed."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def check(self, value: float) -> None:
        """Raises InvalidPolicy for a number outside the range."""
        too_low = (self.least is not None and value < self.least) or (self.above is not None and value <= self.above)
        too_high = (self.most is not None and value > self.most) or (self.below is not None and value >= self.below)
        if too_low or too_high:
            raise InvalidPolicy(f"must be {self.describe()}, is {value!r}")

    def describe(self) -> str:
        """The range as text: `between 0 and 1`, `above 0 and at most 1000`."""
        if self.least is not None and self.most is not None:
            return f"between {self.least:g} and {self.most:g}"
        if self.above is not None and self.below is not None:
            return f"between {self.above:g} and {self.below:g}, both excluded"
        ends = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{words} {end:g}" for words, end in ends.items() if end is not None)


Rate = Annotated[float, Range(above=0, most=MAX_LEARNING_RATE)]
RateOrZero = Annotated[float, Range(least=0, most=MAX_LEARNING_RATE)]

# Lengths and positions are in the policy's unit and may be fractional. The bounds keep a quotient
# of two of them far from the ends of what a float can hold.
Length = Annotated[float, Range(least=1e-6, most=1e12)]
LengthOrZero = Annotated[float, Range(least=0, most=1e12)]
Offset = Annotated[float, Range(least=0, most=1e12)]

# Up to a week.
Seconds = Annotated[float, Range(above=0, most=604_800)]

Count = Annotated[int, Range(least=1, most=10**9)]
Fraction = Annotated[float, Range(least=0, most=1)]
OpenFraction = Annotated[float, Range(above=0, below=1)]
Factor = Annotated[float, Range(above=0, most=1e6)]
Exponent = Annotated[float, Range(above=0, most=1e3)]

# Reads values of nested types (nodes, settings). Raises InvalidPolicy.
NestedReader = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """A field of a node: its name in JSON, its name in Python, its type and default.

    also: a second name that documents may use for it.
    """

    name: str
    attribute: str
    hint: Any
    default: Any
    also: str | None = None

    @property
    def required(self) -> bool:
        return self.default is MISSING


def fields_of(cls: type[Any]) -> tuple[FieldSpec, ...]:
    """The fields of a dataclass in their order. In JSON a field may go by another name: metadata `name` and `also`."""
    if cls not in _known_fields:
        hints = get_type_hints(cls, include_extras=True)
        _known_fields[cls] = tuple(_field_of(field, hints[field.name]) for field in fields(cls))
    return _known_fields[cls]


# Resolving annotations takes longer than everything else about a policy. Classes are few and do not change.
_known_fields: dict[type[Any], tuple[FieldSpec, ...]] = {}


def _field_of(field: Field[Any], hint: Any) -> FieldSpec:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    name = field.metadata.get("name", field.name)
    return FieldSpec(name, field.name, hint, default, also=field.metadata.get("also"))


def coerce(hint: Any, value: Any, build: NestedReader) -> Any:
    """Convert `value` to the type `hint`: whole numbers to floats, lists to tuples.

    Raises InvalidPolicy, with the path inside `value`, if it does not fit.
    """
    origin = get_origin(hint)
    if origin is Annotated:
        return _coerce_limited(hint, value, build)
    if origin in (Union, UnionType):
        return _coerce_union(hint, value, build)
    if origin is Literal:
        return _coerce_literal(hint, value)
    if origin is tuple:
        return tuple(_coerce_items(get_args(hint), value, build))
    if hint is float:
        return _coerce_float(value)
    if hint in (bool, int, str):
        return _coerce_plain(hint, value)
    return build(hint, value)


def check_fields(node: Any) -> None:
    """Check and convert every field of a new node. Raises InvalidPolicy."""
    for field in fields_of(type(node)):
        try:
            converted = coerce(field.hint, getattr(node, field.attribute), _coerce_instance)
        except InvalidPolicy as error:
            raise error.under(field.name) from None
        # The nodes are frozen; this is the end of their construction.
        object.__setattr__(node, field.attribute, converted)


def format_value(value: Any) -> str:
    """A value for an error message: as in JSON, and short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 100:
        return "a very long number"
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _coerce_limited(hint: Any, value: Any, build: NestedReader) -> Any:
    base, *limits = get_args(hint)
    converted = coerce(base, value, build)
    for limit in limits:
        limit.check(converted)
    return converted


def _coerce_union(hint: Any, value: Any, build: NestedReader) -> Any:
    options = get_args(hint)
    if value is None and NoneType in options:
        return None
    rest = [option for option in options if option is not NoneType]
    if len(rest) == 1:
        return coerce(rest[0], value, build)
    for option in rest:
        if _fits(option, value):
            return coerce(option, value, build)
    raise InvalidPolicy(f"must be {' or '.join(_describe(option) for option in rest)}, is {format_value(value)}")


def _fits(hint: Any, value: Any) -> bool:
    base = _without_limits(hint)
    if get_origin(base) is Literal:
        return isinstance(value, str)
    if get_origin(base) is tuple:
        return isinstance(value, list | tuple)
    if base in (float, int):
        return isinstance(value, float | int) and not isinstance(value, bool)
    return base in (bool, str) and isinstance(value, base)


def _describe(hint: Any) -> str:
    base = _without_limits(hint)
    if get_origin(base) is Literal:
        return " or ".join(f'"{word}"' for word in get_args(base))
    if get_origin(base) is tuple:
        return "a list"
    return {float: "a number", int: "a whole number", bool: "true or false", str: "a string"}.get(base, "an object")


def _without_limits(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _coerce_literal(hint: Any, value: Any) -> str:
    options = get_args(hint)
    if not isinstance(value, str) or value not in options:
        raise InvalidPolicy(f"must be one of {', '.join(options)}, is {format_value(value)}")
    return value


def _coerce_items(hints: tuple[Any, ...], value: Any, build: NestedReader) -> Iterator[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidPolicy(f"must be a list, is {format_value(value)}")
    if len(value) > MAX_ITEMS:
        raise InvalidPolicy(f"holds at most {MAX_ITEMS:,} items, has {len(value):,}")
    if hints[-1] is not Ellipsis and len(value) != len(hints):
        raise InvalidPolicy(f"must hold {len(hints)} items, has {len(value)}")
    for index, item in enumerate(value):
        try:
            yield coerce(hints[0] if hints[-1] is Ellipsis else hints[index], item, build)
        except InvalidPolicy as error:
            raise error.under(f"[{index}]") from None


def _coerce_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise InvalidPolicy(f"must be a number, is {format_value(value)}")
    number = nearest_float(value)
    if not math.isfinite(number):
        raise InvalidPolicy(f"must be finite, is {format_value(value)}")
    return number


def _coerce_plain(hint: type[Any], value: Any) -> Any:
    # A bool is an int in Python, but not in JSON.
    if not isinstance(value, hint) or isinstance(value, bool) != (hint is bool):
        raise InvalidPolicy(f"must be {_describe(hint)}, is {format_value(value)}")
    return value


def _coerce_instance(hint: Any, value: Any) -> Any:
    """Python code hands over nodes and settings that are made already, so their fields are checked."""
    is_protocol = getattr(hint, "_is_protocol", False)
    if not (hasattr(value, "observe") if is_protocol else isinstance(value, hint)):
        raise InvalidPolicy(f"must be a {hint.__name__}, is {format_value(value)}")
    return value
