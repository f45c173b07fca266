"""SECURITY.md names the tests; properties that no request can show are checked in the code."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()
ROWS = re.findall(r"^\| (S\d+) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
NAMED = sorted({name for _, _, held_by in ROWS for name in re.findall(r"`(tests/\S+::\w+)`", held_by)})
SERVICE = ROOT / "service" / "remotelr_service"
SOURCES = [*ROOT.glob("clients/remotelr/**/*.py"), *ROOT.glob("service/remotelr_service/**/*.py")]


def test_every_point_of_the_list_has_its_row():
    assert [f"S{number}" for number in range(1, 56)] == [number for number, _, _ in ROWS]


@pytest.mark.parametrize("name", NAMED)
def test_every_row_names_a_test_that_is_there(name: str):
    file, _, test = name.partition("::")

    assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), name


def test_every_row_names_a_test_or_the_reason_for_none():
    bare = [number for number, _, held_by in ROWS if "`tests/" not in held_by and not held_by.endswith(".")]

    assert [] == bare


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell():
    assert len(SOURCES) > 200

    wrong = [f"{file.relative_to(ROOT)}: {found}" for file in SOURCES for found in _dangerous(file)]

    assert [] == wrong


def _dangerous(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names if each.name in ("pickle", "marshal", "shelve", "dill", "yaml"))
            case ast.ImportFrom(module="pickle" | "marshal" | "shelve" | "dill" | "yaml" as module):
                yield module
            case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__" as name)):
                yield name
            case ast.keyword(arg="shell"):
                yield "shell="


def test_nothing_is_decided_by_an_address_that_a_header_can_forge():
    """CVE-2026-48710: `request.url` is made from the header Host; the path of the scope is not."""
    files = [file for part in ("http", "features", "server") for file in SERVICE.glob(f"{part}/**/*.py")]
    users = [
        str(file.relative_to(ROOT))
        for file in files
        if re.search(r"\.(url|base_url)\b", re.sub(r'""".*?"""|#.*', "", file.read_text(), flags=re.DOTALL))
    ]

    assert len(files) > 50
    assert [] == users


def test_no_statement_changes_the_audit():
    """The table is named in two places: where rows are added, and where they are read."""
    used = [
        line.strip()
        for file in SERVICE.glob("**/*.py")
        for line in file.read_text().splitlines()
        if re.search(r"\((audit)[,)]", line)
    ]

    assert ["connection.execute(insert(audit), row)"] == [line for line in used if "select(" not in line]


def test_releases_with_known_holes_are_too_old():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]

    assert {"starlette>=1.0.1", "h11>=0.16"} <= set(declared)


def test_the_container_can_do_no_more_than_it_must():
    service: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["remotelr"]

    assert (True, ["ALL"], ["no-new-privileges:true"]) == (
        service["read_only"],
        service["cap_drop"],
        service["security_opt"],
    )
