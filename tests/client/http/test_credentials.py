"""A client's token reaches the service and nothing else: no other machine over http, no message, no log."""

import logging
import ssl
import warnings
from pathlib import Path

import pytest

from faults import proxy
from remotelr import Client, ServiceRefused
from remotelr._http.credentials import bearer
from remotelr._http.requests import Request
from remotelr._http.transport import HttpTransport, NoAnswer
from remotelr.errors import RemoteLRWarning

LIVEZ = Request(method="GET", path="/livez")
TOKEN = "rlr_abcdefghijklmnopqrstuvwxyz0123456789"
TLS = Path(proxy.__file__).with_name("tls")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in ("REMOTELR_TOKEN", "REMOTELR_TOKEN_FILE", "REMOTELR_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)


def answers(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def request_of(misbehaving, **settings) -> bytes:
    """The first request that a server receives from a client."""
    requests = []

    def listens(connection):
        requests.append(connection.recv(65536))
        connection.sendall(answers(b"404 Not Found", b'{"code": "run_not_found", "detail": "found no run"}'))

    with Client(misbehaving(listens).url, timeout_s=60, **settings) as client, pytest.raises(ServiceRefused):
        client.get_run("a")
    return requests[0]


def test_the_token_is_sent_as_a_bearers(misbehaving):
    assert f"Bearer {TOKEN}\r\n".encode() in request_of(misbehaving, token=TOKEN)


def test_the_environment_may_hold_it(misbehaving, monkeypatch):
    monkeypatch.setenv("REMOTELR_TOKEN", f" {TOKEN}\n")

    assert f"Bearer {TOKEN}\r\n".encode() in request_of(misbehaving)


def test_a_file_may_hold_it(misbehaving, monkeypatch, tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("REMOTELR_TOKEN_FILE", str(tmp_path / "token"))

    assert f"Bearer {TOKEN}\r\n".encode() in request_of(misbehaving)


def test_an_argument_overrides_the_environment(misbehaving, monkeypatch):
    monkeypatch.setenv("REMOTELR_TOKEN", "another")

    assert TOKEN.encode() in request_of(misbehaving, token=TOKEN)


def test_token_and_token_file_in_the_environment_are_rejected(monkeypatch, tmp_path):
    monkeypatch.setenv("REMOTELR_TOKEN", TOKEN)
    monkeypatch.setenv("REMOTELR_TOKEN_FILE", str(tmp_path / "token"))

    with pytest.raises(ValueError, match="both set"):
        Client("https://rates.example.org")


def test_a_file_that_cannot_be_read_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("REMOTELR_TOKEN_FILE", str(tmp_path / "nowhere"))

    with pytest.raises(ValueError, match=r"REMOTELR_TOKEN_FILE: .*nowhere cannot be read"):
        Client("https://rates.example.org")


@pytest.mark.parametrize("token", ["", " ", "two words", "line\r\nx: y", "é" + TOKEN, "a" * 2000])
def test_an_invalid_token_is_rejected_and_not_shown(token):
    with pytest.raises(ValueError, match="characters of printable ASCII") as refused:
        Client("https://rates.example.org", token=token)

    assert not token.strip() or token not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://rates.example.org",
        "http://10.0.0.7:8000",
        "http://localhost.evil.org",
        "http://127.0.0.1.nip.io",
        "HTTP://x",
    ],
)
def test_it_never_goes_to_another_machine_in_the_clear(url):
    with pytest.raises(ValueError, match=r"over http|must begin with") as refused:
        Client(url, token=TOKEN)

    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["https://rates.example.org", "http://localhost:8000", "http://127.0.0.2", "http://[::1]:8000"]
)
def test_the_token_is_sent_over_https_and_to_this_machine(url):
    assert bearer(url, TOKEN) == {"authorization": f"Bearer {TOKEN}"}


def test_it_does_not_go_through_a_proxy_of_the_environment_either(misbehaving, monkeypatch):
    proxied = []
    between = misbehaving(lambda connection: proxied.append(connection.recv(65536)))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, between.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    assert TOKEN.encode() in request_of(misbehaving, token=TOKEN)
    assert proxied == []


def test_allow_http_sends_the_token_over_http(monkeypatch):
    assert bearer("http://remotelr:8000", TOKEN, allow_http=True)

    monkeypatch.setenv("REMOTELR_ALLOW_HTTP", "1")
    assert bearer("http://remotelr:8000", TOKEN)


def test_an_address_with_a_password_in_it_is_refused_and_not_shown():
    with pytest.raises(ValueError, match="token=") as refused:
        Client(f"https://me:{TOKEN}@rates.example.org")

    assert TOKEN not in str(refused.value)


def test_no_message_no_repr_and_no_log_shows_it(misbehaving, caplog):
    caplog.set_level(logging.DEBUG)

    def refuses(connection):
        connection.recv(65536)
        connection.sendall(answers(b"401 Unauthorized", b'{"code": "unauthorized", "detail": "no, thanks"}'))

    client = Client(misbehaving(refuses).url, token=TOKEN, timeout_s=60)
    with client, pytest.raises(ServiceRefused, match="no, thanks") as refused:
        client.get_run("a")

    shown = [repr(client), repr(vars(client)), str(refused.value), repr(refused.value), caplog.text]
    assert TOKEN not in "".join(shown)


def test_a_header_that_cannot_be_sent_is_not_shown(misbehaving):
    headers = {"authorization": f"Bearer {TOKEN}\n"}
    client = Client(misbehaving(lambda _: None).url, headers=headers)
    # One try: of many, the last may have no time left to come so far.
    with client, pytest.raises(NoAnswer, match="a header that cannot be sent") as unreachable:
        client.transport.send(LIVEZ, 60)

    assert TOKEN not in str(unreachable.value)


def served_by_tls(**verify) -> str:
    """What a call over TLS ends with, whose other side has a certificate of its own making."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "right.pem")
    refusal = proxy.Answer(404, b'{"code": "run_not_found", "detail": "found no run"}')
    with (
        proxy.Proxy(("127.0.0.1", 9), refusal, tls=context) as service,
        Client(service.url, token=TOKEN, **verify) as client,
        pytest.raises((ServiceRefused, NoAnswer)) as ended,
    ):
        # One try, which is all that a certificate is worth.
        client.get_run("a", timeout_s=60) if verify else client.transport.send(LIVEZ, 60)
    return str(ended.value)


def test_an_untrusted_certificate_is_rejected():
    assert "CERTIFICATE_VERIFY_FAILED" in served_by_tls()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_may_vouch_for_it(kind):
    assert "found no run" in served_by_tls(verify=kind(TLS / "right.pem"))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"nowhere\.pem.*no such file"):
        Client("https://rates.example.org", verify="nowhere.pem")


def test_trusting_any_server_is_a_warning():
    with pytest.warns(RemoteLRWarning, match="trusts any server") as warned:
        ended = served_by_tls(verify=False)

    assert "found no run" in ended
    assert len(warned) == 1


def test_that_warning_is_given_once_though_there_are_two_connections():
    with pytest.warns(RemoteLRWarning) as warned:
        HttpTransport("https://rates.example.org", verify=False).clone()

    assert len(warned) == 1


def test_a_client_without_a_token_sends_none(misbehaving):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert b"authorization" not in request_of(misbehaving).lower()
