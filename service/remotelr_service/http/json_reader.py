"""Reading JSON strictly: what two readers could understand differently, or choke on, is refused.

Python's own reader takes NaN, numbers beyond a double, duplicate names, UTF-16 and any depth; this one
takes none of them. It answers with the path and the reason, and never repeats what was sent at length.
"""

import json
import re
from collections import Counter
from typing import Any

MAX_DEPTH = 16
MAX_ITEMS = 1_000
# Lists and objects in all, ten times what the largest batch has: to make some hundred thousand takes a second.
MAX_CONTAINERS = 20_000
MAX_INTEGER_DIGITS = 20
MAX_NUMBER_LENGTH = 400

# A string (perhaps one that never ends, which is taken whole: starting again inside it would be
# quadratic), or a bracket. Brackets inside strings are thus skipped.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
# A body with its digits as 0, and all but them and e as dots: to look in it takes a quarter of what a pattern takes.
_SHAPE = bytes(48 if 48 <= each <= 57 else 101 if each in b"eE" else 46 for each in range(256))
_LONG = b"0" * (MAX_INTEGER_DIGITS + 1)
_UNWANTED = re.compile("[\x00\ud800-\udfff]")


class MalformedJSON(ValueError):
    """A body that is no JSON, or JSON that is not taken. `path` leads to the value where it is known."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.message = message
        self.path = path


class _Refused:
    """Stands in a document for a value that is not taken, until its path is known."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


def loads(body: bytes) -> Any:
    """The value in `body`: None, booleans, int, finite float, str, list and dict. Raises MalformedJSON."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedJSON(f"the body is not UTF-8 (byte {error.start})") from None
    _check_depth(body)
    if body.count(b",") < MAX_ITEMS and not _is_suspect(body):
        # What is wrong with it after all, the careful reader can say.
        try:
            return _PLAIN.decode(text)
        except ValueError:
            pass
    reader = _Reader()
    try:
        value = reader.decode(text)
    except json.JSONDecodeError as error:
        # Some of its messages lead up to the place already: "Unterminated string starting at".
        said = error.msg.removesuffix(" at")
        raise MalformedJSON(f"{said} at line {error.lineno}, column {error.colno}") from None
    # Lists are the one thing the reader has no hook for, and escapes the one way to unwanted characters.
    if reader.has_refused or b"\\u" in body or body.count(b",") >= MAX_ITEMS:
        _check(value, "")
    return value


def _is_suspect(body: bytes) -> bool:
    """Whether there may be something in it that the plain reader takes and this one does not.

    An exponent may lead beyond a double, many digits beyond an integer, an escape to an unwanted character.
    """
    shape = body.translate(_SHAPE)
    return b"0e" in shape or _LONG in shape or b"\\u" in body


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name stands there twice")
    return document


def _no_constant(token: str) -> None:
    raise ValueError(f"{token} is not JSON")


# The standard library's own reader, which Python need not help with every number.
_PLAIN = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_constant)


class _Reader(json.JSONDecoder):
    """The reader of the standard library with its hooks bent to refuse."""

    def __init__(self) -> None:
        super().__init__(
            object_pairs_hook=self._object,
            parse_int=self._integer,
            parse_float=self._float,
            parse_constant=self._constant,
        )
        self.has_refused = False

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        document = dict(pairs)
        if len(document) != len(pairs):
            counted = Counter(name for name, _ in pairs)
            return self._refuse(f"the name {_short(counted.most_common(1)[0][0])} stands there twice")
        if len(document) > MAX_ITEMS:
            return self._refuse(f"more than {MAX_ITEMS} members")
        return document

    def _integer(self, number: str) -> Any:
        if len(number.removeprefix("-")) > MAX_INTEGER_DIGITS:
            return self._refuse(f"an integer of more than {MAX_INTEGER_DIGITS} digits")
        return int(number)

    def _float(self, number: str) -> Any:
        if len(number) > MAX_NUMBER_LENGTH:
            return self._refuse(f"a number of more than {MAX_NUMBER_LENGTH} characters")
        value = float(number)
        if value in (float("inf"), float("-inf")):
            return self._refuse(f"{_short(number)} is beyond the largest double, 1.797e308")
        return value

    def _constant(self, token: str) -> Any:
        name = {"NaN": "nan", "Infinity": "inf"}.get(token, "-inf")
        return self._refuse(f'{token} is not JSON: a metric takes the string "{name}", nothing else can be it')

    def _refuse(self, reason: str) -> _Refused:
        self.has_refused = True
        return _Refused(reason)


def _check_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = containers = 0
    for match in _STRING_OR_BRACKET.finditer(body):
        first = match[0][:1]
        if first in b"[{":
            depth += 1
            containers += 1
            if depth > MAX_DEPTH:
                raise MalformedJSON(f"more than {MAX_DEPTH} levels deep")
            if containers > MAX_CONTAINERS:
                raise MalformedJSON(f"more than {MAX_CONTAINERS} lists and objects")
        elif first in b"]}":
            depth -= 1


def _check(value: Any, path: str) -> None:
    """Find what is not taken, with its path. The depth is known to be small."""
    match value:
        case _Refused():
            raise MalformedJSON(value.reason, path)
        case str():
            _check_text(value, path)
        case list():
            if len(value) > MAX_ITEMS:
                raise MalformedJSON(f"more than {MAX_ITEMS} items", path)
            for index, item in enumerate(value):
                _check(item, f"{path}[{index}]")
        case dict():
            for name, item in value.items():
                _check_text(name, path)
                _check(item, f"{path}.{_plain(name)}" if path else _plain(name))


def _check_text(text: str, path: str) -> None:
    found = _UNWANTED.search(text)
    if found is not None:
        raise MalformedJSON(f"the character U+{ord(found[0]):04X} cannot be stored", path)


def _short(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")


def _plain(name: str) -> str:
    return name if len(name) <= 40 and name.isprintable() else _short(name)
