"""One call over a network that misbehaves: it ends by its deadline, and leaves nothing behind."""

import gc
import json
import socket
import threading
import time

import pytest

from remotelr import Client, ServiceRefused, ServiceUnreachable
from remotelr._http.requests import Request
from remotelr._http.transport import HttpTransport, NoAnswer
from remotelr._session.journal import Journal
from remotelr._session.listener import Listener
from remotelr._session.session import Session
from support.leak_check import open_files

BODY = json.dumps({"code": "run_not_found", "detail": "there is no run 'a'"}).encode()
ANSWER = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)
LIVEZ = Request(method="GET", path="/livez")


def read_request(connection: socket.socket) -> None:
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += connection.recv(65536) or b"\r\n\r\n"


def answers(connection: socket.socket) -> None:
    while True:
        read_request(connection)
        connection.sendall(ANSWER)


def answers_once_and_closes_at_the_next_request(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(ANSWER)
    read_request(connection)


def says_nothing(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def drips(connection: socket.socket, head: bytes, byte: bytes) -> None:
    read_request(connection)
    connection.sendall(head)
    while True:
        connection.sendall(byte)
        time.sleep(0.05)


def drips_a_body(connection: socket.socket) -> None:
    drips(connection, b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n", b" ")


def drips_a_head(connection: socket.socket) -> None:
    drips(connection, b"HTTP/1.1 200 OK\r\nx: ", b"y")


def never_stops(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
    while True:
        connection.sendall(b" " * 65536)


def sends(raw: bytes):
    def behaviour(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(raw)

    return behaviour


def answers_about(*runs: str):
    """Answers the i-th request with the rate i / 10 of the i-th run, the last one for all further requests."""

    def behaviour(connection: socket.socket) -> None:
        for number in range(1_000):
            read_request(connection)
            run = runs[min(number, len(runs) - 1)]
            document = {"run": run, "attempt": 1, "seq": 1, "epoch": 0, "learning_rate": (number + 1) / 10}
            words = {"reason": "start", "changed": False, "action": "continue", "state": {}, "replayed": False}
            view = {"policy": {}, "tags": {}, "world_size": 1, "policy_version": 1, "status": "running"}
            decision = {**document, **words}
            body = json.dumps({**decision, **view, "decision": decision}).encode()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)

    return behaviour


def hangs_up(connection: socket.socket) -> None:
    read_request(connection)


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "remotelr-call"]


def listening() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "remotelr-live"]


@pytest.mark.parametrize("behaviour", [says_nothing, drips_a_body, drips_a_head])
def test_a_call_ends_at_its_deadline_whatever_drips(misbehaving, behaviour):
    """httpx alone took 11.8 s here with a timeout of 0.5: every byte starts its clock again."""
    transport = HttpTransport(misbehaving(behaviour).url)
    began = time.monotonic()

    with pytest.raises(NoAnswer, match=r"within 0\.4 s"):
        transport.send(LIVEZ, timeout_s=0.4)

    # Far from what it would take otherwise, and from what a busy machine may add.
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("behaviour", [says_nothing, drips_a_body, drips_a_head])
def test_a_call_that_was_given_up_leaves_no_thread_and_no_file(misbehaving, behaviour):
    server = misbehaving(behaviour)
    before = open_files()
    transport = HttpTransport(server.url)
    with pytest.raises(NoAnswer):
        transport.send(LIVEZ, timeout_s=0.3)
    transport.close()
    deadline = time.monotonic() + 30
    while (our_threads() or open_files() > before + server.connections) and time.monotonic() < deadline:
        time.sleep(0.02)

    assert our_threads() == []
    # The server's own end of the connection is open until its thread notices.
    assert open_files() <= before + server.connections


def no_thread(*_):
    raise RuntimeError("can't start new thread")


def test_a_call_without_a_thread_to_be_had_has_no_answer(misbehaving, monkeypatch):
    transport = HttpTransport(misbehaving(answers).url)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(NoAnswer, match="can't start new thread"):
            transport.send(LIVEZ, timeout_s=60)

    assert transport.send(LIVEZ, timeout_s=60).status == 404


def test_certificates_that_are_not_there_are_no_answer(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "nowhere.pem")

    with pytest.raises(NoAnswer, match="FileNotFoundError"):
        HttpTransport("https://127.0.0.1:9").send(LIVEZ, timeout_s=60)


def test_no_certificates_are_read_for_an_address_without_tls(misbehaving, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "nowhere.pem")
    read: list[object] = []
    monkeypatch.setattr("ssl.create_default_context", lambda *_, **settings: read.append(settings))

    assert HttpTransport(misbehaving(answers).url).send(LIVEZ, timeout_s=60).status == 404
    assert read == []


def test_a_listener_starts_when_a_thread_is_available(misbehaving, monkeypatch):
    transport = HttpTransport(misbehaving(says_nothing).url)
    listener = Listener(transport, "a")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        listener.listen_from(1)
    begun_without = listener._thread is not None

    listener.listen_from(2)
    begun = listener._thread is not None
    listener.close()

    assert (begun_without, begun) == (False, True)


def test_an_unreferenced_session_stops_listening(misbehaving):
    server = misbehaving(says_nothing)
    before = open_files()
    session = Session(Client(server.url), "a", {}, journal=Journal(None), live=True, say=print)
    session._listener.listen_from(1)
    deadline = time.monotonic() + 60
    while not server.connections and time.monotonic() < deadline:
        time.sleep(0.02)

    del session
    gc.collect()
    while (listening() or open_files() > before + server.connections) and time.monotonic() < deadline:
        time.sleep(0.02)

    assert server.connections == 1
    assert listening() == []
    assert open_files() <= before + server.connections


def test_an_endless_answer_is_cut_off(misbehaving):
    transport = HttpTransport(misbehaving(never_stops).url)

    with pytest.raises(NoAnswer, match="longer than 1048576 bytes"):
        transport.send(LIVEZ, timeout_s=60)


def test_a_connection_is_used_again_for_the_next_call(misbehaving, monkeypatch):
    monkeypatch.setattr("remotelr._http.transport.KEEP_ALIVE_S", 600.0)
    server = misbehaving(answers)
    with Client(server.url) as client:
        for _ in range(3):
            with pytest.raises(ServiceRefused, match="there is no run"):
                client.get_run("a")

    assert server.connections == 1


def test_a_pooled_connection_that_was_reset_is_replaced_at_once(misbehaving):
    server = misbehaving(answers_once_and_closes_at_the_next_request, answers)
    with Client(server.url) as client:
        with pytest.raises(ServiceRefused):
            client.get_run("a")
        with pytest.raises(ServiceRefused):
            client.get_run("a")

    assert server.connections == 2


@pytest.mark.parametrize(
    "behaviour",
    [
        hangs_up,
        sends(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>Welcome to the hotel</html>"),
        sends(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"),
        sends(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"),
        sends(b"SSH-2.0-OpenSSH_9.2\r\n"),
        sends(b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 0\r\n\r\n"),
    ],
    ids=["hangs up", "html", "truncated", "redirect", "not http", "bad gateway"],
)
def test_a_request_without_a_usable_answer_is_retried(misbehaving, behaviour):
    server = misbehaving(behaviour, behaviour, answers)

    with Client(server.url, timeout_s=60) as client, pytest.raises(ServiceRefused, match="there is no run"):
        client.get_run("a")

    assert server.connections == 3


def test_an_answer_about_another_run_is_no_answer(misbehaving):
    server = misbehaving(answers_about("a", "b", "b", "a"))

    with Client(server.url) as client:
        run = client.get_run("a")
        decision = run.current_decision()

    assert (decision.run, decision.learning_rate) == ("a", 0.4)


def test_a_service_that_gives_no_usable_answer_within_the_budget_is_unreachable(misbehaving):
    server = misbehaving(hangs_up)

    with Client(server.url, timeout_s=0.5) as client, pytest.raises(ServiceUnreachable) as unreachable:
        client.get_run("a")

    deadline = time.monotonic() + 60
    # One that was given up may be taken only now.
    while server.connections < unreachable.value.attempts and time.monotonic() < deadline:
        time.sleep(0.02)
    assert unreachable.value.attempts == server.connections


def test_a_refusal_is_not_retried(misbehaving):
    server = misbehaving(sends(ANSWER), sends(b""))

    with Client(server.url) as client, pytest.raises(ServiceRefused):
        client.get_run("a")

    assert server.connections == 1


def test_a_retry_after_is_honoured(misbehaving):
    busy = sends(
        b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )
    server = misbehaving(busy, answers)
    began = time.monotonic()

    with Client(server.url, timeout_s=60) as client, pytest.raises(ServiceRefused):
        client.get_run("a")

    assert time.monotonic() - began >= 1.0


def test_https_to_a_server_of_plain_http_names_http(misbehaving):
    def answers_in_http(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    url = misbehaving(answers_in_http).url.replace("http:", "https:")

    with Client(url, timeout_s=2.0) as client, pytest.raises(ServiceUnreachable) as unreachable:
        client.get_run("a")

    assert "does not speak https there, but probably http: give the address with http://" in str(unreachable.value)


def refusal(code: str, status: bytes):
    body = json.dumps({"code": code, "detail": "no"}).encode()
    head = b"HTTP/1.1 %s\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n\r\n"
    return sends(head % (status, len(body)) + body)


def test_an_address_with_the_version_of_the_api_is_named_with_the_remedy(misbehaving):
    server = misbehaving(refusal("not_found", b"404 Not Found"))

    with Client(f"{server.url}/v1/") as client, pytest.raises(ServiceRefused) as refused:
        client.get_run("a")

    assert f"leave /v1 away: the address of the service is {server.url} (" in str(refused.value)


def test_a_missing_token_names_the_argument_and_the_variable(misbehaving):
    server = misbehaving(refusal("unauthorized", b"401 Unauthorized"))

    with Client(server.url) as client, pytest.raises(ServiceRefused, match="token= or set REMOTELR_TOKEN") as refused:
        client.get_run("a")

    assert refused.value.status == 401


def test_an_address_without_a_scheme_is_refused_with_an_example():
    with pytest.raises(ValueError, match="must begin with http://"):
        Client("127.0.0.1:8000")


def test_the_dice_of_the_client_leave_a_seeded_training_alone(misbehaving):
    import random

    random.seed(7)
    expected = random.Random(7).random()
    with Client(misbehaving(hangs_up).url, timeout_s=0.3) as client, pytest.raises(ServiceUnreachable):
        client.get_run("a")

    assert expected == random.random()
