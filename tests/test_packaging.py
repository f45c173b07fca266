"""The two distributions: their dependencies, their metadata and their contents.

`.ci/check_wheels.py` builds the wheels and runs them in environments of their own.
"""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from test_architecture import imports, modules

ROOT = Path(__file__).parent.parent
SERVICE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLIENT = tomllib.loads((ROOT / "clients" / "pyproject.toml").read_text())["project"]

MODULES = {"scikit-learn": "sklearn"}


def test_the_client_needs_httpx_and_nothing_else() -> None:
    assert ["httpx"] == [_name(dependency) for dependency in CLIENT["dependencies"]]


def test_the_two_distributions_are_released_together() -> None:
    assert SERVICE["version"] == CLIENT["version"]
    assert f"remotelr=={CLIENT['version']}" in SERVICE["dependencies"]


@pytest.mark.parametrize("field", ["license", "requires-python"])
def test_the_two_distributions_agree_on_their(field: str) -> None:
    assert SERVICE[field] == CLIENT[field]


def test_both_distributions_carry_the_same_license() -> None:
    license_text = (ROOT / "LICENSE").read_text()

    assert "Apache License" in license_text
    assert license_text == (ROOT / "clients" / "LICENSE").read_text()


def test_everything_the_service_imports_is_declared() -> None:
    dependencies = SERVICE["dependencies"] + SERVICE["optional-dependencies"]["demo"]
    declared = {_module(dependency) for dependency in dependencies}
    imported = {
        found.name.partition(".")[0]
        for module, file in modules().items()
        if not module.startswith("remotelr.")
        for found in imports(module, file.read_text())
    }

    assert _third_party(imported) <= declared


def test_every_pattern_of_gitignore_is_anchored() -> None:
    """hatchling omits what git ignores, even if the configuration includes it: `versions/` would empty the wheel."""
    patterns = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line and not line.startswith("#")]

    assert ["__pycache__/"] == [pattern for pattern in patterns if not pattern.startswith("/")]


def test_every_make_command_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"\bmake ([a-z]+)(?=\s+#|`|$)", (ROOT / "README.md").read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {"demo", "test"} <= named
    assert named <= targets


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("name", ["uv.lock", "pylock.toml"])
def test_a_lock_file_stays_on_the_machine_that_made_it(name: str) -> None:
    """It records where every file was downloaded."""
    assert f"/{name}" in (ROOT / ".gitignore").read_text().splitlines()


def _name(requirement: str) -> str:
    """`psycopg[binary]>=3.3` is `psycopg`."""
    for end, character in enumerate(requirement):
        if not (character.isalnum() or character in "-_."):
            return requirement[:end]
    return requirement


def _module(requirement: str) -> str:
    """`pydantic-settings>=2.16` is imported as `pydantic_settings`."""
    name = _name(requirement)
    return MODULES.get(name, name.replace("-", "_"))


def _third_party(names: set[str]) -> set[str]:
    return names - set(sys.stdlib_module_names) - {"remotelr_service", "migrations"}
