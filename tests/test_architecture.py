"""The map: who may import whom. A change of the map is a change of the table below, and should be argued for."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Room:
    """A module or package, and what it may import beside the standard library and itself."""

    name: str
    may_use: tuple[str, ...]
    reason: str


# A file belongs to the room with the longest name that fits.
ROOMS = (
    Room("remotelr.rules", (), "the rules run in trainers and in the service alike, and are replayed for years"),
    Room(
        "remotelr._http.transport",
        ("remotelr", "httpx", "httpx2"),
        "the only file that knows which library speaks HTTP",
    ),
    Room("remotelr.keras", ("remotelr", "keras"), "one folder per framework, and no other framework in it"),
    Room("remotelr", (), "a trainer's environment is not ours: the client needs httpx, in _http/transport.py only"),
    Room(
        "remotelr_service.db",
        ("remotelr.rules", "sqlalchemy", "alembic", "psycopg", "pydantic_core"),
        "db remembers: it knows the rules' types and nothing of HTTP; of pydantic only the fast writer of JSON",
    ),
    Room(
        "remotelr_service.actions",
        (
            "remotelr.rules",
            "remotelr_service.db",
            "remotelr_service.metrics",
            "sqlalchemy.Connection",
            "sqlalchemy.Engine",
        ),
        "actions do: who calls them, and how it is stored, is not theirs; they hand an engine on, and query nothing",
    ),
    Room(
        "remotelr_service.api",
        (
            "remotelr.rules",
            "remotelr_service.actions",
            "remotelr_service.logs",
            "remotelr_service.metrics",
            "remotelr_service.settings",
            "fastapi",
            "pydantic",
            "starlette",
            "structlog",
            "typing_extensions",
        ),
        "api asks: it reaches the database through actions only",
    ),
    Room(
        "remotelr_service.metrics",
        ("remotelr.rules", "prometheus_client"),
        "the one file that knows how Prometheus counts; who has something to count calls its methods",
    ),
    Room(
        "remotelr_service.demo",
        ("remotelr", "remotelr_service", "keras", "numpy", "sklearn", "typer"),
        "the demo is a trainer: it may do what trainers do",
    ),
    Room(
        "remotelr_service.cli",
        (
            "remotelr",
            "remotelr_service.actions.policies",
            "remotelr_service.banner",
            "remotelr_service.db.errors",
            "remotelr_service.mistakes",
            "remotelr_service.settings",
            "httpx",
            "pydantic",
            "rich",
            "typer",
        ),
        "a terminal is far from the service: it asks over HTTP, and has no database; a policy it can read by itself",
    ),
    Room(
        "remotelr_service",
        (
            "remotelr.rules",
            "fastapi",
            "pydantic",
            "pydantic_settings",
            "sqlalchemy",
            "starlette",
            "structlog",
            "typer",
            "typing_extensions",
            "uvicorn",
        ),
        "app, settings and the command line put the rooms together",
    ),
    Room("migrations", ("remotelr_service.db", "alembic", "sqlalchemy"), "a migration outlives the code around it"),
)


@dataclass(frozen=True, slots=True)
class Import:
    name: str
    line: int


def test_every_file_imports_only_what_its_room_may_use() -> None:
    wrong = [
        message
        for module, file in sorted(modules().items())
        for message in violations(module, file.read_text(), str(file.relative_to(ROOT)))
    ]

    assert not wrong, "\n".join(["", *wrong])


def test_every_room_has_a_file_in_it() -> None:
    empty = {room.name for room in ROOMS} - {room_of(module).name for module in modules()}

    assert set() == empty


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("remotelr.rules.schedules.cosine", "import numpy"),
        ("remotelr.rules.schedules.cosine", "from remotelr import client"),
        ("remotelr.rules.schedules.cosine", "def decide():\n    import httpx"),
        ("remotelr.client", "import httpx"),
        ("remotelr.client", "from pydantic import BaseModel"),
        ("remotelr.client", "import remotelr_service"),
        ("remotelr.keras", "import torch"),
        ("remotelr_service.db.store", "from remotelr_service.actions import runs"),
        ("remotelr_service.db.store", "from remotelr_service import api"),
        ("remotelr_service.db.store", "from remotelr import Client"),
        ("remotelr_service.db.store", "from ..api import routes"),
        ("remotelr_service.actions.runs", "from fastapi import HTTPException"),
        ("remotelr_service.actions.runs", "import sqlalchemy.orm"),
        ("remotelr_service.api.routes", "from remotelr_service.db import store"),
        ("remotelr_service.app", "import keras"),
    ],
)
def test_an_import_across_the_map_is_found(module: str, source: str) -> None:
    assert 1 == len(violations(module, source, "file.py"))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "remotelr.rules.schedules.cosine",
            "import math\nfrom remotelr.rules.schedules.base import Schedule",
        ),
        ("remotelr.rules.schedules.cosine", "from .schedule import Schedule\nfrom . import errors"),
        ("remotelr.client", "from remotelr import rules\nfrom remotelr._http.transport import Transport"),
        ("remotelr_service.actions.runs", "from remotelr_service import db"),
        ("remotelr_service.api.routes", "from remotelr_service.actions import runs\nfrom fastapi import Depends"),
    ],
)
def test_an_import_along_the_map_is_not(module: str, source: str) -> None:
    assert [] == violations(module, source, "file.py")


@pytest.mark.parametrize(
    ("entry", "unwanted"),
    [
        ("remotelr.rules", {"httpx", "numpy", "pydantic", "keras", "jax", "remotelr_service"}),
        ("remotelr", {"numpy", "pydantic", "keras", "jax", "sqlalchemy", "remotelr_service"}),
        ("remotelr.client", {"numpy", "pydantic", "keras", "jax", "sqlalchemy", "remotelr_service"}),
        ("remotelr_service", {"httpx", "numpy", "keras", "jax"}),
        ("remotelr_service.app", {"httpx", "numpy", "keras", "jax"}),
    ],
)
def test_importing_a_part_does_not_load(entry: str, unwanted: set[str]) -> None:
    """What an import drags in at run time, however many files it goes through."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {entry}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}

    assert set() == loaded & unwanted


def modules() -> dict[str, Path]:
    """Every module of both distributions and of the migrations, by its dotted name."""
    roots = {ROOT / "clients": "remotelr", ROOT / "service": "remotelr_service", ROOT: "migrations"}
    return {
        _dotted(file.relative_to(above)): file
        for above, package in roots.items()
        for file in (above / package).rglob("*.py")
    }


def violations(module: str, source: str, file: str) -> list[str]:
    """What the map says against the imports of this source, one sentence each."""
    room = room_of(module)
    allowed = (room.name, *room.may_use)
    listed = ", ".join(room.may_use) or "nothing else"
    return [
        f"{file}:{found.line}: `{room.name}` may use the standard library, itself and {listed}; not `{found.name}` "
        f"({room.reason}). Move the code, or argue for another map in tests/test_architecture.py."
        for found in imports(module, source)
        if not _is_standard(found.name) and not any(_within(found.name, name) for name in allowed)
    ]


def room_of(module: str) -> Room:
    return max((room for room in ROOMS if _within(module, room.name)), key=lambda room: len(room.name))


def imports(module: str, source: str) -> Iterator[Import]:
    """Everything imported anywhere in the source, `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            above = ".".join(module.split(".")[: -node.level]) + "." if node.level else ""
            origin = above + (f"{node.module}." if node.module else "")
            yield from (Import(origin + alias.name, node.lineno) for alias in node.names)


def _dotted(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _is_standard(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names
