"""Programs of the system that a proof needs beside Python's packages. `.ci/run` installs them."""

import os
from pathlib import Path
from typing import NoReturn

import pytest


def tool(pattern: str, package: str) -> Path:
    """The file of this name below `/usr`. Where it is not there the proof fails in CI, and is skipped elsewhere."""
    found = sorted(Path("/usr").glob(pattern))
    if not found:
        _missing(f"{pattern} is not there: install Debian's package {package}")
    return found[0]


def _missing(why: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
