"""Requests from browser pages: no foreign host name and no cross-origin command is accepted."""

import json
import re

import pytest

from support.api_requests import RUN, ask
from support.fixtures.service import Service, serving


@pytest.mark.parametrize(
    "host", ["evil.example", "10.evil", "localhost.evil", "127.0.0.1.evil", "xn--lcalhost", "remotelr", "localhost."]
)
def test_where_no_token_is_needed_the_service_answers_to_its_own_names_alone(shared_service, host):
    """
    DNS rebinding: a site whose name resolves to 127.0.0.1 could read runs and send commands through a browser.
    """
    answers = [ask(shared_service, "GET", path, headers={"Host": host}) for path in ("/v1/runs", "/docs", "/")]

    assert [421] * 3 == [answer.status_code for answer in answers]
    assert {"misdirected_request"} == {answer.json()["code"] for answer in answers}


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "192.168.1.7", "[fe80::1]"]
)
def test_an_ip_address_is_accepted_as_host(shared_service, host):
    assert 200 == ask(shared_service, "GET", "/v1/runs", headers={"Host": host}).status_code


@pytest.mark.parametrize(
    "host", ["", "user@localhost", "localhost:8000:9000", "local host", "localhost/livez?x=", "a" * 300]
)
def test_an_invalid_host_is_rejected(shared_service, host):
    assert 400 == ask(shared_service, "GET", "/v1/runs", headers={"Host": host}).status_code


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_health_checks_accept_any_host(shared_service, path):
    assert 200 == ask(shared_service, "GET", path, headers={"Host": "10.evil"}).status_code


def test_with_names_given_no_others_are_taken(sqlite_url):
    with serving(sqlite_url, allowed_hosts="lr.example.org, *.lab.example.org") as service:
        seen = {
            host: ask(service, "GET", "/v1/runs", headers={"Host": host}).status_code
            for host in ("lr.example.org", "LR.example.org:443", "a.lab.example.org", "127.0.0.1")
        }
        others = {
            host: ask(service, "GET", "/v1/runs", headers={"Host": host}).status_code
            for host in ("192.168.1.7", "lab.example.org.evil", "evil-lr.example.org", "example.org")
        }

    assert {200} == set(seen.values())
    assert {421} == set(others.values())


def test_where_a_token_is_needed_any_name_will_do(one_guarded: Service):
    assert 200 == one_guarded.http.get("/v1/runs", headers={"Host": "lr.example.org"}).status_code


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil:8000"},
        {"Origin": "file://"},
        {"Origin": ""},
    ],
)
@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
def test_a_page_of_another_site_changes_nothing(shared_service, method, headers):
    shared_service.http.put("/v1/runs/visited", json=RUN)
    answer = ask(shared_service, method, "/v1/runs/visited", json=RUN, headers=headers)

    assert (403, "cross_origin") == (answer.status_code, answer.json()["code"])
    assert 200 == shared_service.http.get("/v1/runs/visited").status_code


def test_a_page_of_our_own_does(shared_service):
    assert (
        200
        == ask(
            shared_service,
            "POST",
            "/v1/policies/preview",
            headers={"Origin": shared_service.url},
            json={**RUN, "count": 1},
        ).status_code
    )


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
def test_a_form_cannot_send_a_command(shared_service, content_type):
    """
    A page of another site can send these three kinds without asking first.
    """
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = ask(shared_service, "PUT", "/v1/runs/formed", content=json.dumps(RUN), headers=headers)

    assert 415 == answer.status_code
    assert 404 == shared_service.http.get("/v1/runs/formed").status_code


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/runs/a/commands", "/openapi.json"])
def test_no_other_site_is_let_read_anything(shared_service, path):
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [ask(shared_service, method, path, headers=asked) for method in ("OPTIONS", "GET")]

    assert not any(name.startswith("access-control-") for answer in answers for name in answer.headers)
    assert 405 == answers[0].status_code


@pytest.mark.parametrize("path", ["/v1/runs", "/livez", "/no/such/path", "/docs", "/docs/start.js", "/v1/runs/none"])
def test_every_answer_has_the_security_headers_for_browsers(shared_service, path):
    headers = shared_service.http.get(path).headers
    policy = headers["content-security-policy"]

    assert ("nosniff", "no-referrer", "DENY") == (
        headers["x-content-type-options"],
        headers["referrer-policy"],
        headers["x-frame-options"],
    )
    assert "frame-ancestors 'none'" in policy
    assert re.match(r"default-src 'none'|default-src 'self'", policy)
    assert "script-src" not in policy
    assert "set-cookie" not in headers
    assert "server" not in headers
