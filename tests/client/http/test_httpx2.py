"""The client on httpx2, the continuation of httpx, where an environment has that one alone."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parents[1]


def test_calls_over_a_network_that_misbehaves_are_the_same_on_httpx2():
    """All of test_transport.py and test_token.py once more, in an interpreter whose client has found no httpx."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "faults.httpx2", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    ended = subprocess.run(
        [*command, str(HERE / "test_transport.py"), str(HERE / "test_credentials.py")],
        cwd=TESTS.parent,
        env=environment,
        check=False,
        stdout=subprocess.PIPE,
        timeout=280,
    )

    assert ended.returncode == 0, ended.stdout.decode()


def test_the_plugin_gives_httpx2_to_the_client_only():
    code = (
        "import faults.httpx2, httpx, remotelr._http.transport as transport; "
        "print(transport.httpx.__name__, httpx.__name__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}

    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)

    assert printed.stdout.split() == ["httpx2", "httpx"]
