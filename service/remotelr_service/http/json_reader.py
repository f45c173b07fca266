"""Reads JSON strictly: rejects input that readers understand differently or that costs too much.

Python's reader accepts NaN, numbers beyond a double, duplicate names, UTF-16 and any depth. This reader rejects them
with the path and the reason, and limits the quoted input.
"""

import json
import re
from collections import Counter
from typing import Any

MAX_DEPTH = 16
MAX_ITEMS = 1_000
# The total of lists and objects, ten times that of the largest batch. Creating 100,000 takes about a second.
MAX_CONTAINERS = 20_000
MAX_INTEGER_DIGITS = 20
MAX_NUMBER_LENGTH = 400

# A string or a bracket, so that brackets inside strings are skipped. An unterminated string matches to the end:
# a match that starts again inside it would take quadratic time.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
# Maps digits to 0 and all but digits and e to dots. Searching the result takes a quarter of the time of a pattern.
_SHAPE = bytes(48 if 48 <= each <= 57 else 101 if each in b"eE" else 46 for each in range(256))
_LONG = b"0" * (MAX_INTEGER_DIGITS + 1)
_UNWANTED = re.compile("[\x00\ud800-\udfff]")


class MalformedJSON(ValueError):
    """A body that is not JSON, or JSON that is rejected. path: of the value, if known."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.message = message
        self.path = path


class _Refused:
    """Marks a rejected value in a document until its path is known."""

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
        # On an error the second reader finds the message.
        try:
            return _PLAIN.decode(text)
        except ValueError:
            pass
    reader = _Reader()
    try:
        value = reader.decode(text)
    except json.JSONDecodeError as error:
        # Some messages end with "at": "Unterminated string starting at".
        message = error.msg.removesuffix(" at")
        raise MalformedJSON(f"{message} at line {error.lineno}, column {error.colno}") from None
    # The reader has no hook for lists, and only escapes can produce unwanted characters.
    if reader.has_refused or b"\\u" in body or body.count(b",") >= MAX_ITEMS:
        _check(value, "")
    return value


def _is_suspect(body: bytes) -> bool:
    """Whether the body may contain input that only the plain reader accepts.

    That is an exponent (beyond a double), many digits (a large integer) or an escape (an unwanted character).
    """
    shape = body.translate(_SHAPE)
    return b"0e" in shape or _LONG in shape or b"\\u" in body


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a duplicate name")
    return document


def _no_constant(token: str) -> None:
    raise ValueError(f"{token} is not JSON")


# The standard library's reader without hooks for numbers, which are slow.
_PLAIN = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_constant)


class _Reader(json.JSONDecoder):
    """The standard library's reader with hooks that reject values."""

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
            return self._refuse(f"duplicate name {_short(counted.most_common(1)[0][0])}")
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
        return self._refuse(f'{token} is not JSON: a metric takes the string "{name}", other fields must be finite')

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
    """Raises MalformedJSON for the first rejected value. The depth is bounded by `_check_depth`."""
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
