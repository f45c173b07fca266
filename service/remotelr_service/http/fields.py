"""Fields that several bodies and URLs share, with the bounds that OpenAPI shows."""

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Header, Path, Query
from pydantic import BeforeValidator, Field, PlainValidator, StringConstraints

MAX_EPOCH, MAX_INTEGER, MAX_LEARNING_RATE = 10**7, 2**53 - 1, 1e3
MAX_WORLD_SIZE, MAX_METRICS = 4096, 64
MAX_PAGE, MAX_COUNT, MAX_PLACES = 200, 100_000, 1_000

# pydantic uses Rust's patterns: there `$` matches only the end of the text.
KEY_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$"
METRIC_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_./-]{0,99}$"
TAG_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$"
KEY_HELP: Final = "1 to 200 letters, digits, `.`, `_`, `:` or `-`, beginning with a letter or digit."

TAG_FILTER_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}:\P{C}{0,200}$"

# Patterns as text, for error messages.
PATTERN_TEXTS: Final = {
    KEY_PATTERN: "1 to 200 letters, digits, '.', '_', ':' or '-', beginning with a letter or digit",
    METRIC_PATTERN: "1 to 100 letters, digits, '_', '.', '/' or '-', beginning with a letter",
    TAG_PATTERN: "1 to 63 letters, digits, '_', '.', '/' or '-', beginning with a letter or digit",
}

_NOT_FINITE: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _metric(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    raise ValueError('expected a number, "nan", "inf" or "-inf" as a string, or null if not measured')


def _text_as(form: str, expected: str, read: Callable[[str], object]) -> BeforeValidator:
    """A validator for URL text of this form. A value that is not text is a default and passes."""

    def validate(value: object) -> object:
        if not isinstance(value, str):
            return value
        if re.fullmatch(form, value) is None:
            raise ValueError(expected)
        return read(value)

    return BeforeValidator(validate)


# Python's int() takes " 1" and "1_000" as well.
DECIMAL = _text_as(r"-?[0-9]{1,20}", "expected a whole number in plain digits", int)
_SECONDS = _text_as(r"[0-9]{1,6}(\.[0-9]{1,6})?", "expected seconds in plain digits, such as 30 or 0.5", float)
# A parameter without a value, as in `?verbose`, is true.
_FLAG = _text_as("true|false|", "expected true or false", lambda text: text != "false")

Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN), Field(description=KEY_HELP)]
MetricName = Annotated[str, StringConstraints(pattern=METRIC_PATTERN)]
Metric = Annotated[float | None, PlainValidator(_metric, json_schema_input_type=float | str | None)]
Metrics = Annotated[
    dict[MetricName, Metric],
    Field(
        max_length=MAX_METRICS,
        description='Name to value: a finite number, or "nan", "inf", "-inf". Null and absent mean not measured.',
        examples=[{"val_loss": 0.213, "accuracy": 0.93}],
    ),
]
TagName = Annotated[str, StringConstraints(pattern=TAG_PATTERN)]
# \p{C} is every kind of control, format, surrogate and unassigned character.
TagValue = Annotated[str, StringConstraints(max_length=200, pattern=r"^\P{C}*$")]
Sentence = Annotated[str, StringConstraints(max_length=500, pattern=r"^\P{C}*$")]
Epoch = Annotated[int, Field(ge=0, le=MAX_EPOCH, description="The epoch, 0-based.")]
Steps = Annotated[int, Field(ge=0, le=MAX_INTEGER, description="Optimizer steps made so far.")]
Sequence = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
WorldSize = Annotated[int, Field(ge=1, le=MAX_WORLD_SIZE, description="Number of ranks.")]
LearningRate = Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)]
LearningRateOrZero = Annotated[float, Field(ge=0, le=MAX_LEARNING_RATE)]
PolicyDocument = Annotated[
    dict[str, Any],
    Field(
        description="A policy `{schedule, unit?, min_lr?, max_lr?, aggregate?}`, or a schedule alone: see "
        "`GET /v1/policies/schema`.",
        examples=[{"type": "reduce_on_plateau", "monitor": "val_loss", "mode": "min", "factor": 0.5, "patience": 5}],
    ),
]

RunKey = Annotated[str, Path(pattern=KEY_PATTERN, description=f"The run's key: {KEY_HELP}", examples=["mnist-7"])]
ExperimentName = Annotated[
    str, Path(pattern=KEY_PATTERN, description=f"The experiment's name: {KEY_HELP}", examples=["digits"])
]
CommandNumber = Annotated[
    int, Path(ge=1, le=MAX_INTEGER, description="The id of the bulk command.", examples=[3]), DECIMAL
]
AfterSequence = Annotated[int, Query(ge=0, le=MAX_INTEGER, description="Only entries after this `seq`."), DECIMAL]
AfterNumber = Annotated[int, Query(ge=0, le=MAX_INTEGER, description="Only entries after this id."), DECIMAL]
TokenNumber = Annotated[int, Path(ge=1, le=MAX_INTEGER, description="The token's `id`.", examples=[1]), DECIMAL]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Maximum number of entries, 1 to 200."), DECIMAL]
OptionalLimit = Annotated[
    int | None, Query(ge=1, le=MAX_PAGE, description="Maximum number of entries, 1 to 200."), DECIMAL
]
Wait = Annotated[
    float,
    Query(ge=0, le=300, description="Maximum time to wait in seconds. The service's own limit (60) applies, too."),
    _SECONDS,
]
IdempotencyKey = Annotated[
    str | None, Header(pattern=KEY_PATTERN, description="The command's key, if the body has none.")
]
OnlyFailed = Annotated[bool, Query(description="List only failed results."), _FLAG]
AfterPlace = Annotated[
    int, Query(ge=0, le=MAX_INTEGER, description="Only results after this place of the list."), DECIMAL
]
PlaceLimit = Annotated[
    int, Query(ge=1, le=MAX_PLACES, description=f"Maximum number of results, 1 to {MAX_PLACES}."), DECIMAL
]
EventNumber = Annotated[
    int, Path(ge=1, le=MAX_INTEGER, description="Number of the command in the run's log.", examples=[12]), DECIMAL
]
WithSteps = Annotated[
    bool,
    Query(
        alias="steps",
        description="Add `learning_rates`, one for each step of the next epoch. Needs the run's `steps_per_epoch`.",
    ),
    _FLAG,
]
Stalled = Annotated[bool | None, Query(description="Only stalled runs; with `false` only the others."), _FLAG]
Verbose = Annotated[bool, Query(description="List every check by name."), _FLAG]
