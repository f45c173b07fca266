"""`expression`: the rate as a formula. What a formula may say, and why it is safe, is in `formula`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count, islice
from math import ceil, floor
from typing import Any, ClassVar, Final, Self

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.schedules.base import Binding, Point, State, rate_of_run
from remotelr.rules.schedules.formula import FAILURES, Formula, compile_formula
from remotelr.rules.values.fields import Length, Rate, check_fields

# Parts of a recursive formula that are evaluated for one rate, about 10 ms: they bound how far it looks ahead.
BUDGET: Final = 100_000

# A formula without a value at a position is tried at so many others at most, until one has a value.
_TRIES_BACK: Final = 50
# Binding a policy tries its formulas once; counted as a cost of each, at most 100 of them are in a policy.
_TRYING_COST: Final = 2_000

# How many positions of a formula are tried when a policy is bound, and how far they reach without a length.
TRIED, FARTHEST = 2_000, 1_000_000

# What a recursive formula is tried with when its rate will only be handed over later.
_NOMINAL_RATE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """The rate a formula gives, such as `0.01 * 0.95 ** epoch` or `lr if epoch < 10 else lr * exp(-0.1)`.

    expression: arithmetic on these names:
        epoch, step: the position, in the policy's unit, under either name.
        initial_learning_rate, base_lr: the rate the run begins with.
        lr: the rate one position earlier; at the first, the rate the run begins with or the part before
            has arrived at. It makes the formula recursive.
        total: length of the run in the policy's unit. pi, e.
    initial: the rate to begin with instead of the run's; in JSON `initial_learning_rate`.
    total: the length instead of the run's.

    Keras `LearningRateScheduler`, torch `LambdaLR` (write `initial_learning_rate * …`) and `MultiplicativeLR`
    (write `lr * … if epoch > 0 else lr`), optax's own callables.

    Bound to a run, the formula is tried at up to 2,000 positions, up to the end of the run or, without a length,
    up to 1,000,000 (recursive: the first 2,000); where it has no finite value, or a negative one within the run's
    length, the policy is refused. Where it has none later, the last finite rate holds.

    What a recursive formula remembers is the rate at the newest reported position, from which it goes on. It looks
    ahead 100,000 evaluated parts of the formula at most; beyond, the rate reached there holds. If two epochs of a run
    need more, the policy is refused.
    """

    type: ClassVar[str] = "expression"

    expression: str
    initial: Rate | None = field(default=None, metadata={"name": "initial_learning_rate"})
    total: Length | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        try:
            compile_formula(self.expression)
        except InvalidPolicy as error:
            raise error.under("expression") from None

    @property
    def is_stateful(self) -> bool:
        return "lr" in self._formula.names

    @property
    def initial_learning_rate(self) -> float | None:
        """The first rate, if the formula alone determines it."""
        if self.is_stateful or self._open_names():
            return self.initial
        return self.value(0.0, 0.0)

    def bind(self, binding: Binding) -> Self:
        open_names = self._open_names()
        total = self.total
        if "total" in open_names:
            if binding.total is None:
                raise InvalidPolicy("is used by the formula: give it, or give the run a length", "total")
            total = float(binding.total)
        bound = replace(self, total=total, initial=rate_of_run(binding) if "initial" in open_names else self.initial)
        bound.check(binding)
        return bound

    def check(self, binding: Binding) -> None:
        """Try the formula. Raises InvalidPolicy where it has no finite value, or a negative one in the run."""
        # A report moves the state to the first position of the epoch that ended, so the next epoch is two epochs ahead.
        ahead = 2 * (binding.epoch_length or 1) * self._formula.size
        if self.is_stateful and ahead > BUDGET:
            raise InvalidPolicy(
                f"uses lr, so two epochs of {binding.epoch_length:,} positions evaluate {ahead:,} parts, and may "
                f"evaluate {BUDGET:,}: write the formula without lr, or count epochs",
                "expression",
            )
        first = self.initial or binding.initial_learning_rate or _NOMINAL_RATE
        length = self.total if binding.total is None else binding.total
        problem = _problem(self, first, length)
        if problem is not None:
            raise InvalidPolicy(problem, "expression")

    def start(self, learning_rate: float) -> State:
        if not self.is_stateful:
            return None
        return {"position": 0, "learning_rate": learning_rate if self.initial is None else self.initial}

    def observe(self, state: State, point: Point) -> State:
        if state is None:
            return None
        position = floor(point.position) + 1
        if position <= state["position"]:
            return state
        return {"position": position, "learning_rate": self._before(state, position)}

    def learning_rate(self, state: State, position: float) -> float:
        if state is None:
            value = self.value(position, 0.0)
            return self._last_value(position) if value is None else value
        if position <= state["position"] - 1:
            return float(state["learning_rate"])
        lr = self._before(state, ceil(position))
        if ceil(position) > state["position"] + self._reach:
            return lr
        return self._next(position, lr)

    def momentum(self, state: State, position: float) -> float | None:
        return None

    def plateau(self, state: State) -> Mapping[str, Any] | None:
        return None

    @property
    def cost(self) -> int:
        """The parts evaluated for one rate at most; see `policy.cost`."""
        return BUDGET if self.is_stateful else max(_TRIES_BACK * self._formula.size, _TRYING_COST)

    @property
    def _formula(self) -> Formula:
        return compile_formula(self.expression)

    @property
    def _reach(self) -> int:
        """Positions that a recursive formula is evaluated ahead of its state."""
        return BUDGET // self._formula.size

    def _open_names(self) -> set[str]:
        """The variables of the formula that have no value yet."""
        names = self._formula.names
        missing = set()
        if self.initial is None and names & {"initial_learning_rate", "base_lr"}:
            missing.add("initial")
        if self.total is None and "total" in names:
            missing.add("total")
        return missing

    def value(self, position: float, lr: float) -> float | None:
        """What the formula gives, or None where that is no finite number."""
        values = {
            "epoch": position,
            "step": position,
            "lr": lr,
            "initial_learning_rate": self.initial or 0.0,
            "base_lr": self.initial or 0.0,
            "total": self.total or 0.0,
        }
        try:
            return self._formula(values)
        except FAILURES:
            return None

    def _next(self, position: float, lr: float) -> float:
        value = self.value(position, lr)
        return lr if value is None else value

    def _before(self, state: State, position: int) -> float:
        """The rate that a recursive formula meets at `position`: the one a position earlier."""
        first, lr = state["position"], state["learning_rate"]
        until = min(position, first + self._reach)
        trail = _trail(self.expression, self.initial, self.total, first, lr)
        at, lr = trail.reached if trail.reached[0] <= until else (first, lr)
        while at < until:
            lr = self._next(float(at), lr)
            at += 1
        trail.reached = (at, lr)
        return float(lr)

    def _last_value(self, position: float) -> float:
        """The last finite rate before a position that has none: gallop back to one, then close in on the last."""
        bad, stride = ceil(position), 1
        while (good := max(bad - stride, 0)) < bad and self.value(float(good), 0.0) is None:
            bad, stride = good, stride * 2
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (good, middle) if self.value(float(middle), 0.0) is None else (middle, bad)
        value = self.value(float(good), 0.0)
        return (self.initial or 0.0) if value is None else value


class _Trail:
    """How far a recursive formula has been followed from one state: a position, and the rate it meets there."""

    __slots__ = ("reached",)

    def __init__(
        self, _expression: str, _initial: float | None, _total: float | None, position: int, lr: float
    ) -> None:
        # One tuple, replaced as a whole: threads may follow the same trail and lose nothing but time.
        self.reached = (position, lr)


# Shared, so that evaluating every step of an epoch does not begin anew each time.
_trail = lru_cache(maxsize=256)(_Trail)


@lru_cache(maxsize=1024)
def _problem(node: Expression, first: float, length: float | None) -> str | None:
    """Why a bound formula cannot be a policy; None when it can. Kept, since a run is bound again at each restart."""
    lr = first
    for position in _recursive_grid(length) if node.is_stateful else _grid(length):
        value = node.value(position, lr)
        if value is None:
            remedy = "bound it with min, max or clip"
            if length is None:
                remedy += ", or give the run a length"
            return f"has no finite value at position {position:g}: {remedy}"
        if value < 0 and (length is not None or position == 0):
            return f"is negative at position {position:g}: {value!r}"
        lr = value
    return None


def _recursive_grid(length: float | None) -> Iterable[float]:
    longest = TRIED if length is None else min(TRIED, ceil(length))
    return (float(position) for position in range(max(longest, 1)))


def _grid(length: float | None) -> Iterable[float]:
    """Every position of a short run; of a long one, or one of no known length, the first half one by one."""
    end = FARTHEST if length is None else ceil(length)
    if end <= TRIED:
        return (float(position) for position in range(max(end, 1)))
    one_by_one = TRIED // 2
    ratio = ((end - 1) / one_by_one) ** (1 / (TRIED - one_by_one))
    growing = (float(floor(one_by_one * ratio**step)) for step in count(1))
    return (*map(float, range(one_by_one)), *islice(growing, TRIED - one_by_one - 1), float(end - 1))
