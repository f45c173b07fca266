"""docker-compose.yml and the Dockerfile, checked instruction by instruction without a Docker engine."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import yaml
from psycopg import sql

from support.fixtures.service import ServiceProcess
from support.postgres import find_binaries

ROOT = Path(__file__).parent.parent
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
REMOTELR = Path(sys.executable).with_name("remotelr")


def test_the_service_starts_after_the_migration_and_the_migration_after_the_database() -> None:
    assert {"postgres": {"condition": "service_healthy"}} == SERVICES["migrate"]["depends_on"]
    assert {"migrate": {"condition": "service_completed_successfully"}} == SERVICES["remotelr"]["depends_on"]


def test_only_the_service_can_be_reached_from_outside() -> None:
    assert {"remotelr"} == {name for name, service in SERVICES.items() if "ports" in service}


def test_the_service_can_have_replicas() -> None:
    """A fixed name or a single port of the host could be had by one replica only."""
    first, last = map(int, SERVICES["remotelr"]["ports"][0].partition(":")[0].split("-"))

    assert "container_name" not in SERVICES["remotelr"]
    assert last > first


@pytest.mark.parametrize(
    ("service", "variable"),
    [
        ("postgres", "POSTGRES_PASSWORD"),
        ("migrate", "REMOTELR_DATABASE_PASSWORD"),
        ("remotelr", "REMOTELR_DATABASE_PASSWORD"),
    ],
)
def test_there_is_no_default_password(service: str, variable: str) -> None:
    assert SERVICES[service]["environment"][variable].startswith("${REMOTELR_POSTGRES_PASSWORD:?")


def test_there_is_no_default_token() -> None:
    assert SERVICES["remotelr"]["environment"]["REMOTELR_ADMIN_TOKEN"].startswith("${REMOTELR_ADMIN_TOKEN:?")


def test_the_image_and_the_compose_file_start_a_service_that_requires_a_token(
    postgres_url: str, start_service: Callable[..., ServiceProcess]
) -> None:
    said = dict(re.findall(r"(REMOTELR_\w+)=(\S+)", " ".join(_instructions("ENV"))))
    token = secrets.token_hex(32)
    given = {"REMOTELR_HOST": said["REMOTELR_HOST"], "REMOTELR_ADMIN_TOKEN": token}
    service = start_service(postgres_url, **given)
    service.wait_ready()
    without = httpx.get(f"{service.url}/v1/runs", timeout=30, trust_env=False)
    with_it = httpx.get(
        f"{service.url}/v1/runs", headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False
    )

    assert "0.0.0.0" == given["REMOTELR_HOST"]
    assert set(given) <= set(said) | set(SERVICES["remotelr"]["environment"])
    assert (401, 200) == (without.status_code, with_it.status_code)


def test_the_image_does_not_run_as_root() -> None:
    assert ["10001"] == _instructions("USER")


def test_the_image_gets_all_it_is_made_of() -> None:
    admitted = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    missing = [name for name in admitted if not (ROOT / name).exists()]

    assert [] == missing
    assert {"clients", "migrations", "service", "pyproject.toml", "LICENSE", "README.md"} <= set(admitted)


@pytest.mark.parametrize("command", [SERVICES["migrate"]["command"], SERVICES["remotelr"]["command"]], ids=" ".join)
def test_each_command_of_a_container_exists(command: list[str]) -> None:
    assert ["remotelr"] == json.loads(_instructions("ENTRYPOINT")[0])
    assert 0 == _remotelr(*command, "--help").returncode


def test_the_image_serves_by_default() -> None:
    assert SERVICES["remotelr"]["command"] == json.loads(_instructions("CMD")[0])


@pytest.mark.parametrize("password", ["plain", "p@ss:w/rd %25 #?"])
def test_the_migration_job_brings_the_database_up_to_date(empty_postgres_url: str, password: str) -> None:
    """With the URL and the variable of the compose file, whatever characters the password has."""
    address = urlsplit(empty_postgres_url)
    url = SERVICES["migrate"]["environment"]["REMOTELR_DATABASE_URL"]
    with _owner(empty_postgres_url, password) as role:
        here = url.replace("remotelr@postgres/remotelr", f"{role}@{address.hostname}:{address.port}{address.path}")
        done = _remotelr(
            *SERVICES["migrate"]["command"], REMOTELR_DATABASE_URL=here, REMOTELR_DATABASE_PASSWORD=password
        )

    assert here != url
    assert done.returncode == 0, done.stderr
    assert {"runs", "events"} <= _tables(empty_postgres_url)


def test_the_database_is_healthy_when_it_answers(empty_postgres_url: str) -> None:
    assert 0 == _healthcheck_of_postgres(empty_postgres_url).returncode


def test_the_database_is_not_healthy_without_a_listener() -> None:
    assert _healthcheck_of_postgres("postgresql://remotelr@127.0.0.1:1/remotelr").returncode != 0


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_image_is_healthy_if_livez_answers_200(status: int, healthy: bool) -> None:
    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    command = json.loads(_instructions("HEALTHCHECK")[0].partition("CMD ")[2])
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        Thread(target=server.handle_request).start()
        done = subprocess.run(
            # A loaded machine may take longer than the interval of the health check.
            [sys.executable, *(word.replace("timeout=2", "timeout=60") for word in command[1:])],
            env=os.environ | {"REMOTELR_PORT": str(server.server_port)},
            capture_output=True,
            check=False,
        )

    assert "python" == command[0]
    assert healthy == (done.returncode == 0)


def _instructions(name: str) -> list[str]:
    """What follows each instruction of this name in the Dockerfile's last stage."""
    last_stage = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[-1]
    return re.findall(rf"^{name} +(.*)$", last_stage, re.MULTILINE)


def _remotelr(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REMOTELR, *arguments], env=os.environ | environment, capture_output=True, text=True, check=False, timeout=60
    )


@contextmanager
def _owner(url: str, password: str) -> Iterator[str]:
    """A role with this password that owns the database, as the one of the compose file does."""
    role = f"owner_{uuid.uuid4().hex}"
    database = urlsplit(url).path.removeprefix("/")
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
        )
        connection.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(database), sql.Identifier(role))
        )
        try:
            yield role
        finally:
            connection.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(sql.Identifier(role)))
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def _tables(url: str) -> set[str]:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in rows}


def _healthcheck_of_postgres(url: str) -> subprocess.CompletedProcess[bytes]:
    program, *arguments = SERVICES["postgres"]["healthcheck"]["test"][1:]
    address = urlsplit(url)
    beside_the_server = shutil.which(program, path=str(find_binaries())) or program
    there = ["--host=" + (address.hostname or ""), f"--port={address.port}", "--timeout=60"]
    return subprocess.run([beside_the_server, *arguments, *there], capture_output=True, check=False)
