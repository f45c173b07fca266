"""Known bugs of such services, to plant: each must make the test named beside it fail.

A mutant is code that is appended to files of a copy of the packages. `Mutant.mistakes` finds names in that code which
the file no longer defines, so that a renamed function cannot turn a mutant into a service without a bug.
"""

import ast
import builtins
import importlib
import importlib.util
import shutil
import symtable
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
PARTS = ("clients/remotelr", "service/remotelr_service", "migrations")

CLIENT = "clients/remotelr"
RULES = "clients/remotelr/rules"
DB = "service/remotelr_service/db"
FIRST_MIGRATION = "migrations/versions/0001_initial.py"


@dataclass(frozen=True)
class Mutant:
    """A bug.

    code: the code to append, by file. caught_by: the test that must fail. says: a part of that failure.
    cheap: whether the default run plants it.
    """

    name: str
    code: Mapping[str, str]
    caught_by: str
    says: str
    cheap: bool = False

    def plant(self, folder: Path) -> list[Path]:
        """Make a copy of the packages with the bug in it. Returns the entries of PYTHONPATH."""
        assert not self.mistakes(), self.mistakes()
        for part in PARTS:
            shutil.copytree(ROOT / part, folder / part)
        for file, code in self.code.items():
            path = folder / file
            path.write_text(path.read_text() + code)
        return [folder / "service", folder / "clients"]

    def mistakes(self) -> list[str]:
        """The reasons why the code has no effect, or fails by a mistake of its own."""
        return [f"{file}: {mistake}" for file, code in self.code.items() for mistake in _mistakes(file, code)]


def _mistakes(file: str, code: str) -> Iterator[str]:
    source = (ROOT / file).read_text()
    defined = _namespace(ROOT / file)
    top = symtable.symtable(code, file, "exec")
    bound = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned()}
    read = {
        symbol.get_name()
        for scope in _scopes(top)
        for symbol in scope.get_symbols()
        if symbol.is_referenced() and (scope is top or symbol.is_global())
    }
    yield from (f"{name} is not defined" for name in sorted(read - bound - defined.keys()))
    yield from (f"{name} replaces nothing and is not used" for name in sorted(bound - read - defined.keys()))
    is_applied = bool(bound & defined.keys())
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if f"self.{name}" not in source:
                yield f"self.{name} is not used in the file"
            case ast.Attribute(value=ast.Name(id=owner), attr=name, ctx=context) if _has_members(defined.get(owner)):
                is_applied |= isinstance(context, ast.Store)
                if not hasattr(defined[owner], name):
                    yield f"{owner}.{name} is not defined"
    if not is_applied:
        yield "no definition is replaced"


def _has_members(value: Any) -> bool:
    return isinstance(value, type | ModuleType)


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _namespace(path: Path) -> dict[str, Any]:
    """The global names of the module at `path`, builtins included."""
    if path.is_relative_to(ROOT / "migrations"):
        spec = importlib.util.spec_from_file_location("planted_migration", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts[1:]))
    return vars(builtins) | vars(module)


# The database refuses what these bugs would store, which turns them into errors; to see that the proofs find the
# bug itself, that net is taken away too.
_NO_NET = """

_right_upgrade = upgrade


def upgrade() -> None:
    _right_upgrade()
    for name in ("uq_events_report", "uq_events_decision", "uq_events_key"):
        op.drop_index(name, "events")
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("pk_events", "events")
        op.create_index("ix_events", "events", ["run_id", "seq"])
"""

_TOO_EARLY = """

_right = _run
_right_save = WriteTransaction.save


def _run(job, tx):
    _right(job, tx)
    _answer([job])


def _save_late(self):
    moved = _right_save(self)
    time.sleep(0.05)
    return moved


WriteTransaction.save = _save_late
"""

_PREEMPTED = "test_preemption.py::test_every_batch_has_the_rate_it_would_have_had"
_STATE_MACHINE = "test_state_machine.py::test_the_service_and_a_model_of_it_agree_for_every_sequence_of_requests"
_RACE = "test_race.py::test_every_rank_gets_the_same_rate_from_every_replica_despite_delays_retries_and_pauses[4]"
_KILLED = "test_crash.py::test_a_service_killed_under_load_has_lost_nothing_and_counted_nothing_twice"
_CHAOS = "test_client_chaos.py::test_a_training_does_not_notice"
_FSYNC = "test_fsync.py::test_every_report_is_answered_after_its_own_sync_of_the_log"
_COMMIT_CUT = "test_database_away.py::test_a_commit_whose_reply_is_lost_counts_once"

