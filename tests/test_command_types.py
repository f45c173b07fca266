"""Every command type of operators has a table row, a sentence, a request body, a client method and a subcommand."""

import inspect
from typing import get_args

import pytest

from remotelr import Run
from remotelr.rules import Command, command_text, policy_from_json
from remotelr.rules.run import command
from remotelr.rules.run.command import COMMANDS, CommandType, OperatorCommandType
from remotelr_service.cli import command_args
from remotelr_service.features.commands.schemas import AnyCommandBody

TYPES = get_args(OperatorCommandType)
POLICY = policy_from_json({"type": "constant", "learning_rate": 0.1})


def test_the_table_has_every_command_type():
    assert set(COMMANDS) == set(get_args(CommandType)) >= set(TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_a_sentence_describes_every_command_type(name: OperatorCommandType):
    made = Command(type=name, value=0.1, factor=0.5, total=3, text="a", seq=1, policy=POLICY)

    assert isinstance(command_text(made), str)


@pytest.mark.parametrize("name", TYPES)
def test_the_client_has_a_method_for_every_command_type(name: str):
    assert inspect.isfunction(getattr(Run, name, None))


def test_the_service_has_a_request_body_for_every_command_type():
    union, *_ = get_args(AnyCommandBody)

    assert set(TYPES) == {get_args(body.model_fields["type"].annotation)[0] for body in get_args(union)}


@pytest.mark.parametrize("name", TYPES)
def test_the_command_line_has_a_subcommand_for_every_command_type(name: str):
    assert 1 == sum(f'"type": "{name}"' in inspect.getsource(function) for function in command_args.FOR_ONE.values())


@pytest.mark.parametrize(
    ("offered", "known"),
    [
        (command_args.Mode, command.Mode),
        (command_args.StateMode, command.StateMode),
        (command_args.Continuity, command.Continuity),
    ],
)
def test_the_command_line_offers_the_choices_of_the_rules(offered: object, known: object):
    assert get_args(known) == get_args(offered)
