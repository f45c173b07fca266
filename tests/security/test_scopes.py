"""The permission of each scope for each call, in one table. A new call needs a row."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from remotelr_service.http.auth.permissions import RIGHTS
from remotelr_service.http.route import StrictRoute
from remotelr_service.server.app import create_app
from remotelr_service.settings import Settings
from support.api_requests import RUN, make_token
from support.fixtures.service import Service

# One column for each token: `in` is admitted, and a number is how it is refused. `mine` and `other` are tokens of the
# scope report, for the experiment of the run that the call is about, and for another one.
TABLE = """
call                     none    mine  other  view  operate  admin

livez                    in      in    in     in    in       in
readyz                   in      in    in     in    in       in
get_metrics              in      in    in     in    in       in
get_version              401     in    in     in    in       in

put_run                  401     in    404    403   in       in
begin_attempt            401     in    404    403   403      in
report                   401     in    404    403   403      in
report_batch             401     in    404    403   403      in
get_decision             401     in    404    in    in       in
finish_run               401     in    404    403   in       in

get_run                  401     in    404    in    in       in
get_history              401     in    404    in    in       in
list_events              401     in    404    in    in       in
get_decision_of_epoch    401     in    404    in    in       in
get_replay_policy        401     in    404    in    in       in
what_if                  401     in    404    in    in       in
list_commands            401     in    404    in    in       in
get_command              401     in    404    in    in       in
stream_run               401     in    404    in    in       in
list_runs                401     403   403    in    in       in
stream_runs              401     403   403    in    in       in
list_experiments         401     403   403    in    in       in
get_experiment           401     403   403    in    in       in
get_bulk_command         401     403   403    in    in       in

command                  401     403   403    403   in       in
bulk_command             401     403   403    403   in       in
tag_run                  401     403   403    403   in       in
put_experiment           401     403   403    403   403      in
delete_run               401     403   403    403   403      in

preview_policy           401     in    in     in    in       in
get_policy_schema        401     in    in     in    in       in

create_token             401     403   403    403   403      in
list_tokens              401     403   403    403   403      in
revoke_token             401     403   403    403   403      in
list_audit               401     403   403    403   403      in
"""

# The documentation pages: the same for all clients, without data of the service.
OPEN_PAGES = ["/docs", "/docs/favicon.png", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css",
              "/openapi.json"]  # fmt: skip

# Valid bodies, so that no call is rejected for its body before the access check.
BODIES: dict[str, Any] = {"report": {"epoch": 0, "metrics": {}}}


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the API, as the routes have it."""

    name: str
    method: str
    path: str


APP = create_app(Settings())
HEAD, *LINES = [line.split() for line in TABLE.splitlines() if line]
COLUMNS = HEAD[1:]
EXPECTED = {line[0]: dict(zip(COLUMNS, line[1:], strict=True)) for line in LINES}
CALLS = [
    Call(route.original_route.operation_id or route.original_route.name, method, route.path)
    for route in iter_route_contexts(APP.routes)
    if isinstance(route.original_route, APIRoute)
    for method in route.original_route.methods
]


@pytest.fixture(scope="module")
def tokens(one_guarded: Service) -> dict[str, str | None]:
    """A token for every column."""

    def make(name: str, scope: str, **kept_to: str) -> str:
        token: str = make_token(one_guarded.http, name, scope, **kept_to)["token"]
        return token

    return {
        "none": None,
        "mine": make("mine", "report", experiment="mine"),
        "other": make("other", "report", experiment="other"),
        "view": make("view", "view"),
        "operate": make("operate", "operate"),
        "admin": make("admin 2", "admin"),
    }


def test_every_call_has_a_row_here_and_one_in_the_service():
    """A call without a row in `api/rights.py` takes an admin; give it one there, and its line in the table above."""
    names = {call.name for call in CALLS}

    assert names == set(EXPECTED)
    assert names <= set(RIGHTS)


def test_every_route_is_behind_the_access_gate_or_a_documentation_page():
    unguarded = [
        route.path for route in iter_route_contexts(APP.routes) if not isinstance(route.original_route, StrictRoute)
    ]

    assert OPEN_PAGES == sorted(unguarded)


@pytest.mark.parametrize("call", [call for call in CALLS if call.name in EXPECTED], ids=lambda call: call.name)
def test_each_scope_permits_exactly_its_calls(call: Call, one_guarded: Service, tokens: dict[str, str | None]):
    seen = {column: verdict(call, column, one_guarded, tokens[column]) for column in COLUMNS}

    assert EXPECTED[call.name] == seen


def verdict(call: Call, column: str, service: Service, token: str | None) -> str:
    run = f"{call.name}-{column}"
    if "{run}" in call.path:
        made = service.http.put(f"/v1/runs/{run}", json={**RUN, "experiment": "mine"})
        assert 201 == made.status_code, made.text
    path = re.sub(r"\{(\w+)\}", lambda name: run if name[1] == "run" else "9999", call.path)
    content = BODIES.get(call.name, {}) if call.method in ("POST", "PUT", "PATCH") else None
    headers = {"Authorization": "" if token is None else f"Bearer {token}"}
    # Only how it begins is read: a stream has no end.
    with service.http.stream(call.method, path, json=content, headers=headers) as answer:
        assert answer.status_code < 500
        if answer.status_code == 404 and answer.read() and answer.json()["code"] != "run_not_found":
            return "in"
        return str(answer.status_code) if answer.status_code in (401, 403, 404, 429) else "in"
