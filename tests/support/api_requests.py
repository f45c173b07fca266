"""Requests of the security tests."""

from typing import Any

import httpx

from support.fixtures.service import Service

ADMIN = "q8Zt3vLwX0cYb7NnR5fKd2HsJm9PgTaE"
RUN = {"policy": {"type": "constant", "learning_rate": 0.1}}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def make_token(http: httpx.Client, name: str, scope: str, **rest: object) -> dict[str, Any]:
    """A new token as the service returned it; `http` has the scope admin."""
    made = http.post("/v1/tokens", json={"name": name, "scope": scope, **rest})
    assert 201 == made.status_code, made.text
    answer: dict[str, Any] = made.json()
    return answer


def ask(service: Service, method: str, path: str, *, headers: Any = None, **rest: Any) -> httpx.Response:
    """Without the admin's token of the fixture."""
    with httpx.Client(base_url=service.url, timeout=30.0, trust_env=False) as http:
        return http.request(method, path, headers=headers, **rest)
