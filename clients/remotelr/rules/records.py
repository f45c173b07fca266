"""The records of which every report makes a dozen: frozen dataclasses, made and changed in half the time.

A frozen dataclass sets each field by its name, and `dataclasses.replace` looks at each of them in turn. Here, as
`dataclasses` does it too, functions are written for the class, which set the slots themselves.
"""

from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    # Only of this one a type checker knows which fields there are.
    from dataclasses import replace as replace  # noqa: PLC0414
else:

    def replace(record: T, /, **changes: Any) -> T:
        """The record with these fields changed. Of those that are `quick`; for others see `dataclasses.replace`."""
        return record.__replace__(**changes)


_KEPT: Any = object()


def quick(cls: type[T]) -> type[T]:
    """The class itself, which is a frozen dataclass with slots and without `__post_init__`."""
    own = fields(cls)  # type: ignore[arg-type]  # a type variable cannot say that it stands for a dataclass
    known: dict[str, Any] = {"cls": cls, "new": object.__new__, "kept": _KEPT}
    for each in own:
        known |= {f"set_{each.name}": getattr(cls, each.name).__set__, f"default_{each.name}": each.default}
        known[f"make_{each.name}"] = each.default_factory
    written = [
        f"def __init__(self, {_parameters(own)}):",
        *(f"    set_{each.name}(self, {_given(each)})" for each in own),
        f"def __replace__(self, *, {', '.join(f'{each.name}=kept' for each in own)}):",
        "    made = new(cls)",
        *(f"    set_{each.name}(made, self.{each.name} if {each.name} is kept else {each.name})" for each in own),
        "    return made",
    ]
    exec("\n".join(written), known)  # noqa: S102  # of names of fields, which are Python's own
    for name in ("__init__", "__replace__"):
        known[name].__qualname__ = f"{cls.__qualname__}.{name}"
        known[name].__module__ = cls.__module__
        setattr(cls, name, known[name])
    return cls


def _parameters(own: tuple[Field[Any], ...]) -> str:
    named = [each for each in own if each.kw_only]
    by_place = [each for each in own if not each.kw_only]
    return ", ".join([*map(_parameter, by_place), *(["*"] if named else []), *map(_parameter, named)])


def _parameter(each: Field[Any]) -> str:
    if each.default is not MISSING:
        return f"{each.name}=default_{each.name}"
    return each.name if each.default_factory is MISSING else f"{each.name}=kept"


def _given(each: Field[Any]) -> str:
    if each.default_factory is MISSING:
        return each.name
    return f"make_{each.name}() if {each.name} is kept else {each.name}"
