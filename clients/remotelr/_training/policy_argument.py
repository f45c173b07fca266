"""The argument `policy`: a document, or an object of remotelr.rules."""

from collections.abc import Mapping
from typing import Any

from remotelr.rules import Policy, policy_from_json, policy_to_json
from remotelr.rules.policy.codec import node_to_json

_EXAMPLE = "give a document such as {'type': 'cosine', 'decay_steps': 20}"


def document_of(policy: Any, also: str = "", remedy: str = _EXAMPLE) -> dict[str, Any]:
    """The canonical document of `policy`. also: what else the caller takes. remedy: for the TypeError.

    Raises InvalidPolicy and TypeError.
    """
    if isinstance(policy, Policy):
        return policy_to_json(policy)
    if not (isinstance(policy, Mapping) or hasattr(policy, "type")):
        raise TypeError(
            f"policy must be a document{', ' if also else ' or '}a policy of remotelr.rules{also}, got "
            f"{policy!r:.100}; {remedy}"
        )
    return policy_to_json(policy_from_json(dict(policy if isinstance(policy, Mapping) else node_to_json(policy))))
