"""The published schema says what the codec does."""

import json

import pytest

from remotelr.rules import InvalidPolicy
from remotelr.rules.policy.codec import node_from_json
from remotelr.rules.policy.json_schema import json_schema
from remotelr.rules.policy.registry import NODES
from support.rules.vectors import EXAMPLES

SCHEMA = json_schema()
DEFINITIONS = SCHEMA["$defs"]


def references(value):
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        value = list(value.values())
    for item in value if isinstance(value, list) else []:
        yield from references(item)


def test_the_schema_is_plain_json():
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA


def test_every_reference_leads_to_a_definition():
    assert {reference.removeprefix("#/$defs/") for reference in references(SCHEMA)} <= set(DEFINITIONS)


@pytest.mark.parametrize("name", NODES)
def test_every_node_is_a_choice_and_refuses_other_fields(name):
    assert {"$ref": f"#/$defs/{name}"} in DEFINITIONS["schedule"]["oneOf"]
    assert {"const": name} == DEFINITIONS[name]["properties"]["type"]
    assert DEFINITIONS[name]["additionalProperties"] is False


@pytest.mark.parametrize("name", NODES)
def test_what_the_schema_requires_the_codec_misses(name):
    for required in DEFINITIONS[name]["required"]:
        document = {key: value for key, value in EXAMPLES[name].items() if key != required}

        with pytest.raises(InvalidPolicy, match="^" + required + ": is missing"):
            node_from_json(document)


@pytest.mark.parametrize("name", NODES)
def test_the_codec_knows_the_properties_of_the_schema_and_no_others(name):
    with pytest.raises(InvalidPolicy) as caught:
        node_from_json(EXAMPLES[name] | {"?": 1})

    known = caught.value.reason.partition("known are ")[2].split(", ")
    assert list(DEFINITIONS[name]["properties"]) == known


def test_a_range_stands_in_the_schema():
    alpha = DEFINITIONS["cosine"]["properties"]["alpha"]

    assert {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]} == alpha


def test_a_field_with_another_name_in_json_stands_there_by_that_name():
    assert "learning_rate" in DEFINITIONS["constant"]["properties"]
    assert "reduce" in DEFINITIONS["aggregate"]["properties"]


def test_a_list_is_bounded():
    assert 1000 == DEFINITIONS["sequential"]["properties"]["schedules"]["maxItems"]
