"""Choose the newest version of every dependency, and write the choice where uv and pip look for it.

uv reads `constraint-dependencies` in pyproject.toml, pip reads requirements/*.txt with their hashes; tests keep
them equal. A lock file would do for uv, but it records where each file was downloaded, and that differs from
one network to the next.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "pyproject.toml"
DEVELOPMENT = ROOT / "requirements" / "dev.txt"
SERVICE = ROOT / "requirements" / "service.txt"

_CONSTRAINTS = re.compile(r"^constraint-dependencies = \[.*?\]\n", re.MULTILINE | re.DOTALL)
_PIN = re.compile(r"^(?P<pin>[a-z0-9][^\s=]*==[^\\\n]+?)\s*\\?$", re.MULTILINE)
_HEADER = "# Written by `make requirements`: every version that {what} runs with.\n"


def main() -> None:
    project = PROJECT.read_text()
    chosen = resolve(_CONSTRAINTS.sub("", project, count=1), "--group=dev")
    project = with_constraints(project, pins(chosen))
    DEVELOPMENT.write_text(_HEADER.format(what="development, tests and demo included,") + chosen)
    SERVICE.write_text(_HEADER.format(what="the service") + resolve(project))
    PROJECT.write_text(project)


def resolve(project: str, *groups: str) -> str:
    """The newest versions that this pyproject.toml allows, for every platform, with the hashes of their files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_text(project)
        shutil.copytree(ROOT / "clients", folder / "clients")
        command = ["uv", "pip", "compile", "pyproject.toml", *groups, "--universal", "--generate-hashes"]
        quiet = ["--quiet", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
        # The client is this repository's own.
        ours = ["--no-emit-package=remotelr", "--output-file=chosen.txt"]
        subprocess.run([*command, *quiet, *ours], cwd=folder, check=True, stdout=sys.stderr)
        return (folder / "chosen.txt").read_text()


def pins(requirements: str) -> list[str]:
    """The `name==version` lines of a requirements file, markers included, hashes not."""
    return [match["pin"] for match in _PIN.finditer(requirements)]


def with_constraints(project: str, constraints: list[str]) -> str:
    """The pyproject.toml with these as the versions that uv may choose."""
    lines = "".join(f'    "{constraint}",\n' for constraint in constraints)
    return _CONSTRAINTS.sub(lambda _: f"constraint-dependencies = [\n{lines}]\n", project, count=1)


if __name__ == "__main__":
    main()
