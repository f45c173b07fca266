"""The installed script as a process: terminals, pipes, signals and completion."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).parent / "remotelr"


def environment(url: str, **more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("REMOTELR_", "COV_"))}
    return {**inherited, "REMOTELR_URL": url, "NO_PROXY": "*", "TERM": "xterm-256color", **more}


def start(url: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SCRIPT, *arguments],
        env=environment(url, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def on_a_terminal(url: str, *arguments: str, **more: str) -> str:
    """The script's output on a terminal."""
    reader, writer = pty.openpty()
    process = subprocess.Popen([SCRIPT, *arguments], env=environment(url, **more), stdout=writer, stderr=writer)
    os.close(writer)
    written = b""
    while True:
        try:
            part = os.read(reader, 4096)
        except OSError:
            # Linux reports the end of a pseudo-terminal as an error.
            break
        if not part:
            break
        written += part
    os.close(reader)
    assert 0 == process.wait(60), written
    return written.decode()


def test_a_terminal_gets_colours_and_a_pipe_none(shared_service, trained):
    trained("coloured", [0.9])

    piped = start(shared_service.url, "runs", "watch", "coloured", "--once")
    out, err = piped.communicate(timeout=60)

    assert (0, "", False) == (piped.returncode, err, "\x1b" in out)
    assert "\x1b[" in on_a_terminal(shared_service.url, "runs", "watch", "coloured", "--once")


@pytest.mark.parametrize(("encoding", "drawn"), [("utf-8", "█"), ("ascii", "@")])
@pytest.mark.parametrize("mode", ["--once", "--to-the-end"])
def test_watch_draws_what_the_encoding_of_the_terminal_has(shared_service, trained, encoding, drawn, mode):
    run = trained(f"drawn-{encoding}{mode}", [0.9, 0.5, 0.1])
    run.finish()

    written = on_a_terminal(shared_service.url, "runs", "watch", run.key, mode, PYTHONIOENCODING=encoding)

    assert [drawn] == [each for each in "█@" if each in written]


def test_no_color_disables_colours(shared_service, trained):
    trained("plain", [0.9])

    written = on_a_terminal(shared_service.url, "runs", "list", NO_COLOR="1")

    assert "\x1b[3" not in written
    assert "running" in written


def test_ctrl_c_ends_a_watch_without_a_traceback(shared_service, trained):
    trained("interrupted", [0.9])
    watching = start(shared_service.url, "runs", "watch", "interrupted", "--json")
    assert watching.stdout is not None
    assert "interrupted" in watching.stdout.readline()

    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=60)

    assert (130, "") == (watching.returncode, err)


def test_a_closed_pipe_causes_no_error_message(shared_service, trained):
    trained("long-output", [0.9] * 300)
    writing = start(shared_service.url, "runs", "history", "long-output", "--json")
    assert writing.stdout is not None
    assert writing.stderr is not None
    writing.stdout.close()

    with writing.stderr as errors:
        result = errors.read()
    writing.wait(60)

    assert "" == result


def test_watch_continues_while_the_service_is_unreachable(sqlite_url, start_service):
    from remotelr import Client

    service = start_service(sqlite_url)
    service.wait_ready()
    with Client(service.url, trust_env=False, timeout_s=60) as client:
        client.run("alone", policy={"type": "constant", "learning_rate": 0.1})
    watching = start(service.url, "runs", "watch", "alone", "--json", "--every", "0.2")
    assert watching.stdout is not None
    assert '"trouble": null' in watching.stdout.readline()

    service.end()
    line = ""
    deadline = time.monotonic() + 60
    while '"trouble": null' in (line := watching.stdout.readline()):
        assert time.monotonic() < deadline
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=60)

    assert ("alone" in line, 130) == (True, watching.returncode)


@pytest.mark.parametrize(("typed", "offered"), [("remotelr ru", "runs"), ("remotelr runs show compl", "completed-run")])
def test_the_shell_completes_commands_and_the_keys_of_runs(shared_service, trained, typed, offered):
    trained("completed-run", [])
    words = {"_REMOTELR_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}

    deadline = time.monotonic() + 100
    # If the service takes longer than a second, nothing is offered.
    while offered not in (out := start(shared_service.url, **words).communicate(timeout=60)[0]).split():
        assert time.monotonic() < deadline, out


def test_characters_outside_the_encoding_are_escaped(shared_service, trained):
    trained("narrow", [], tags={"room": "Küche"})

    listing = start(shared_service.url, "runs", "list", "-t", "room:Küche", PYTHONIOENCODING="ascii")
    out, err = listing.communicate(timeout=60)

    assert (0, "") == (listing.returncode, err)
    assert "room:K\\xfcche" in out
