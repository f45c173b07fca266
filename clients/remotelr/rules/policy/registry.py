"""The table of node types.

Stored policies must stay readable: a released type is never renamed and never loses a field. A new field has a
default, null if it is optional. A different meaning is a new type.
"""

from collections.abc import Mapping
from typing import Any

from remotelr.rules.composition.combinators import Chained, Sequential
from remotelr.rules.composition.extended import Extended
from remotelr.rules.plateau.greedy import Greedy
from remotelr.rules.plateau.reduce_on_plateau import ReduceOnPlateau
from remotelr.rules.schedules.cosine import Cosine, CosineRestarts, Tanh
from remotelr.rules.schedules.cyclic import Cyclic, OneCycle
from remotelr.rules.schedules.decay import Exponential, InverseTime, MultiStep, Polynomial, Step
from remotelr.rules.schedules.expression import Expression
from remotelr.rules.schedules.linear import Constant, Linear, LRRangeTest
from remotelr.rules.schedules.piecewise import PiecewiseConstant, PiecewiseInterpolate
from remotelr.rules.schedules.warmup_decay import InverseSqrt, Noam, WarmupStableDecay

NODES: Mapping[str, type[Any]] = {
    node.type: node
    for node in (
        Constant,
        Step,
        MultiStep,
        Exponential,
        InverseTime,
        Polynomial,
        Linear,
        PiecewiseConstant,
        PiecewiseInterpolate,
        Cosine,
        CosineRestarts,
        Tanh,
        OneCycle,
        Cyclic,
        InverseSqrt,
        Noam,
        WarmupStableDecay,
        LRRangeTest,
        Sequential,
        Chained,
        ReduceOnPlateau,
        Greedy,
        Expression,
        Extended,
    )
}
