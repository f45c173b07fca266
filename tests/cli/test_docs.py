"""docs/operating.md: every command in it is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent.parent / "docs" / "operating.md").read_text()


def commands() -> list[str]:
    """The commands of the page: lines that begin with the word in its blocks, and those between backticks."""
    blocks = re.findall(r"^remotelr [a-z-].*$", "\n".join(re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)), re.MULTILINE)
    return sorted({line.partition(" | ")[0] for line in [*blocks, *re.findall(r"`(remotelr [a-z][^`]* [^`]*)`", PAGE)]})


def test_the_page_has_commands():
    assert len(commands()) > 40


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page_is_understood(terminal, command):
    words = shlex.split(command)[1:]

    # Help is asked for, so nothing is done; what is not understood is refused before.
    said = terminal(*words, "--help")

    assert (0, "") == (said.code, said.err)


def test_the_page_names_every_noun_and_every_exit_code(terminal):
    from remotelr_service.cli.support import exit_codes

    codes = {exit_codes.REFUSED, exit_codes.UNREACHABLE, exit_codes.NOT_IN_TIME, exit_codes.INTERRUPTED, 0, 2}

    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == codes
    for noun in ("runs", "bulk", "experiments", "policy", "token", "doctor", "config"):
        assert f"remotelr {noun}" in PAGE
