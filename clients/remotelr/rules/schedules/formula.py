"""Formulas: float arithmetic from untrusted text.

Every library tried for this can be made to hang, to crash or to fill memory, so nothing here is evaluated
by Python: the text is checked by its characters and its length, parsed, and every kind of node that is not on the
list below is refused. What is left is compiled to closures over floats, which can neither loop nor allocate.

    number  1  0.5  1e-4            name  epoch  step  lr  initial_learning_rate  base_lr  total  pi  e
    + - * / // % **                 unary + -
    function(…)                     see FUNCTIONS
    a if condition else b           condition: one comparison (< <= > >= == !=), and, or, not
"""

import ast
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.values.floats import nearest_float

MAX_LENGTH: Final = 512
MAX_NODES: Final = 128
MAX_DEPTH: Final = 24

CONSTANTS: Final[Mapping[str, float]] = {"pi": math.pi, "e": math.e}
VARIABLES: Final = ("epoch", "step", "lr", "initial_learning_rate", "base_lr", "total")

# Raised by floats where a result does not exist: overflow, division by zero, outside a function's domain.
FAILURES: Final = (ArithmeticError, ValueError)

Values = Mapping[str, float]
_Part = Callable[[Values], float]
_Condition = Callable[[Values], bool]


def _clip(value: float, least: float, most: float) -> float:
    return max(least, min(value, most))


def _sign(value: float) -> float:
    return math.copysign(1.0, value) if value else 0.0


