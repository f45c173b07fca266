"""docs/failures.md and the tests say the same: every row names a test that is there, every case has a row."""

import re
from pathlib import Path

import pytest

from reliability import test_client_chaos, test_client_processes, test_preemption

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "failures.md").read_text()
PROOFS = (test_client_chaos, test_client_processes, test_preemption)


def named() -> list[str]:
    """The page's tests: `file::test`, or `file::test[case]` where a row names a case of the test above its table."""
    tests: list[str] = []
    above = ""
    for line in PAGE.splitlines():
        if line.startswith("`"):
            above = line.strip("`")
        if found := re.search(r"`([^`]+)` \|$", line):
            tests.append(above + found[1] if found[1].startswith("[") else found[1])
    return tests


def cases(module) -> list[str]:
    """What pytest calls the tests of a module."""
    file = f"reliability/{module.__name__.rpartition('.')[2]}.py"
    return [
        f"{file}::{name}{case}"
        for name, test in vars(module).items()
        if name.startswith("test_")
        for case in _cases(test)
    ]


def _cases(test) -> list[str]:
    marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
    return [f"[{case}]" for mark in marks for case in mark.kwargs["ids"]] or [""]


@pytest.mark.parametrize("module", PROOFS)
def test_every_case_of_a_proof_has_a_row(module):
    assert [] == [case for case in cases(module) if case not in named()]


@pytest.mark.parametrize("row", named())
def test_every_row_names_a_test_that_is_there(row):
    file, _, test = row.partition("::")
    if "[" in test:
        assert row in [case for module in PROOFS for case in cases(module)]
    else:
        assert re.search(rf"^def {test}\(", (TESTS / file).read_text(), re.MULTILINE)


def test_no_test_has_two_rows():
    assert sorted(set(named())) == sorted(named())
