"""The examples run as they stand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(command: list[str], url: str, tmp_path: Path) -> str:
    environment = {
        **os.environ,
        "REMOTELR_URL": url,
        "REMOTELR_RUN": command[-1].rpartition("/")[2],
        "TMPDIR": str(tmp_path),
    }
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_loop_of_ones_own_brings_its_loss_down(shared_service, tmp_path):
    printed = run([sys.executable, str(EXAMPLES / "own_loop.py")], shared_service.url, tmp_path)

    assert "epoch 5: loss 0.0" in printed


def test_the_keras_example_trains_and_reports_every_epoch(shared_service, tmp_path):
    run([sys.executable, str(EXAMPLES / "keras_quickstart.py")], shared_service.url, tmp_path)

    page = shared_service.http.get("/v1/runs/keras_quickstart.py/history").json()
    assert [row["epoch"] for row in page["reports"]] == list(range(20))


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example is about curl")
def test_ten_lines_of_curl_reduce_a_rate(shared_service, tmp_path):
    printed = run(["sh", str(EXAMPLES / "plain_rest.sh")], shared_service.url, tmp_path)

    assert '"learning_rate":0.05' in printed.replace(" ", "")
