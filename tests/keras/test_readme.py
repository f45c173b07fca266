"""The README's blocks, run as they stand there; only the address and the folder of checkpoints are the test's own."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def block(beginning: str, language: str = "") -> str:
    """The one block of that language that begins so."""
    found = re.findall(rf"^```{language}\n({re.escape(beginning)}.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"{len(found)} blocks begin with {beginning!r}"
    return found[0]


def line() -> dict[str, object]:
    """What the README leaves to its reader: a model, and data. The better it fits, the worse is its `val_loss`."""
    x = np.linspace(-1.0, 1.0, 32, dtype="float32").reshape(32, 1)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return {"model": model, "x": x, "y": 2.0 * x, "x_val": x, "y_val": -2.0 * x}


def shell(commands: str, url: str) -> str:
    script = commands.replace(ADDRESS, url).replace("curl", "curl --silent --show-error --fail-with-body")
    return subprocess.run(["sh", "-euc", script], check=True, capture_output=True, text=True, timeout=60).stdout


def blocks(*languages: str) -> list[tuple[str, str]]:
    """Language and text of each block, in the README's order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in found if language in languages]


# A reader trains for longer than the test.
@pytest.mark.filterwarnings("ignore:.*the schedule takes:remotelr.errors.RemoteLRWarning")
@pytest.mark.skipif(shutil.which("curl") is None, reason="some blocks are about curl")
def test_a_reader_who_runs_every_block_and_then_the_examples_meets_no_refusal(service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REMOTELR_URL", service.url)
    (tmp_path / "cosine.json").write_text('{"type": "cosine", "decay_steps": 30}')
    names, before, ran = line(), "", 0
    for language, text in blocks("python", ""):
        if language == "python":
            # The second block is one callback.
            fit = "model.fit(x, y, epochs=2, verbose=0, callbacks=[{}])" if text.startswith("RemoteLR(") else "{}"
            exec(compile(fit.format(text.replace(ADDRESS, service.url).strip()), "README.md", "exec"), names)
        elif "curl" in text:
            # The variables of an earlier block are set in the reader's shell.
            shell(before + text, service.url)
            before += "".join(re.findall(r"^\w+=.*\n", text, re.MULTILINE))
        elif text.startswith("remotelr runs"):
            shell(
                text.replace("remotelr", f"{sys.executable} -m remotelr_service").replace("watch", "watch --once"), ""
            )
        else:
            continue
        ran += 1
    for example in dict.fromkeys(re.findall(r"\]\((examples/[^)\s]+)\)", README)):
        command = [sys.executable if example.endswith(".py") else "sh", str(ROOT / example)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        ran += 1

    keys = {run["run"] for run in service.http.get("/v1/runs").json()["runs"]}
    assert 7 == ran
    assert 5 == len(keys)


def test_the_ten_lines_of_keras_train_and_reduce_the_rate(shared_service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = block("import keras", "python").replace(ADDRESS, shared_service.url)
    exec(compile(code, "README.md", "exec"), line())

    page = shared_service.http.get("/v1/runs/my-run/history?limit=200").json()
    rates = [row["learning_rate"] for row in page["reports"]]
    assert 50 == len(rates)
    assert 0.1 == pytest.approx(rates[0])
    assert rates[-1] < rates[0]


# A reader trains for longer than the test.
@pytest.mark.filterwarnings("ignore:.*the schedule takes:remotelr.errors.RemoteLRWarning")
def test_the_policy_beside_them_follows_its_curve(shared_service):
    code = block("RemoteLR(", "python").replace(ADDRESS, shared_service.url)
    known = line()
    exec("from remotelr.keras import RemoteLR", known)
    known["model"].fit(known["x"], known["y"], epochs=2, verbose=0, callbacks=[eval(code, known)])

    run = shared_service.http.get("/v1/runs/my-cosine").json()
    assert ("cosine", "step", 9000) == (
        run["policy"]["schedule"]["type"],
        run["policy"]["unit"],
        run["policy"]["schedule"]["decay_steps"],
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="the blocks are about curl")
def test_the_curl_lines_answer_what_is_printed_below_them(service):
    address, header, *calls = block("run=http").splitlines()
    created, begun, reported = [json.loads(shell(f"{address}\n{header}\n{each}", service.url)) for each in calls]
    orders, history = block('curl "$run/commands"').splitlines()
    ordered = json.loads(shell(f"{address}\n{header}\n{orders}", service.url))
    table = shell(f"{address}\n{history}", service.url)

    printed = json.loads(block("{", "json"))
    assert "..." == printed.pop("...")
    assert printed == {name: reported[name] for name in printed}
    assert "running" == created["status"]
    assert (1, 0) == (begun["attempt"], begun["decision"]["epoch"])
    assert 2 == ordered["effective_from"]
    assert table.startswith("seq,epoch,")


def test_the_lines_of_the_desk_do_what_is_written_behind_them(service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REMOTELR_URL", service.url)
    (tmp_path / "cosine.json").write_text('{"type": "cosine", "decay_steps": 30}')
    body = {"policy": {"type": "reduce_on_plateau"}, "initial_learning_rate": 0.1, "tags": {"team": "vision"}}
    service.http.put("/v1/runs/my-run", json=body).raise_for_status()
    for epoch in range(13):
        report = {"epoch": epoch, "metrics": {"val_loss": 1 / (1 + epoch)}}
        service.http.post("/v1/runs/my-run/reports", json=report).raise_for_status()

    # Without an end of its own `watch` would go on for ever.
    lines = block("remotelr runs watch").replace("runs watch", "runs watch --once").splitlines()
    watched, why, _, bulk, orders, what_if = [
        shell(f"{sys.executable} -m remotelr_service {line[9:]}", service.url) for line in lines
    ]

    assert "my-run" in watched
    assert why.startswith("Epoch 12 trains with ")
    assert "1 run" in bulk
    assert "0.01" in bulk
    assert "too hot" in orders
    assert "cosine" in what_if
    assert ["set_learning_rate"] == [
        each["type"] for each in service.http.get("/v1/runs/my-run/commands").json()["commands"]
    ]


def test_every_command_of_the_readme_exists():
    commands = set(re.findall(r"^remotelr ([a-z]+(?: [a-z-]+)?)", README, re.MULTILINE))
    unknown = [
        command
        for command in commands
        if subprocess.run(
            [sys.executable, "-m", "remotelr_service", *command.split(), "--help"], capture_output=True, check=False
        ).returncode
    ]

    assert {"serve", "db upgrade"} <= commands
    assert [] == unknown
