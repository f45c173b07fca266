"""`remotelr doctor` and `remotelr config`."""

import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from remotelr_service.server.uvicorn_server import listen


def checks(result) -> dict[str, tuple[str, str, str]]:
    return {each["name"]: (each["state"], each["said"], each["do"] or "") for each in result.json["checks"]}


@contextmanager
def other_server(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """The URL of a server that sends the same response to every request."""

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


def test_doctor_finds_no_problem_with_a_working_service(terminal, monkeypatch):
    monkeypatch.setattr("remotelr_service.features.health.endpoints.PING_TIMEOUT_S", 60.0)
    result = terminal("doctor", "--json")

    assert (0, True) == (result.code, result.json["ok"])
    # A loaded machine can fail the check of the clock; other tests make the runs.
    assert {"ok"} == {state for name, (state, _, _) in checks(result).items() if name not in ("clock", "runs")}


def test_doctor_suggests_to_start_a_missing_service(terminal):
    result = terminal("doctor", "--url", "http://127.0.0.1:1", "--json")

    state, _, fix = checks(result)["service"]
    assert (3, "wrong") == (result.code, state)
    assert "start `remotelr serve`" in fix


def test_doctor_reports_a_host_without_an_address(terminal, monkeypatch):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    # A real name server may take a minute.
    monkeypatch.setattr("socket.getaddrinfo", unknown)
    result = terminal("doctor", "--url", "http://no-such-host.invalid", "--json")

    assert (3, "wrong") == (result.code, checks(result)["name"][0])


def test_doctor_suggests_http_for_a_server_without_tls(terminal, shared_service):
    result = terminal("doctor", "--url", shared_service.url.replace("http:", "https:"), "--json")

    assert "try http://" in checks(result)["service"][2]


def test_doctor_reports_a_redirect_to_a_login_page(terminal):
    with other_server(302, b"", location="https://login.example/") as url:
        result = terminal("doctor", "--url", url, "--json")

    assert "redirects to https://login.example/" in checks(result)["service"][1]


def test_doctor_warns_about_clock_skew(terminal):
    body, ok = b'{"status": "ok"}', {"content_type": "application/json"}
    with other_server(200, body, date="Sat, 01 Jan 2000 00:00:00 GMT", **ok) as url:
        result = terminal("doctor", "--url", url, "--json")

    assert ("warning", True) == (checks(result)["clock"][0], "ahead of the service" in checks(result)["clock"][1])


def test_doctor_warns_about_a_proxy_for_localhost_without_its_password(terminal, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:1")

    result = terminal("doctor", "--json")

    assert "warning" == checks(result)["proxy"][0]
    assert "requests go through the proxy http://127.0.0.1:1" in checks(result)["service"][2]
    assert "secret" not in result.out


def test_doctor_warns_about_drift(terminal, trained):
    run = trained("two-masters", [0.9])
    run.report(1, {"val_loss": 0.9}, learning_rate=0.7)

    # Stalled runs of other tests are a check with the same name.
    result = [each["said"] for each in terminal("doctor", "--json").json["checks"] if each["name"] == "runs"]
    assert any("two-masters" in each for each in result)
    run.finish()


def test_doctor_warns_about_local_mode(terminal, monkeypatch):
    monkeypatch.setenv("REMOTELR_MODE", "local")

    assert "unset REMOTELR_MODE" == checks(terminal("doctor", "--json"))["environment"][2]


def test_config_shows_settings_with_sources_and_masks_secrets(terminal, monkeypatch, tmp_path):
    monkeypatch.setenv("REMOTELR_DATABASE_URL", "postgresql://me:geheim@db/runs")
    monkeypatch.setenv("REMOTELR_TOKEN_FILE", str(tmp_path / "token"))
    (tmp_path / "token").write_text("rlr_0123456789abcdefghij\n")

    result = terminal("config", "show", "--json")

    assert {"value": "postgresql://me:***@db/runs", "source": "REMOTELR_DATABASE_URL"} == result.json["service"][
        "database_url"
    ]
    assert {"value": "8000", "source": "default"} == result.json["service"]["port"]
    assert {"value": "rlr_…", "source": "REMOTELR_TOKEN_FILE"} == result.json["terminal"]["token"]
    assert "geheim" not in result.out + terminal("config", "show").out


@pytest.mark.parametrize(
    "proxy", ["http://me:geheim@proxy:3128", "http://me:geh/eim@proxy:3128", "me:geheim@proxy:3128"]
)
def test_config_shows_no_password_of_a_proxy(terminal, monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/me@home/ca.pem")

    shown = terminal("config", "show", "--json").json["network"]

    assert (proxy.rpartition("me:")[0] + "proxy:3128") == shown["HTTPS_PROXY"]["value"]
    assert "/etc/me@home/ca.pem" == shown["SSL_CERT_FILE"]["value"]


def test_a_missing_token_file_is_a_user_error(terminal, monkeypatch):
    monkeypatch.setenv("REMOTELR_TOKEN_FILE", "/no/such/file")

    result = terminal("runs", "list")

    assert (1, True) == (result.code, "/no/such/file cannot be read" in result.err)


@pytest.mark.parametrize("token", ["two\nlines", "schlüssel", "x" * 2_000])
def test_an_invalid_token_is_not_sent(terminal, monkeypatch, token):
    monkeypatch.setenv("REMOTELR_TOKEN", token)

    assert (1, True) == ((result := terminal("runs", "list")).code, "the token must be" in result.err)


def test_doctor_times_out_on_a_port_that_does_not_respond(terminal, monkeypatch):
    from remotelr_service.cli import doctor
    from remotelr_service.cli.support.http_client import ServiceClient

    monkeypatch.setattr(doctor, "ServiceClient", lambda url, headers: ServiceClient(url, headers, timeout_s=0.2))
    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        result = terminal("doctor", "--url", f"http://127.0.0.1:{bound.getsockname()[1]}", "--json")

    assert "firewall" in checks(result)["service"][2]


def test_a_token_is_not_sent_unencrypted_to_another_machine(terminal, monkeypatch):
    monkeypatch.setenv("REMOTELR_TOKEN", "a-token-of-some-length")

    result, doctor = (terminal(*words, "--url", "http://gpu-box:8000") for words in (["runs", "list"], ["doctor"]))

    assert (1, True) == (result.code, "others can read it: use https" in result.err)
    assert (1, True) == (doctor.code, "others can read it: use https" in doctor.out)


def test_doctor_finds_spools_of_jobs_that_are_not_running(terminal, monkeypatch, tmp_path):
    monkeypatch.setenv("REMOTELR_SPOOL_DIR", str(tmp_path))
    for name, age_s in (("bert-1.spool", 100_000), ("vit-1.spool", 10)):
        (tmp_path / name).write_bytes(b"remotelr-spool-1")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)

    result = checks(terminal("doctor", "--json"))["spools"]

    assert ("warning", True, False) == (result[0], "bert-1" in result[1], "vit-1" in result[1])
