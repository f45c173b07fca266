"""The `policy` argument: a document, an object of remotelr.rules or of Keras, or the arguments of a plateau."""

from collections.abc import Mapping
from typing import Any

import keras

from remotelr.rules import Policy, policy_from_json, policy_to_json
from remotelr.rules.policy.codec import node_to_json


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
    if isinstance(policy, Policy):
        return policy_to_json(policy)
    if isinstance(policy, keras.optimizers.schedules.LearningRateSchedule):
        schedule = {"type": type(policy).__name__, **policy.get_config()}
        # A name in the graph, not a property of the curve.
        schedule.pop("name", None)
        return policy_to_json(policy_from_json({"schedule": schedule, "unit": "step"}))
    if not (isinstance(policy, Mapping) or hasattr(policy, "type")):
        remedy = "give a document such as {'type': 'cosine', 'decay_steps': 20}"
        if callable(policy):
            remedy = "pass a function as RemoteLR.from_callbacks([LearningRateScheduler(function)], ..., epochs=...)"
        raise TypeError(
            f"policy must be a document, a policy of remotelr.rules or a Keras LearningRateSchedule, got "
            f"{policy!r:.100}; {remedy}"
        )
    document = policy if isinstance(policy, Mapping) else node_to_json(policy)
    return policy_to_json(policy_from_json(dict(document)))
