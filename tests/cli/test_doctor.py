"""`remotelr doctor` and `remotelr config`: what stands between an operator and a service that works."""

import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from remotelr_service.server.uvicorn_server import listen


def checks(said) -> dict[str, tuple[str, str, str]]:
    return {each["name"]: (each["state"], each["said"], each["do"] or "") for each in said.json["checks"]}


@contextmanager
def stranger(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """The address of a server that is none of ours, and answers everything so."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_nothing_is_wrong_with_a_service_that_works(terminal, monkeypatch):
    monkeypatch.setattr("remotelr_service.features.health.endpoints.PING_TIMEOUT_S", 60.0)
    said = terminal("doctor", "--json")

    assert (0, True) == (said.code, said.json["ok"])
    # The clock is that of a machine which may have much else to do; the runs are those of other tests.
    assert {"ok"} == {state for name, (state, _, _) in checks(said).items() if name not in ("clock", "runs")}


def test_a_service_that_is_not_there_is_said_with_the_way_out(terminal):
    said = terminal("doctor", "--url", "http://127.0.0.1:1", "--json")

    state, _, do = checks(said)["service"]
    assert (3, "wrong") == (said.code, state)
    assert "start `remotelr serve`" in do


def test_a_host_without_an_address_is_said(terminal, monkeypatch):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    # Not the real one: whoever answers for names here may take a minute to say that there is none.
    monkeypatch.setattr("socket.getaddrinfo", unknown)
    said = terminal("doctor", "--url", "http://no-such-host.invalid", "--json")

    assert (3, "wrong") == (said.code, checks(said)["name"][0])


def test_tls_where_there_is_none_is_said(terminal, shared_service):
    said = terminal("doctor", "--url", shared_service.url.replace("http:", "https:"), "--json")

    assert "try http://" in checks(said)["service"][2]


def test_a_login_page_is_told_from_the_service(terminal):
    with stranger(302, b"", location="https://login.example/") as url:
        said = terminal("doctor", "--url", url, "--json")

    assert "points to https://login.example/" in checks(said)["service"][1]


def test_a_clock_that_is_wrong_is_said(terminal):
    body, ok = b'{"status": "ok"}', {"content_type": "application/json"}
    with stranger(200, body, date="Sat, 01 Jan 2000 00:00:00 GMT", **ok) as url:
        said = terminal("doctor", "--url", url, "--json")

    assert ("warning", True) == (checks(said)["clock"][0], "ahead of the service" in checks(said)["clock"][1])


def test_a_proxy_before_this_machine_is_warned_of_without_its_password(terminal, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:1")

    said = terminal("doctor", "--json")

    assert "warning" == checks(said)["proxy"][0]
    assert "the proxy http://127.0.0.1:1 stands in between" in checks(said)["service"][2]
    assert "secret" not in said.out


def test_a_trainer_that_uses_another_rate_is_pointed_out(terminal, trained):
    run = trained("two-masters", [0.9])
    run.report(1, {"val_loss": 0.9}, learning_rate=0.7)

    # Runs of other tests may have fallen silent meanwhile, which is a check of the same name.
    said = [each["said"] for each in terminal("doctor", "--json").json["checks"] if each["name"] == "runs"]
    assert any("two-masters" in each for each in said)
    run.finish()


def test_a_shell_whose_trainers_ask_nobody_is_warned_of(terminal, monkeypatch):
    monkeypatch.setenv("REMOTELR_MODE", "local")

    assert "unset REMOTELR_MODE" == checks(terminal("doctor", "--json"))["environment"][2]


def test_every_setting_is_shown_with_its_source_and_no_secret(terminal, monkeypatch, tmp_path):
    monkeypatch.setenv("REMOTELR_DATABASE_URL", "postgresql://me:geheim@db/runs")
    monkeypatch.setenv("REMOTELR_TOKEN_FILE", str(tmp_path / "token"))
    (tmp_path / "token").write_text("rlr_0123456789abcdefghij\n")

    said = terminal("config", "show", "--json")

    assert {"value": "postgresql://me:***@db/runs", "source": "REMOTELR_DATABASE_URL"} == said.json["service"][
        "database_url"
    ]
    assert {"value": "8000", "source": "default"} == said.json["service"]["port"]
    assert {"value": "rlr_…", "source": "REMOTELR_TOKEN_FILE"} == said.json["terminal"]["token"]
    assert "geheim" not in said.out + terminal("config", "show").out


def test_a_token_file_that_is_not_there_is_a_mistake(terminal, monkeypatch):
    monkeypatch.setenv("REMOTELR_TOKEN_FILE", "/no/such/file")

    said = terminal("runs", "list")

    assert (1, True) == (said.code, "/no/such/file cannot be read" in said.err)


@pytest.mark.parametrize("token", ["two\nlines", "schlüssel", "x" * 2_000])
def test_what_cannot_be_a_token_is_not_sent(terminal, monkeypatch, token):
    monkeypatch.setenv("REMOTELR_TOKEN", token)

    assert (1, True) == ((said := terminal("runs", "list")).code, "the token is one word" in said.err)


def test_a_port_that_listens_and_says_nothing_is_not_waited_for_long(terminal, monkeypatch):
    from remotelr_service.cli import doctor
    from remotelr_service.cli.support.http_client import ServiceClient

    monkeypatch.setattr(doctor, "ServiceClient", lambda url, headers: ServiceClient(url, headers, timeout_s=0.2))
    with listen("127.0.0.1", 0) as silent:
        silent.listen()
        said = terminal("doctor", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}", "--json")

    assert "firewall" in checks(said)["service"][2]


def test_a_token_that_others_could_read_on_its_way_is_not_sent(terminal, monkeypatch):
    monkeypatch.setenv("REMOTELR_TOKEN", "a-token-of-some-length")

    ended, doctor = (terminal(*words, "--url", "http://gpu-box:8000") for words in (["runs", "list"], ["doctor"]))

    assert (1, True) == (ended.code, "others can read it: use https" in ended.err)
    assert (1, True) == (doctor.code, "others can read it: use https" in doctor.out)


def test_a_job_that_never_ended_is_found_by_what_it_left_behind(terminal, monkeypatch, tmp_path):
    monkeypatch.setenv("REMOTELR_SPOOL_DIR", str(tmp_path))
    for name, age_s in (("bert-1.spool", 100_000), ("vit-1.spool", 10)):
        (tmp_path / name).write_bytes(b"remotelr-spool-1")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)

    said = checks(terminal("doctor", "--json"))["spools"]

    assert ("warning", True, False) == (said[0], "bert-1" in said[1], "vit-1" in said[1])
