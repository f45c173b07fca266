"""The address that the service prints, for trainers to copy."""

import ipaddress
import json
import socket

import httpx
import pytest

from remotelr_service.server.addresses import address_of
from remotelr_service.server.uvicorn_server import listen


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("::1", "[::1]")])
def test_a_loopback_address_is_shown_as_it_is(host, shown):
    with listen(host, 0) as bound:
        port = bound.getsockname()[1]

        assert address_of(bound) in (f"http://{shown}:{port}", f"http://[::1]:{port}")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_address_of_all_interfaces_leads_other_machines_to_the_service(host):
    with listen(host, 0) as bound:
        bound.listen()
        name = httpx.URL(address_of(bound)).host

        with socket.create_connection((name, bound.getsockname()[1]), timeout=10):
            pass
    assert name not in ("0.0.0.0", "::", "127.0.0.1", "::1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_a_route_the_name_of_the_machine_is_shown(host, monkeypatch):
    def no_route(*_):
        raise OSError("Network is unreachable")

    with listen(host, 0) as bound:
        port = bound.getsockname()[1]
        monkeypatch.setattr("remotelr_service.server.addresses.socket.socket.connect", no_route)

        assert f"http://{socket.gethostname()}:{port}" == address_of(bound)


def test_the_first_allowed_host_is_shown_because_others_are_rejected():
    with listen("0.0.0.0", 0) as bound:
        port = bound.getsockname()[1]

        assert f"http://lr.example.org:{port}" == address_of(bound, ("*.example.org", "lr.example.org"))


def test_a_service_on_all_interfaces_answers_at_the_address_it_logs(sqlite_url, start_service):
    service = start_service(sqlite_url, REMOTELR_HOST="0.0.0.0", REMOTELR_INSECURE="true")
    service.wait_ready()
    (started,) = (line for line in map(json.loads, service.log.read_text().splitlines()) if line["event"] == "started")

    answer = httpx.get(f"{started['address']}/v1/runs", timeout=60, trust_env=False)

    assert 200 == answer.status_code
    assert not ipaddress.ip_address(httpx.URL(started["address"]).host).is_loopback
