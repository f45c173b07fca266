"""Save what this release stores, for all later releases to read: on SQLite, on PostgreSQL, and what comes next.

    python tests/assets/make.py        at every release, and while a release has not been made

It writes `<version>.sqlite`, `<version>.sql` and `<version>.json`. Those of released versions are never written again.
"""

import json
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent
sys.path.insert(0, str(ASSETS.parent))

from remotelr.rules import Waiting  # noqa: E402
from remotelr_service.db.migrate import upgrade  # noqa: E402
from support.fixtures.databases import _database  # noqa: E402  # the tests' own folders, which are no package
from support.fixtures.processes import Process  # noqa: E402
from support.postgres import find_binaries, running_postgres  # noqa: E402

PLATEAU: dict[str, Any] = {"type": "reduce_on_plateau", "monitor": "val_loss", "factor": 0.7, "patience": 3}
# The next losses that each run reports, epoch after epoch: better, worse, not a number, better.
NEXT_LOSSES = [0.4, 0.9, 0.9, 0.9, 0.9, float("nan"), 0.9, 0.9, 0.3]


def write_runs(process: Process) -> None:
    """Runs in the middle of everything that a run can be in the middle of."""
    process.put("mid-wait", PLATEAU)
    process.train("mid-wait", [1.0, 0.5, 0.6, 0.6])
    process.put("mid-cooldown", {**PLATEAU, "patience": 1, "cooldown": 4})
    process.train("mid-cooldown", [1.0, 0.5, 0.6, 0.6])
    process.put("two-attempts", PLATEAU)
    process.attempt("two-attempts", "first", 0)
    process.train("two-attempts", [1.0, 0.8, 0.9, 0.9])
    process.attempt("two-attempts", "second", 2)
    process.train("two-attempts", [0.85, 0.9], first=2)
    process.put("overridden", PLATEAU)
    process.train("overridden", [1.0, 0.9])
    process.command("overridden", "set_learning_rate", 0.05, key="operator-1")
    process.train("overridden", [0.95], first=2)
    process.put("diverged", PLATEAU)
    process.train("diverged", [1.0, float("nan"), float("inf"), 0.9])
    process.put(
        "over-a-cosine", {"type": "reduce_on_plateau", "monitor": "val_loss", "patience": 2, "schedule": COSINE}
    )
    process.train("over-a-cosine", [1.0, 0.9, 0.95])
    process.put("one-rank-of-two", {"schedule": PLATEAU, "aggregate": {"ranks": "all"}}, world_size=2)
    assert isinstance(process.report("one-rank-of-two", 0, 1.0, rank=0), Waiting)


COSINE = {"type": "cosine", "initial_learning_rate": 1.0, "decay_steps": 50}


def go_on(process: Process, key: str) -> list[dict[str, Any]]:
    """The decisions that the run receives when it continues from the saved state."""
    run = process.stored_run(key)
    answers = []
    for epoch, loss in enumerate(NEXT_LOSSES, run.epoch):
        attempt = {"attempt": run.attempt} if run.attempt else {}
        answer = None
        for rank in range(run.spec.world_size):
            answer = process.report(key, epoch, 1.0 if epoch == 0 else loss, rank=rank, **attempt)
        assert answer is not None
        answers.append({"epoch": answer.epoch, "learning_rate": answer.learning_rate, "reason": answer.reason})
    return answers


def main() -> None:
    release = ASSETS / version("remotelr-service")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "saved.sqlite"
        _write(f"sqlite:///{file}")
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("VACUUM")
        release.with_name(f"{release.name}.sqlite").write_bytes(file.read_bytes())
        _write_expected(f"sqlite:///{file}", release.with_name(f"{release.name}.json"))
    with running_postgres() as server:
        for url in _database(server, template="template0"):
            _write(url)
            release.with_name(f"{release.name}.sql").write_text(_dump(url))


def _write(url: str) -> None:
    upgrade(url)
    process = Process(url)
    try:
        write_runs(process)
    finally:
        process.close()


def _write_expected(url: str, file: Path) -> None:
    process = Process(url)
    try:
        with process.reads.connect() as connection:
            keys = list(connection.exec_driver_sql("SELECT key FROM runs ORDER BY key").scalars())
        expected = {key: go_on(process, key) for key in keys}
    finally:
        process.close()
    file.write_text(json.dumps(expected, indent=1) + "\n")


def _dump(url: str) -> str:
    """The database as statements that any client can execute; pg_dump's own are for psql."""
    command = [str(find_binaries() / "pg_dump"), "--no-owner", "--no-privileges", "--inserts"]
    done = subprocess.run([*command, url.replace("+psycopg", "")], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("\\", "--", "SET ")) and line]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
