"""The `policy` argument: a document, an object of remotelr.rules or of Keras, or the arguments of a plateau."""

from collections.abc import Mapping
from typing import Any

import keras

from remotelr._training.policy_argument import document_of
from remotelr.rules import policy_from_json, policy_to_json

_FUNCTION = "pass a function as RemoteLR.from_callbacks([LearningRateScheduler(function)], ..., epochs=...)"


def policy_of(policy: Any, plateau: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical document of `policy`.

    plateau: the arguments that replace a missing policy. defaults: of those arguments.

    Raises InvalidPolicy, TypeError and ValueError.
    """
    if policy is None:
        return policy_to_json(policy_from_json({"type": "reduce_on_plateau", "flavor": "keras", **plateau}))
    given = [name for name, value in plateau.items() if value != defaults[name]]
    if given:
        raise ValueError(f"{', '.join(given)} belong to the default policy, a plateau: put them into `policy` instead")
    if isinstance(policy, keras.optimizers.schedules.LearningRateSchedule):
        schedule = {"type": type(policy).__name__, **policy.get_config()}
        # A name in the graph, not a property of the curve.
        schedule.pop("name", None)
        return policy_to_json(policy_from_json({"schedule": schedule, "unit": "step"}))
    remedy = {"remedy": _FUNCTION} if callable(policy) and not hasattr(policy, "type") else {}
    return document_of(policy, " or a Keras LearningRateSchedule", **remedy)
