"""The import table: what each folder may import, how large a folder may be, and that no import goes in a circle.

A change of the architecture is a change of `ROOMS` below.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAX_ENTRIES = 14


@dataclass(frozen=True, slots=True)
class Room:
    """A package, module or pattern of modules, and what it may import beside the standard library and itself.

    owns: the package whose modules count as the room itself; by default `name`.
    """

    name: str
    may_use: tuple[str, ...]
    reason: str
    owns: str = ""


def _rules(*names: str) -> tuple[str, ...]:
    return tuple(f"remotelr.rules.{name}" for name in names)


_BELOW_POLICY = _rules("errors", "values", "schedules", "plateau", "composition")
_BELOW_RUN = (*_BELOW_POLICY, *_rules("policy"))
_BELOW_TRANSITIONS = (*_BELOW_RUN, *_rules("run"))

RULES = (
    Room("remotelr.rules.errors", (), "errors need nothing"),
    Room("remotelr.rules.values", _rules("errors"), "values know fields, floats and metrics, and no schedule"),
    Room("remotelr.rules.schedules", _rules("errors", "values"), "a schedule is a function of the position"),
    Room("remotelr.rules.plateau", _rules("errors", "values", "schedules"), "a plateau is a schedule with a state"),
    Room("remotelr.rules.composition", _rules("errors", "values", "schedules"), "compositions hold any schedule"),
    Room("remotelr.rules.policy", _BELOW_POLICY, "a policy is a document: it knows no run"),
    Room("remotelr.rules.run", _BELOW_RUN, "what a run is, apart from what can happen to it"),
    Room("remotelr.rules.transitions", _BELOW_TRANSITIONS, "what trainers do to a run, apart from what operators do"),
    Room("remotelr.rules.commands", (*_BELOW_TRANSITIONS, *_rules("transitions")), "what operators do to a run"),
    Room("remotelr.rules.sentences", _BELOW_TRANSITIONS, "sentences describe events and decisions, and decide nothing"),
    Room("remotelr.rules", (), "the rules run in trainers and in the service alike, and are replayed for years"),
)

_BELOW_FRAMEWORKS = (
    "remotelr._http",
    "remotelr._session",
    "remotelr._training",
    "remotelr.rules",
    "remotelr.client",
    "remotelr.errors",
)

CLIENT = (
    Room(
        "remotelr._http.transport",
        ("remotelr._http", "remotelr.rules", "remotelr.errors", "httpx", "httpx2"),
        "the only file that knows which library speaks HTTP",
    ),
    Room(
        "remotelr._http.display",
        ("remotelr._http", "remotelr.rules", "pandas", "matplotlib"),
        "what a notebook shows; pandas and matplotlib are imported where they are used",
    ),
    Room("remotelr._http", ("remotelr.rules", "remotelr.errors"), "requests and responses know no run and no session"),
    Room(
        "remotelr._session",
        ("remotelr._http", "remotelr.rules", "remotelr.client", "remotelr.run", "remotelr.decision", "remotelr.errors"),
        "a session serves every framework, so it imports none",
    ),
    Room(
        "remotelr._training",
        ("remotelr._http", "remotelr._session", "remotelr.rules", "remotelr.client", "remotelr.errors"),
        "a training is a session on rank 0 that other ranks follow; it imports no framework either",
    ),
    *(
        Room(f"remotelr.{framework}", (*_BELOW_FRAMEWORKS, *imports), "one folder per framework, and no other in it")
        for framework, imports in {
            "keras": ("keras",),
            "optax": ("optax", "jax", "numpy"),
            "torch": ("torch",),
            # These two train torch optimizers.
            "transformers": ("transformers", "remotelr.torch"),
            "lightning": ("remotelr.torch",),
        }.items()
    ),
    Room(
        "remotelr.testing",
        ("remotelr._http", "remotelr.rules", "remotelr.errors"),
        "the in-memory service answers requests by the rules alone",
    ),
    Room(
        "remotelr.*",
        (
            "remotelr._http",
            "remotelr.rules",
            "remotelr.client",
            "remotelr.run",
            "remotelr.decision",
            "remotelr.errors",
        ),
        "client, run and decision are the plain REST layer: sessions and frameworks stand on it",
    ),
    Room("remotelr", (), "the client needs httpx, in _http/transport.py only"),
)

# Each feature, and the features below it that it may import.
FEATURES = {
    "training": (),
    "runs": ("training",),
    "commands": ("training",),
    "policies": ("training",),
    "bulk": ("commands", "runs", "training"),
    "streams": ("runs", "training"),
    "experiments": ("bulk", "runs"),
    "tokens": (),
    "health": (),
}

# The files of a feature that know HTTP.
HTTP_FILES = ("*endpoints", "schemas", "responses", "fast_reports", "sse", "charts")


def _feature_rooms() -> Iterator[Room]:
    for feature, below in FEATURES.items():
        package = f"remotelr_service.features.{feature}"
        lower = tuple(f"remotelr_service.features.{name}" for name in below)
        for file in HTTP_FILES:
            yield Room(
                f"{package}.{file}",
                (
                    *lower,
                    "remotelr.rules",
                    "remotelr_service.db.queries",
                    "remotelr_service.errors",
                    "remotelr_service.evaluation",
                    "remotelr_service.http",
                    "remotelr_service.live",
                    "remotelr_service.logs",
                    "remotelr_service.metrics",
                    "fastapi",
                    "pydantic",
                    "starlette",
                    "structlog",
                    "typing_extensions",
                ),
                "endpoints translate HTTP; features import only the features below them",
                owns=package,
            )
        yield Room(
            package,
            (
                *lower,
                "remotelr.rules",
                "remotelr_service.db",
                "remotelr_service.errors",
                "remotelr_service.evaluation",
                "remotelr_service.http.auth",
                "remotelr_service.http.context",
                "remotelr_service.live",
                "remotelr_service.metrics",
                "remotelr_service.settings",
                "sqlalchemy.Connection",
                "sqlalchemy.Engine",
            ),
            "a feature knows neither HTTP nor SQL; it hands a connection on",
        )


SERVICE = (
    Room(
        "remotelr_service.db.queries",
        ("remotelr.rules", "remotelr_service.db", "remotelr_service.errors", "sqlalchemy"),
        "queries are small functions over a connection",
    ),
    Room(
        "remotelr_service.db",
        ("remotelr.rules", "remotelr_service.errors", "sqlalchemy", "alembic", "psycopg", "pydantic_core"),
        "db knows the rules' types and nothing of HTTP; of pydantic only the fast writer of JSON",
    ),
    Room(
        "remotelr_service.live",
        ("remotelr.rules", "remotelr_service.db", "remotelr_service.errors", "sqlalchemy", "psycopg"),
        "waiters and streams read the database and know nothing of HTTP",
    ),
    Room(
        "remotelr_service.http",
        (
            "remotelr.rules",
            "remotelr_service.db",
            "remotelr_service.errors",
            "remotelr_service.evaluation",
            "remotelr_service.live",
            "remotelr_service.logs",
            "remotelr_service.metrics",
            "remotelr_service.settings",
            "fastapi",
            "pydantic",
            "sqlalchemy.Engine",
            "starlette",
            "structlog",
            "typing_extensions",
        ),
        "what every endpoint needs; it knows no feature",
    ),
    *_feature_rooms(),
    Room("remotelr_service.errors", (), "errors need nothing"),
    Room(
        "remotelr_service.evaluation",
        ("remotelr.rules", "remotelr_service.errors"),
        "long evaluations run in a process of their own, which starts fast and knows no database",
    ),
    Room("remotelr_service.logs", ("pydantic", "structlog"), "logs need nothing of the service"),
    Room(
        "remotelr_service.metrics",
        ("remotelr.rules", "prometheus_client"),
        "the one file that knows how Prometheus counts",
    ),
    Room(
        "remotelr_service.settings",
        ("remotelr_service.errors", "pydantic", "pydantic_settings"),
        "settings are read before anything is opened",
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
            "remotelr_service.errors",
            "remotelr_service.server.commands",
            "remotelr_service.settings",
            "httpx",
            "pydantic",
            "rich",
            "typer",
        ),
        "the command line asks a service over HTTP; what runs beside the database is in server.commands",
    ),
    Room(
        "remotelr_service.server",
        (
            "remotelr.rules",
            "remotelr_service.db",
            "remotelr_service.demo",
            "remotelr_service.errors",
            "remotelr_service.features",
            "remotelr_service.http",
            "remotelr_service.live",
            "remotelr_service.logs",
            "remotelr_service.metrics",
            "remotelr_service.settings",
            "fastapi",
            "fastapi_offline",
            "pydantic",
            "starlette",
            "structlog",
            "typer",
            "typing_extensions",
            "uvicorn",
        ),
        "the server puts the parts together",
    ),
    Room("remotelr_service.serving", ("remotelr_service.server",), "a published path"),
    Room("remotelr_service.__main__", ("remotelr_service.cli",), "a published path"),
    Room("remotelr_service", (), "everything else has a folder"),
)

# The first that fits is a module's room.
ROOMS = (
    *RULES,
    *CLIENT,
    *SERVICE,
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
    used = {room_of(module).name for module in modules()}
    empty = {room.name for room in ROOMS if not any(file in room.name for file in HTTP_FILES)} - used

    assert set() == empty


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("remotelr.rules.schedules.cosine", "import numpy"),
        ("remotelr.rules.schedules.cosine", "from remotelr import client"),
        ("remotelr.rules.schedules.cosine", "def decide():\n    import httpx"),
        ("remotelr.rules.schedules.cosine", "from remotelr.rules.policy.policy import Policy"),
        ("remotelr.rules.run.state", "from remotelr.rules.commands.cancel import cancelled"),
        ("remotelr.client", "import httpx"),
        ("remotelr.client", "from pydantic import BaseModel"),
        ("remotelr.client", "import remotelr_service"),
        ("remotelr.client", "from remotelr._session.session import Session"),
        ("remotelr.keras.callback", "import torch"),
        ("remotelr.optax.hyperparams", "import torch"),
        ("remotelr.torch.groups", "import transformers"),
        ("remotelr._session.session", "import keras"),
        ("remotelr_service.db.queries.runs", "from remotelr_service.features.runs import runs"),
        ("remotelr_service.db.queries.runs", "from remotelr_service import http"),
        ("remotelr_service.db.queries.runs", "from remotelr import Client"),
        ("remotelr_service.db.engine", "from ..http import route"),
        ("remotelr_service.http.route", "from remotelr_service.features.runs import runs"),
        ("remotelr_service.features.runs.runs", "from fastapi import HTTPException"),
        ("remotelr_service.features.runs.runs", "import sqlalchemy.orm"),
        ("remotelr_service.features.runs.endpoints", "from remotelr_service.db.engine import transaction"),
        ("remotelr_service.features.training.reports", "from remotelr_service.features.runs import runs"),
        ("remotelr_service.cli.main", "from remotelr_service.db import engine"),
        ("remotelr_service.server.app", "import keras"),
    ],
)
def test_an_import_against_the_table_is_found(module: str, source: str) -> None:
    assert 1 == len(violations(module, source, "file.py"))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("remotelr.rules.schedules.cosine", "import math\nfrom remotelr.rules.schedules.base import Schedule"),
        ("remotelr.rules.schedules.cosine", "from .base import Schedule\nfrom .. import errors"),
        ("remotelr.client", "from remotelr import rules\nfrom remotelr._http.transport import Transport"),
        ("remotelr_service.features.runs.runs", "from remotelr_service import db"),
        ("remotelr_service.features.runs.endpoints", "from remotelr_service.features.runs import runs"),
        ("remotelr_service.features.runs.history_endpoints", "from fastapi import Depends"),
    ],
)
def test_an_import_along_the_table_is_not(module: str, source: str) -> None:
    assert [] == violations(module, source, "file.py")


@pytest.mark.parametrize("package", ["clients/remotelr", "service/remotelr_service"])
def test_no_folder_of_source_has_more_than_fourteen_entries(package: str) -> None:
    folders = [folder for folder in (ROOT / package, *(ROOT / package).rglob("*")) if (folder / "__init__.py").exists()]
    too_many = {
        str(folder.relative_to(ROOT)): len(entries)
        for folder in folders
        if len(entries := [each for each in folder.iterdir() if each.name not in NOT_ENTRIES]) > MAX_ENTRIES
    }

    assert len(folders) > 5
    assert {} == too_many


# An empty `__init__.py` and what the machine leaves are nothing that a reader opens.
NOT_ENTRIES = ("__init__.py", "__pycache__", "py.typed")


def test_no_import_goes_in_a_circle() -> None:
    """Neither between modules, nor between the folders and files of any one package."""
    arrows = import_graph()
    packages = {"", *(module.rpartition(".")[0] for module in modules())}
    circles = {}
    for package in sorted(packages):
        try:
            TopologicalSorter(_between_children(arrows, package)).prepare()
        except CycleError as error:
            circles[package] = " -> ".join(error.args[1])

    assert sum(map(len, arrows.values())) > 500
    assert {} == circles


def import_graph() -> dict[str, set[str]]:
    """Each module, and the modules of ours that it imports."""
    found = modules()
    arrows: defaultdict[str, set[str]] = defaultdict(set)
    for module, file in found.items():
        for each in imports(module, file.read_text()):
            name = each.name
            while name and name not in found:
                name = name.rpartition(".")[0]
            if name and name != module:
                arrows[module].add(name)
    return arrows


def _between_children(arrows: dict[str, set[str]], package: str) -> dict[str, set[str]]:
    """The arrows between the direct children of a package: files and folders."""
    prefix = f"{package}." if package else ""
    graph: defaultdict[str, set[str]] = defaultdict(set)
    for module, imported in arrows.items():
        for other in imported:
            if module.startswith(prefix) and other.startswith(prefix):
                child, target = (name[len(prefix) :].partition(".")[0] for name in (module, other))
                if child != target:
                    graph[child].add(target)
    return graph


@pytest.mark.parametrize(
    ("entry", "unwanted"),
    [
        ("remotelr.rules", {"httpx", "numpy", "pydantic", "keras", "jax", "remotelr_service"}),
        ("remotelr", {"numpy", "pydantic", "keras", "jax", "sqlalchemy", "remotelr_service"}),
        ("remotelr.client", {"numpy", "pydantic", "keras", "jax", "sqlalchemy", "remotelr_service"}),
        ("remotelr_service", {"httpx", "numpy", "keras", "jax"}),
        ("remotelr_service.server.app", {"httpx", "numpy", "keras", "jax"}),
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
    allowed = (room.owns or room.name, *room.may_use)
    listed = ", ".join(room.may_use) or "nothing else"
    return [
        f"{file}:{found.line}: `{room.name}` may use the standard library, itself and {listed}; not `{found.name}` "
        f"({room.reason}). Move the code, or argue for another map in tests/test_architecture.py."
        for found in imports(module, source)
        if not _is_standard(found.name) and not any(_within(found.name, name) for name in allowed)
    ]


def room_of(module: str) -> Room:
    return next(room for room in ROOMS if _within(module, room.name) or fnmatchcase(module, room.name))


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
