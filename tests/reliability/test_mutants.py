"""The reliability tests find known bugs.

Each bug of the power table (`faults/mutants.py`) is planted in a copy of the packages, and the proof that is named
beside it is run on the copy, as it is, in a pytest of its own. The default run plants the cheap ones.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.mutants import MUTANTS, ROOT, Mutant

LONG = "REMOTELR_PROOF"
PLANTED = [mutant for mutant in MUTANTS if mutant.cheap or os.environ.get(LONG)]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutant", PLANTED, ids=lambda mutant: mutant.name)
def test_the_test_named_beside_a_bug_fails_on_it(
    mutant: Mutant, tmp_path: Path, postgres_server: str, tell: Callable[[str], None]
):
    done = _run_proof_of(mutant, tmp_path, postgres_server)
    # A failure in a task group is printed as a tree, whose lines do not begin with `E`.
    shown = [line for line in done.stdout.splitlines() if line.startswith("E ") or "AssertionError: " in line]
    found = [line for line in shown if mutant.says in line]
    tell(f"caught by {mutant.caught_by}: {(found or ['-'])[0][:160]}")

    assert pytest.ExitCode.TESTS_FAILED == done.returncode, done.stdout[-3000:] + done.stderr[-3000:]
    assert found, done.stdout[-3000:]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_functions_of_a_bug_have_the_parameters_of_the_replaced_ones(mutant: Mutant):
    """
    Also of bugs that only the long form plants: else a test would fail by a mistake in the bug.
    """
    for file, code in mutant.code.items():
        right, planted = _parameters((ROOT / file).read_text()), _parameters(code)

        assert {name: right[name] for name in planted if name in right} == {
            name: taken for name, taken in planted.items() if name in right
        }


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_code_of_a_bug_replaces_a_definition_and_reads_only_defined_names(mutant: Mutant):
    assert [] == mutant.mistakes()


@pytest.mark.parametrize(
    ("code", "mistake"),
    [
        ("_right = gone\n", "gone is not defined"),
        ("def _on_connect(file):\n    return gone(file)\n", "gone is not defined"),
        ("def gone(file):\n    pass\n", "gone replaces nothing and is not used"),
        ("Database.gone = lambda self: None\n", "Database.gone is not defined"),
        ("Database.close = lambda self: self.gone\n", "self.gone is not used in the file"),
        ("_right = _on_connect\n_right(None)\n", "no definition is replaced"),
    ],
)
def test_a_name_that_has_gone_is_found_in_the_code_of_a_bug(code: str, mistake: str):
    file = "service/remotelr_service/db/engine.py"

    assert f"{file}: {mistake}" in Mutant("renamed", {file: code}, "", "").mistakes()


def test_a_copy_without_a_bug_passes(tmp_path: Path, postgres_server: str):
    """
    Otherwise the copy could cause the failures above.
    """
    healthy = Mutant("none", {}, "test_fsync.py::test_the_connection_that_writes_to_sqlite_waits_for_the_disk", "")
    done = _run_proof_of(healthy, tmp_path, postgres_server)

    assert pytest.ExitCode.OK == done.returncode, done.stdout[-3000:] + done.stderr[-3000:]


def _parameters(source: str) -> dict[str, list[str]]:
    """The parameters of each function of a module."""
    functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {each.name: [taken.arg for taken in (*each.args.args, *each.args.kwonlyargs)] for each in functions}


def _run_proof_of(mutant: Mutant, folder: Path, postgres_server: str) -> subprocess.CompletedProcess[str]:
    """Run the short form of the test on a copy with the bug."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != LONG},
        "PYTHONPATH": os.pathsep.join(map(str, mutant.plant(folder / "copy"))),
        "REMOTELR_TEST_POSTGRES_URL": postgres_server,
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--color=no"]
    return subprocess.run(
        [*command, f"--basetemp={folder / 'proof'}", f"tests/reliability/{mutant.caught_by}"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