# name: the function, and the least and most arguments it takes.
FUNCTIONS: Final[Mapping[str, tuple[Callable[..., float], int, int]]] = {
    "abs": (abs, 1, 1),
    "acos": (math.acos, 1, 1),
    "asin": (math.asin, 1, 1),
    "atan": (math.atan, 1, 1),
    "ceil": (lambda x: float(math.ceil(x)), 1, 1),
    "clip": (_clip, 3, 3),
    "cos": (math.cos, 1, 1),
    "cosh": (math.cosh, 1, 1),
    "exp": (math.exp, 1, 1),
    "expm1": (math.expm1, 1, 1),
    "floor": (lambda x: float(math.floor(x)), 1, 1),
    "log": (math.log, 1, 2),
    "log10": (math.log10, 1, 1),
    "log1p": (math.log1p, 1, 1),
    "log2": (math.log2, 1, 1),
    "max": (max, 2, 8),
    "min": (min, 2, 8),
    "pow": (math.pow, 2, 2),
    "round": (lambda x: float(round(x)), 1, 1),
    "sign": (_sign, 1, 1),
    "sin": (math.sin, 1, 1),
    "sinh": (math.sinh, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "tan": (math.tan, 1, 1),
    "tanh": (math.tanh, 1, 1),
}

# math.pow refuses what ** would make complex.
_OPERATORS: Final[Mapping[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: math.pow,
}

_COMPARISONS: Final[Mapping[type[ast.cmpop], Callable[[float, float], bool]]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}

_ALLOWED_CHARACTERS: Final = re.compile(r"[A-Za-z0-9_ .,()+\-*/%<>=!]*")
# A number that runs into a name, as in 0x10, 1_000, 1j or 1if; Python merely warns of some of them.
_NUMBER_INTO_NAME: Final = re.compile(r"(?<![A-Za-z0-9_.])[0-9.]++(?:[eE][+-]?[0-9]+)?+[A-Za-z_]")


@dataclass(frozen=True, slots=True)
class Formula:
    """A compiled formula. names: the variables in it. size: how many nodes it has."""

    names: frozenset[str]
    size: int
    _evaluate: _Part

    def __call__(self, values: Values) -> float:
        """The result for these values of its names. Raises one of FAILURES where there is no finite one."""
        result = self._evaluate(values)
        if not math.isfinite(result):
            raise OverflowError("the result is not finite")
        return result


@lru_cache(maxsize=1024)
def compile_formula(text: str) -> Formula:
    """The formula in `text`. Raises InvalidPolicy, at once, for everything that is not one."""
    text = text.strip()
    compiler = _Compiler(text)
    evaluate = compiler.number(_parse(text), depth=1)
    return Formula(frozenset(compiler.names), compiler.size, evaluate)


def _parse(text: str) -> ast.expr:
    if not text:
        raise InvalidPolicy("is empty")
    if len(text) > MAX_LENGTH:
        raise InvalidPolicy(f"takes at most {MAX_LENGTH} characters, has {len(text):,}")
    if not _ALLOWED_CHARACTERS.fullmatch(text):
        strange = next(character for character in text if not _ALLOWED_CHARACTERS.fullmatch(character))
        raise InvalidPolicy(f"does not take the character {strange!a}; it is arithmetic on numbers and names")
    glued = _NUMBER_INTO_NAME.search(text)
    if glued:
        raise InvalidPolicy(f'"{glued.group()[-40:]}…" is no number; put a space or an operator after a number')
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise InvalidPolicy(f"is no formula: {error.msg} at character {error.offset}") from None
    except (RecursionError, MemoryError, ValueError):
        raise InvalidPolicy("is nested too deep") from None


class _Compiler:
    """Turns the allowed nodes into closures, and counts what it meets."""

    def __init__(self, text: str) -> None:
        self.names: set[str] = set()
        self.size = 0
        self._text = text

    def number(self, node: ast.expr, depth: int) -> _Part:
        self._count(depth)
        match node:
            case ast.Constant(value=value):
                return _constant(value)
            case ast.Name(id=name):
                return self._name(name)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.number(operand, depth + 1)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _negative(self.number(operand, depth + 1))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _binary(_OPERATORS[type(op)], self.number(left, depth + 1), self.number(right, depth + 1))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return _conditional(
                    self.condition(test, depth + 1), self.number(body, depth + 1), self.number(orelse, depth + 1)
                )
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments, depth)
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                raise InvalidPolicy(f"a comparison is no number: write a if {self._shown(node)} else b")
        raise InvalidPolicy(f"{self._shown(node)} is not allowed; a formula is arithmetic on numbers and names")

    def condition(self, node: ast.expr, depth: int) -> _Condition:
        self._count(depth)
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                return _comparison(_COMPARISONS[type(op)], self.number(left, depth + 1), self.number(right, depth + 1))
            case ast.Compare(ops=[_, _, *_]):
                raise InvalidPolicy(f"{self._shown(node)} compares twice: join two comparisons with and")
            case ast.BoolOp(op=op, values=values):
                return _joined(all if isinstance(op, ast.And) else any, [self.condition(v, depth + 1) for v in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _negation(self.condition(operand, depth + 1))
        raise InvalidPolicy(f"{self._shown(node)} is no condition: compare it with something")

    def _count(self, depth: int) -> None:
        self.size += 1
        if self.size > MAX_NODES:
            raise InvalidPolicy(f"has more than {MAX_NODES} parts")
        if depth > MAX_DEPTH:
            raise InvalidPolicy(f"is nested deeper than {MAX_DEPTH}")

    def _shown(self, node: ast.expr) -> str:
        part = self._text[node.col_offset : node.end_col_offset]
        return part if len(part) <= 60 else f"{part[:57]}..."

    def _name(self, name: str) -> _Part:
        if name in CONSTANTS:
            return _constant(CONSTANTS[name])
        if name in FUNCTIONS:
            raise InvalidPolicy(f"{name} is a function: write {name}(…)")
        if name not in VARIABLES:
            raise InvalidPolicy(f"the name {name[:40]} is not known; known are {', '.join((*VARIABLES, *CONSTANTS))}")
        self.names.add(name)
        return lambda values: values[name]

    def _call(self, name: str, arguments: list[ast.expr], depth: int) -> _Part:
        if name not in FUNCTIONS:
            raise InvalidPolicy(f"the function {name[:40]} is not known; known are {', '.join(FUNCTIONS)}")
        function, least, most = FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise InvalidPolicy(f"{name} takes {wanted} arguments, not {len(arguments)}")
        parts = [self.number(argument, depth + 1) for argument in arguments]
        if len(parts) == 1:
            return _unary(function, parts[0])
        return lambda values: function(*[part(values) for part in parts])


def _constant(value: object) -> _Part:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidPolicy(f"{str(value)[:40]} is no number")
    number = nearest_float(value)
    if not math.isfinite(number):
        raise InvalidPolicy("a number in it is too large")
    return lambda _: number


def _negative(part: _Part) -> _Part:
    return lambda values: -part(values)


def _unary(function: Callable[[float], float], part: _Part) -> _Part:
    return lambda values: function(part(values))


def _binary(operator: Callable[[float, float], float], left: _Part, right: _Part) -> _Part:
    return lambda values: operator(left(values), right(values))


def _conditional(test: _Condition, body: _Part, orelse: _Part) -> _Part:
    return lambda values: body(values) if test(values) else orelse(values)


def _comparison(compare: Callable[[float, float], bool], left: _Part, right: _Part) -> _Condition:
    return lambda values: compare(left(values), right(values))


def _joined(join: Callable[[Iterable[bool]], bool], conditions: list[_Condition]) -> _Condition:
    return lambda values: join(condition(values) for condition in conditions)


def _negation(condition: _Condition) -> _Condition:
    return lambda values: not condition(values)
