"""Builds both distributions and tests each in a separate environment without this repository.

The steps of the Dockerfile run without a container engine.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0

# httpx with its dependencies; pip is part of the environment.
CLIENT_TREE = {"anyio", "certifi", "h11", "httpcore", "httpx", "idna", "pip", "remotelr", "typing-extensions"}
CLIENT_PROGRAM = """
import sys
import remotelr, remotelr.client, remotelr.rules
print(remotelr.Client, remotelr.Run, remotelr.Decision)
assert "site-packages" in remotelr.__file__, remotelr.__file__
assert not {"remotelr_service", "pydantic", "keras"} & set(sys.modules)
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="remotelr-wheels-") as name:
        folder = Path(name)
        client_wheel = build(ROOT / "clients", folder / "dist")
        service_wheel = build(ROOT, folder / "dist")
        check_contents(client_wheel, ROOT / "clients" / "remotelr", "remotelr")
        check_contents(service_wheel, ROOT / "service" / "remotelr_service", "remotelr_service")
        check_contents(service_wheel, ROOT / "migrations", "remotelr_service/migrations")
        check_client(client_wheel, folder)
        check_service([client_wheel, service_wheel], folder)
        check_image(folder)
    log("both wheels are complete, install separately, and work")


def build(project: Path, target: Path) -> Path:
    """The wheel, built from the source distribution as on an index."""
    before = set(target.glob("*.whl"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, project)
    (wheel,) = set(target.glob("*.whl")) - before
    return wheel


def check_contents(wheel: Path, source: Path, inside: str) -> None:
    """The wheel contains every file of the folder that git tracks, and the license."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", ".", cwd=source).split()
    packed = set(zipfile.ZipFile(wheel).namelist())
    missing = {f"{inside}/{name}" for name in listed} - packed
    ensure(bool(listed) and not missing, f"{wheel.name} lacks {sorted(missing)}")
    ensure(any(name.endswith("licenses/LICENSE") for name in packed), f"{wheel.name} lacks its license")


def check_client(wheel: Path, folder: Path) -> None:
    """The client installs httpx and its dependencies only, and works without the service."""
    python = environment(folder / "client")
    constraints = folder / "constraints.txt"
    pinned = (ROOT / "requirements" / "service.txt").read_text()
    constraints.write_text("\n".join(re.findall(r"^[a-z0-9][^\\\n]*", pinned, re.MULTILINE)))
    run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, wheel)
    installed = {entry["name"] for entry in json.loads(run(python, "-m", "pip", "list", "--format=json"))}
    unexpected = {name.lower().replace("_", "-") for name in installed} - CLIENT_TREE - {"setuptools"}
    ensure(not unexpected, f"the client installs {sorted(unexpected)}")
    run(python, "-W", "error", "-c", CLIENT_PROGRAM, cwd=folder)


def check_service(wheels: list[Path], folder: Path) -> None:
    """The installed service creates its database, starts, and answers a report."""
    python = environment(folder / "service")
    requirements = ROOT / "requirements" / "service.txt"
    run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", requirements)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", *wheels)
    run(python, "-m", "pip", "check")
    remotelr = python.with_name("remotelr")
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    ensure(
        version is not None and version[1] in run(remotelr, "--version"), "remotelr --version prints another version"
    )
    with serving(remotelr, folder) as address:
        run_url = f"{address}/v1/runs/wheel"
        policy = {"schedule": {"type": "step", "step_size": 1, "gamma": 0.5}}
        request_json("PUT", run_url, {"policy": policy, "initial_learning_rate": 0.25})
        decision = request_json("POST", f"{run_url}/reports", {"epoch": 0, "metrics": {"val_loss": 1.0}})
        ensure((decision["epoch"], decision["learning_rate"]) == (1, 0.125), f"a wrong decision: {decision}")


def check_image(folder: Path) -> None:
    """The build steps of the Dockerfile, on the files that .dockerignore permits, install a working command."""
    source, target = folder / "source", folder / "image"
    source.mkdir()
    ignore = (ROOT / ".dockerignore").read_text()
    for name in re.findall(r"^!(.*)", ignore, re.MULTILINE):
        entry = ROOT / name
        if entry.is_dir():
            shutil.copytree(entry, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(entry, source / name)
    build_stage = (ROOT / "Dockerfile").read_text().split("\nFROM ")[0]
    for step in re.findall(r"^RUN (.*)", build_stage, re.MULTILINE):
        here = step.replace("python -m venv", f"{sys.executable} -m venv").replace("/opt/remotelr", str(target))
        run(*here.split(), cwd=source)
    run(target / "bin" / "remotelr", "db", "upgrade", "--help")


def environment(folder: Path) -> Path:
    """The python of a new, empty virtual environment."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


@contextmanager
def serving(remotelr: Path, folder: Path) -> Iterator[str]:
    """The URL of `remotelr serve` on a new SQLite file. At the end SIGTERM must stop it with exit code 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database = f"sqlite:///{folder / 'remotelr.db'}"
    command: list[str | Path] = [
        remotelr,
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--database-url",
        database,
    ]
    service = subprocess.Popen(command, cwd=folder, env=clean_environment())
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_alive(address, service)
        yield address
        service.send_signal(signal.SIGTERM)
        ensure(service.wait(STOP_TIMEOUT_S) == 0, f"SIGTERM ended the service with {service.returncode}")
    finally:
        service.kill()
        service.wait()


def wait_until_alive(address: str, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and service.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/livez", timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("FAILED: the installed service does not answer /livez")


def request_json(method: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"FAILED: {method} {url} gave {error.code}: {error.read().decode()}") from None
    return answer


def run(*command: str | Path, cwd: Path | None = None) -> str:
    log(" ".join(str(word) for word in command))
    done = subprocess.run(command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False)
    ensure(done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def clean_environment() -> dict[str, str]:
    """The environment without Python paths and settings of RemoteLR."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REMOTELR_"))}


def ensure(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"FAILED: {otherwise}")


def log(message: str) -> None:
    print(f"check_wheels: {message}", flush=True)


if __name__ == "__main__":
    main()
