"""The pinned versions: the same ones for uv and for pip, from nowhere in particular, and without CUDA."""

import importlib.util
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

_spec = importlib.util.spec_from_file_location("compile_requirements", ROOT / "requirements" / "compile.py")
assert _spec is not None
assert _spec.loader is not None
compile_requirements = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(compile_requirements)

PROJECT = (ROOT / "pyproject.toml").read_text()
DEVELOPMENT = (ROOT / "requirements" / "dev.txt").read_text()
SERVICE = (ROOT / "requirements" / "service.txt").read_text()


def test_uv_and_pip_take_the_same_versions() -> None:
    constraints = tomllib.loads(PROJECT)["tool"]["uv"]["constraint-dependencies"]

    assert compile_requirements.pins(DEVELOPMENT) == constraints


def test_the_service_runs_with_versions_that_were_tested() -> None:
    tested = {pin.partition(" ;")[0] for pin in compile_requirements.pins(DEVELOPMENT)}
    shipped = {pin.partition(" ;")[0] for pin in compile_requirements.pins(SERVICE)}

    assert shipped <= tested


@pytest.mark.parametrize("declared_in", ["pyproject.toml", "clients/pyproject.toml"])
def test_every_declared_dependency_is_pinned(declared_in: str) -> None:
    project = tomllib.loads((ROOT / declared_in).read_text())
    extras = project["project"].get("optional-dependencies", {})
    groups = project.get("dependency-groups", {})
    entries = chain(project["project"]["dependencies"], *extras.values(), *groups.values())
    declared = {_name(entry) for entry in entries if isinstance(entry, str)}

    assert declared - {_name(pin) for pin in compile_requirements.pins(DEVELOPMENT)} <= {"remotelr"}


@pytest.mark.parametrize("requirements", [DEVELOPMENT, SERVICE], ids=["dev", "service"])
def test_every_pinned_version_has_hashes(requirements: str) -> None:
    entries = re.split(r"\n(?=[a-z])", requirements.partition("\n")[2])

    assert [] == [entry for entry in entries if "--hash=sha256:" not in entry]


@pytest.mark.parametrize("requirements", [DEVELOPMENT, SERVICE], ids=["dev", "service"])
def test_no_registry_is_named(requirements: str) -> None:
    assert "://" not in requirements
    assert re.search(r"^-", requirements, re.MULTILINE) is None


@pytest.mark.parametrize("unwanted", ["torch", "tensorflow", "nvidia", "cuda"])
def test_nothing_that_resolves_to_cuda_builds_is_pinned(unwanted: str) -> None:
    assert [] == [pin for pin in compile_requirements.pins(DEVELOPMENT) if unwanted in pin]


def _name(requirement: str) -> str:
    """`psycopg[binary]>=3.3` is `psycopg`."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return match[0].lower().replace("_", "-")
