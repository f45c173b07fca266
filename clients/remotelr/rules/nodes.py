"""The table of node types.

What is stored is a promise: a released type is never renamed and never loses a field; a new field has a default,
and an optional one has the default null; a different meaning is a new type.
"""

from collections.abc import Mapping
from typing import Any

from remotelr.rules.compose import Chained, Sequential
from remotelr.rules.cosines import Cosine, CosineRestarts, Tanh
from remotelr.rules.cycles import Cyclic, OneCycle
from remotelr.rules.decays import Exponential, InverseTime, MultiStep, Polynomial, Step
from remotelr.rules.expression import Expression
from remotelr.rules.extended import Extended
from remotelr.rules.greedy import Greedy
from remotelr.rules.lines import Constant, Linear, LRRangeTest
from remotelr.rules.pieces import PiecewiseConstant, PiecewiseInterpolate
from remotelr.rules.plans import InverseSqrt, Noam, WarmupStableDecay
from remotelr.rules.plateau import ReduceOnPlateau

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
