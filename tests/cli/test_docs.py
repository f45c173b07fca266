"""The command line accepts every command of docs/operating.md."""

import re
import shlex
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent.parent / "docs" / "operating.md").read_text()


def commands() -> list[str]:
    """The commands of the page: lines of its blocks that begin with `remotelr`, and those in backticks."""
    blocks = re.findall(r"^remotelr [a-z-].*$", "\n".join(re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)), re.MULTILINE)
    return sorted({line.partition(" | ")[0] for line in [*blocks, *re.findall(r"`(remotelr [a-z][^`]* [^`]*)`", PAGE)]})


def test_the_page_has_commands():
    assert len(commands()) > 40


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page_is_accepted(terminal, command):
    words = shlex.split(command)[1:]

    # With --help nothing runs, and invalid arguments still fail.
    result = terminal(*words, "--help")

    assert (0, "") == (result.code, result.err)


def test_the_page_names_every_noun_and_every_exit_code(terminal):
    from remotelr_service.cli.support import exit_codes

    codes = {exit_codes.REFUSED, exit_codes.UNREACHABLE, exit_codes.NOT_IN_TIME, exit_codes.INTERRUPTED, 0, 2}

    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == codes
    for noun in ("runs", "bulk", "experiments", "policy", "token", "doctor", "config"):
        assert f"remotelr {noun}" in PAGE