MUTANTS = [
    Mutant(
        "no dedupe",
        {
            f"{RULES}/transitions/report.py": """

_right = report


def report(run, report, log):
    again = report.epoch == run.epoch - 1 and report.attempt in (None, run.attempt) and run.spec.world_size == 1
    return _decide(replace(run, epoch=report.epoch), report, log) if again else _right(run, report, log)
""",
            FIRST_MIGRATION: _NO_NET,
        },
        caught_by=f"{_COMMIT_CUT}[after it was carried out]",
        says="was answered",
    ),
    Mutant(
        "dedupe in memory only",
        {
            f"{RULES}/transitions/report.py": """

_right = report
_known = set()


def report(run, report, log):
    point = (run.key, run.attempt, report.epoch, report.rank)
    again = report.epoch == run.epoch - 1 and point not in _known and run.spec.world_size == 1
    _known.add(point)
    return _decide(replace(run, epoch=report.epoch), report, log) if again else _right(run, report, log)
""",
            FIRST_MIGRATION: _NO_NET,
        },
        caught_by=f"{_KILLED}[sqlite]",
        says="was answered",
    ),
    Mutant(
        "acknowledged before the commit",
        {f"{DB}/writer/writer.py": _TOO_EARLY},
        caught_by=_FSYNC,
        says="assert [] == ",
        cheap=True,
    ),
    Mutant(
        "acknowledged before the commit, and killed",
        {f"{DB}/writer/writer.py": _TOO_EARLY},
        caught_by=f"{_KILLED}[sqlite]",
        says="was answered",
    ),
    Mutant(
        "a repeated report is answered with the rate of today",
        {
            f"{RULES}/transitions/report.py": """

_right = report


def report(run, report, log):
    outcome = _right(run, report, log)
    if outcome.event is not None or not hasattr(outcome.answer, "learning_rate"):
        return outcome
    return replace(outcome, answer=replace(outcome.answer, learning_rate=run.learning_rate))
"""
        },
        caught_by=f"{_STATE_MACHINE}[sqlite]",
        says="learning_rate",
        cheap=True,
    ),
    Mutant(
        "no fence",
        {
            f"{RULES}/transitions/report.py": """

def _refuse_foreign_attempt(run, report):
    pass
"""
        },
        caught_by=f"{_STATE_MACHINE}[sqlite]",
        says="stale_attempt",
        cheap=True,
    ),
    Mutant(
        "a rewind is ignored",
        {
            f"{RULES}/transitions/attempt.py": """

def _restored(run, epoch, snapshot, log):
    return run.state
"""
        },
        caught_by=f"{_PREEMPTED}[plateau]",
        says="assert [[",
    ),
    Mutant(
        "runs cached by each process",
        {
            f"{DB}/writer/run_cache.py": """

_right = RunCache.load


def _load_unchecked(self, key, row):
    return self._entries[key][1] if key in self._entries else _right(self, key, row)


RunCache.load = _load_unchecked
""",
            FIRST_MIGRATION: _NO_NET,
        },
        caught_by=_RACE,
        says="Error",
    ),
    Mutant(
        "no row lock",
        {
            f"{DB}/queries/runs.py": """

_right = _LOCK_RUNS
_LOCK_RUNS = {**_right, "postgresql": _right["postgresql"].replace("FOR UPDATE SKIP LOCKED", "")}
""",
            FIRST_MIGRATION: _NO_NET,
        },
        caught_by=_RACE,
        says="Error",
    ),
    Mutant(
        "synchronous=NORMAL",
        {
            f"{DB}/engine.py": """

_right = _on_connect


def _on_connect(engine, pragmas):
    _right(engine, [pragma.replace("synchronous = FULL", "synchronous = NORMAL") for pragma in pragmas])
"""
        },
        caught_by=_FSYNC,
        says="assert [] == ",
        cheap=True,
    ),
    Mutant(
        "any rate is believed",
        {
            f"{CLIENT}/_http/responses.py": """

_rate = _number
"""
        },
        caught_by=f"{_CHAOS}[rate 1e9]",
        says="assert [0.1, ",
    ),
    Mutant(
        "no rules in the trainer",
        {
            f"{CLIENT}/_session/session.py": """

Session._decide_locally = lambda self, request: None
"""
        },
        caught_by=f"{_CHAOS}[refused]",
        says="assert [0.1, ",
    ),
    Mutant(
        "a breaker that never opens",
        {
            f"{CLIENT}/_session/breaker.py": """

Breaker.failed = lambda self, began_s, now_s: self
"""
        },
        caught_by=f"{_CHAOS}[refused]",
        says="assert False",
    ),
    Mutant(
        "the last word waits for the breaker",
        {
            f"{CLIENT}/_session/breaker.py": """

Breaker.rested = lambda self: self
"""
        },
        caught_by="test_client_chaos.py::test_a_training_that_ends_just_after_the_service_is_back_has_sent_every_report",
        says="assert [(0, ",
    ),
    Mutant(
        "a connection shared with forks",
        {
            f"{CLIENT}/_http/transport.py": """

_right = _ConnectionHolder.current


def _connection_of_the_parent(self):
    self._owner = os.getpid()
    return _right(self)


_ConnectionHolder.current = _connection_of_the_parent
"""
        },
        caught_by="test_client_processes.py::test_forked_processes_never_read_each_others_answers",
        says="assert ",
    ),
]
