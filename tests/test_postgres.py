"""The tests' own PostgreSQL server: real, durable, and gone afterwards even when pytest was killed."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

HOLD_A_SERVER = """
import sys, time
from support.postgres import running_postgres
with running_postgres() as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_the_server_syncs_every_commit_to_disk(empty_postgres_url: str) -> None:
    with psycopg.connect(empty_postgres_url.replace("+psycopg", "")) as connection:
        names = ("fsync", "synchronous_commit", "full_page_writes")
        settings = [connection.execute(f"SHOW {name}").fetchone() for name in names]

    assert [("on",), ("on",), ("on",)] == settings


def test_two_databases_do_not_see_each_other(postgres_server: str, empty_postgres_url: str) -> None:
    with psycopg.connect(empty_postgres_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE only_here (id int)")
    with psycopg.connect(postgres_server.replace("+psycopg", "")) as connection:
        found = connection.execute("SELECT to_regclass('only_here')").fetchone()

    assert (None,) == found


@pytest.mark.skipif("REMOTELR_TEST_POSTGRES_URL" in os.environ, reason="a server that was given is not ours to stop")
def test_a_killed_test_run_leaves_no_server_behind() -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_SERVER], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        address = holder.stdout.readline()
        servers = psutil.Process(holder.pid).children(recursive=True)
        holder.kill()
    _, alive = psutil.wait_procs(servers, timeout=100)

    assert address.startswith("postgresql+psycopg://")
    assert len(servers) > 1
    assert [] == alive
