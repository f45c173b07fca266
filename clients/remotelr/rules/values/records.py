"""The records of which every report makes a dozen: dataclasses with slots that nobody changes.

To a type checker they are frozen. To Python they are not: a frozen dataclass sets each of its fields by name, which
made a record four times as dear, and what the rules do with a report 36 µs instead of 26.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """The class as a dataclass whose fields are given by name, and never changed: `replace` makes another one."""
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)


if TYPE_CHECKING:
    # Only of this one a type checker knows which fields there are.
    from dataclasses import replace as replace  # noqa: PLC0414
else:

    def replace(given: T, /, **changes: Any) -> T:
        """The record with these fields changed. Raises AttributeError for a field that is none."""
        made = object.__new__(type(given))
        for name in given.__dataclass_fields__:
            setattr(made, name, getattr(given, name))
        for name, value in changes.items():
            setattr(made, name, value)
        return made
