"""Programs that use the client: forked or spawned data loaders, and interpreters that exit during a call."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults import programs, proxy
from faults.proxy import Proxy
from remotelr import Client


def runs(program, url, folder, *options, code=0) -> tuple[str, str]:
    """Its standard output and standard error."""
    found = [str(Path(programs.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found))}
    command = [sys.executable, *options, programs.__file__, program.__name__, url, str(folder)]
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=200)
    assert ended.returncode == code, ended.stderr
    return ended.stdout.strip(), ended.stderr


@pytest.fixture
def url(shared_service) -> str:
    return shared_service.url


def test_data_loaders_of_any_kind_leave_the_run_and_its_file_alone(url, tmp_path):
    printed, complaints = runs(programs.loads_data, url, tmp_path)

    assert (printed, complaints) == (str(0.5**4), "")
    with Client(url, timeout_s=60.0, trust_env=False) as client:
        run = client.get_run("loaders")
        assert run.view.status == "completed"
        assert [row.epoch for row in run.history()] == [0, 1, 2, 3]


def test_forked_processes_never_read_each_others_answers(url, tmp_path):
    assert runs(programs.shares_a_client, url, tmp_path) == ("0", "")


def test_a_process_forked_in_the_middle_of_a_call_has_a_client_that_works(url, tmp_path):
    assert runs(programs.forks_in_the_middle, url, tmp_path) == ("0", "")


def test_a_program_ends_though_a_call_of_it_cannot(url, tmp_path):
    began = time.monotonic()

    printed, complaints = runs(programs.leaves_in_the_middle, url, tmp_path)

    assert time.monotonic() - began < 100
    assert printed == ""
    assert complaints.count("RemoteLRWarning") == 1
    assert "Traceback" not in complaints


def test_a_program_that_ends_without_close_leaves_nothing_open_and_does_not_wait(shared_service, tmp_path):
    """Every warning is shown, also of unclosed sockets; the service stops answering just before."""
    with Proxy(("127.0.0.1", int(shared_service.url.rpartition(":")[2])), proxy.blackhole) as stalled:
        began = time.monotonic()
        printed, complaints = runs(
            programs.leaves_without_a_word, stalled.url, tmp_path, "-W", "always::ResourceWarning", code=3
        )

    assert time.monotonic() - began < 100
    assert printed == ""
    assert "ResourceWarning" not in complaints
    assert "Traceback" not in complaints
