"""Every refusal is a problem: its shape, its status, the field it names, and that the service is well afterwards."""

import json
from typing import Any

import httpx
import pytest

from remotelr.rules import RulesError
from remotelr_service.errors import ServiceError
from remotelr_service.http.problems import MAX_BODY_BYTES, PROBLEMS, problem_body
from support.fixtures.service import Service

REPORT = {"epoch": 0, "metrics": {"val_loss": 1.0}}
POLICY = {"type": "constant", "learning_rate": 0.1}


@pytest.fixture(scope="module")
def hostile(shared_service: Service) -> Service:
    """A service with a run to be hostile to."""
    assert shared_service.http.put("/v1/runs/target", json={"policy": POLICY}).status_code in (200, 201)
    return shared_service


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (status, "application/problem+json") == (answer.status_code, answer.headers["content-type"])
    body = answer.json()
    assert (status, code, f"urn:remotelr:problem:{code}") == (body["status"], body["code"], body["type"])
    assert body["title"]
    assert body["detail"]
    assert len(answer.content) <= MAX_BODY_BYTES
    assert "x-request-id" in answer.headers
    return body


def seq(service: Service) -> int:
    """The number of events of the target: a rejected request adds none."""
    events = service.http.get("/v1/runs/target/events").json()["events"]
    return len(events)


def kinds(of: type) -> set[str]:
    found = {of.code} if of not in (RulesError, ServiceError) else set()
    return found.union(*(kinds(each) for each in of.__subclasses__()))


def test_every_error_of_the_rules_and_of_the_service_has_its_status():
    assert kinds(RulesError) | kinds(ServiceError) <= set(PROBLEMS)


RAW = {
    # name: (body, status, code, text in the detail)
    "nan": (b'{"epoch":0,"metrics":{"val_loss":NaN}}', 400, "malformed_json", "metrics.val_loss"),
    "infinity": (b'{"epoch":0,"metrics":{"val_loss":Infinity}}', 400, "malformed_json", '"inf"'),
    "minus infinity": (b'{"epoch":0,"metrics":{"val_loss":-Infinity}}', 400, "malformed_json", '"-inf"'),
    "nan elsewhere": (b'{"epoch":NaN,"metrics":{}}', 400, "malformed_json", "epoch"),
    "overflow": (b'{"epoch":0,"metrics":{"val_loss":1e400}}', 400, "malformed_json", "1e400"),
    "huge integer": (b'{"epoch":%d,"metrics":{}}' % 10**30, 400, "malformed_json", "epoch"),
    "5000 digits": (b'{"epoch":%s,"metrics":{}}' % (b"9" * 5000), 400, "malformed_json", "digits"),
    "long number": (b'{"epoch":0,"metrics":{"a":0.%s}}' % (b"1" * 5000), 400, "malformed_json", "metrics.a"),
    "twice": (b'{"epoch":0,"epoch":1,"metrics":{}}', 400, "malformed_json", "epoch"),
    "twice inside": (b'{"epoch":0,"metrics":{"a":1,"a":2}}', 400, "malformed_json", "metrics"),
    "NUL": (b'{"epoch":0,"metrics":{"a\\u0000":1}}', 400, "malformed_json", "U+0000"),
    "raw NUL": (b'{"epoch":0,"metrics":{"a\x00":1}}', 400, "malformed_json", "column"),
    "surrogate": (b'{"epoch":0,"metrics":{"a":"\\ud800"}}', 400, "malformed_json", "U+D800"),
    "encoded surrogate": (b'{"epoch":0,"metrics":{"\xed\xa0\x80":1}}', 400, "malformed_json", "UTF-8"),
    "UTF-16": (json.dumps(REPORT).encode("utf-16"), 400, "malformed_json", "UTF-8"),
    "UTF-32": (json.dumps(REPORT).encode("utf-32"), 400, "malformed_json", "body"),
    "latin-1": ('{"epoch":0,"metrics":{"é":1}}'.encode("latin-1"), 400, "malformed_json", "UTF-8"),
    "BOM": (b"\xef\xbb\xbf" + json.dumps(REPORT).encode(), 400, "malformed_json", "column 1"),
    "deep lists": (b"[" * 5000 + b"]" * 5000, 400, "malformed_json", "16 levels"),
    "deep objects": (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, "malformed_json", "16 levels"),
    "many members": (
        b"{%s}" % b",".join(b'"a%d":1' % i for i in range(2000)),
        400,
        "malformed_json",
        "1000 members",
    ),
    "blank": (b"   ", 400, "malformed_json", "Expecting value"),
    "cut off": (b'{"epoch":0,"metrics":{"val_loss":0.1', 400, "malformed_json", "column"),
    "two values": (b'{"epoch":0,"metrics":{}}{"epoch":1,"metrics":{}}', 400, "malformed_json", "Extra data"),
    "single quotes": (b"{'epoch':0}", 400, "malformed_json", "column"),
    "comment": (b'{"epoch":0/*x*/,"metrics":{}}', 400, "malformed_json", "column"),
    "trailing comma": (b'{"epoch":0,"metrics":{},}', 400, "malformed_json", "column"),
    "leading zero": (b'{"epoch":01,"metrics":{}}', 400, "malformed_json", "column"),
    "plus": (b'{"epoch":+1,"metrics":{}}', 400, "malformed_json", "column"),
    "hexadecimal": (b'{"epoch":0x1,"metrics":{}}', 400, "malformed_json", "column"),
    "empty": (b"", 422, "invalid_request", "JSON body is required"),
    "null": (b"null", 422, "invalid_request", "body"),
    "list": (b"[]", 422, "invalid_request", "body"),
    "string": (b'"epoch"', 422, "invalid_request", "body"),
    "number": (b"1", 422, "invalid_request", "body"),
    "empty object": (b"{}", 422, "invalid_request", "epoch: is required"),
    "70 KiB": (b'{"epoch":0,"metrics":{"a":"%s"}}' % (b"x" * 70_000), 413, "body_too_large", "65536"),
    "10 MiB": (b" " * 10 * 2**20, 413, "body_too_large", "65536"),
}


@pytest.mark.parametrize("what", RAW)
def test_a_hostile_body_is_rejected_with_a_reason_and_changes_nothing(hostile, what):
    body, status, code, named = RAW[what]
    before = seq(hostile)
    answer = hostile.http.post("/v1/runs/target/reports", content=body, headers={"Content-Type": "application/json"})

    assert named in assert_problem(answer, status, code)["detail"]
    assert (before, 200) == (seq(hostile), hostile.http.get("/livez").status_code)


FIELDS: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: (members of a report, path of the problem, text in its message)
    "boolean as a metric": ({"metrics": {"a": True}}, "metrics.a", "expected a number"),
    "text as a metric": ({"metrics": {"a": "0.5"}}, "metrics.a", "expected a number"),
    "NaN with capitals": ({"metrics": {"a": "NaN"}}, "metrics.a", '"nan"'),
    "list as a metric": ({"metrics": {"a": [1.0]}}, "metrics.a", "expected a number"),
    "object as a metric": ({"metrics": {"a": {}}}, "metrics.a", "expected a number"),
    "list of metrics": ({"metrics": [1.0]}, "metrics", "dictionary"),
    "null metrics": ({"metrics": None}, "metrics", "dictionary"),
    "empty name": ({"metrics": {"": 1.0}}, "metrics", "beginning with a letter"),
    "name with a space": ({"metrics": {"val loss": 1.0}}, "metrics.val loss", "beginning with a letter"),
    "formula as a name": ({"metrics": {"=1+1": 1.0}}, "metrics.=1+1", "beginning with a letter"),
    "name with a line end": ({"metrics": {"a\n": 1.0}}, "metrics.'a\\n'", "beginning with a letter"),
    "long name": ({"metrics": {"a" * 101: 1.0}}, "metrics", "beginning with a letter"),
    "65 metrics": ({"metrics": {f"a{i}": 1.0 for i in range(65)}}, "metrics", "64"),
    "boolean as an epoch": ({"epoch": True}, "epoch", "integer"),
    "text as an epoch": ({"epoch": "0"}, "epoch", "integer"),
    "fraction as an epoch": ({"epoch": 1.0}, "epoch", "integer"),
    "negative epoch": ({"epoch": -1}, "epoch", "greater than or equal to 0"),
    "huge epoch": ({"epoch": 10**7 + 1}, "epoch", "10000000"),
    "epoch of 2^63": ({"epoch": 2**63}, "epoch", "10000000"),
    "null epoch": ({"epoch": None}, "epoch", "integer"),
    "negative attempt": ({"attempt": -1}, "attempt", "0"),
    "huge attempt": ({"attempt": 2**53}, "attempt", "9007199254740991"),
    "negative rank": ({"rank": -1}, "rank", "0"),
    "huge rank": ({"rank": 4096}, "rank", "4096"),
    "rank outside the world": ({"rank": 3}, "rank", "world_size of 1"),
    "no weight": ({"weight": 0}, "weight", "greater than 0"),
    "boolean as a weight": ({"weight": True}, "weight", "number"),
    "text as a weight": ({"weight": "1"}, "weight", "number"),
    "negative step": ({"step": -1}, "step", "0"),
    "huge step": ({"step": 2**53}, "step", "9007199254740991"),
    "negative rate": ({"learning_rate": -0.1}, "learning_rate", "0"),
    "text as a rate": ({"learning_rate": "0.1"}, "learning_rate", "number"),
    "false as a rate": ({"learning_rate": False}, "learning_rate", "number"),
    "unknown field": ({"lr": 0.1}, "lr", "unknown field"),
    "misspelt field": ({"learning_rat": 0.1}, "learning_rat", "did you mean learning_rate?"),
    "prototype": ({"__proto__": {"epoch": 1}}, "__proto__", "unknown field"),
}


@pytest.mark.parametrize("what", FIELDS)
def test_an_invalid_field_is_named_with_the_expected_value(hostile, what):
    members, path, said = FIELDS[what]
    before = seq(hostile)
    answer = hostile.http.post("/v1/runs/target/reports", json={**REPORT, **members})

    code = "invalid_report" if what == "rank outside the world" else "invalid_request"
    errors = assert_problem(answer, 422, code)["errors"]
    assert any(each["path"].startswith(path) and said in each["message"] for each in errors), errors
    assert before == seq(hostile)


def test_a_wrong_field_in_a_batch_is_named_with_its_place(hostile):
    answer = hostile.http.post("/v1/runs/target/reports/batch", json={"reports": [REPORT, {**REPORT, "epok": 1}]})

    assert [{"path": "reports[1].epok", "message": "unknown field: did you mean epoch?"}] == answer.json()["errors"]


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"policy": None}, "policy"),
        ({"policy": []}, "policy"),
        ({"policy": {}}, "policy"),
        ({"policy": {"type": "magic"}}, "policy.type"),
        ({"policy": {"type": "step", "initial_learning_rate": 0.1, "step_size": 0, "gamma": 0.5}}, "policy.step_size"),
        ({"policy": {"schedule": {**POLICY, "lerning_rate": 1}}}, "policy.schedule"),
        ({"policy": {"type": "expression", "expression": "__import__('os')"}}, "policy.expression"),
        ({"policy": POLICY, "initial_learning_rate": 0}, "initial_learning_rate"),
        ({"policy": POLICY, "initial_learning_rate": 1001}, "initial_learning_rate"),
        ({"policy": POLICY, "world_size": 0}, "world_size"),
        ({"policy": POLICY, "world_size": 4097}, "world_size"),
        ({"policy": POLICY, "steps_per_epoch": 0}, "steps_per_epoch"),
        ({"policy": POLICY, "on_conflict": "shrug"}, "on_conflict"),
        ({"policy": POLICY, "experiment": "../etc"}, "experiment"),
        ({"policy": POLICY, "tags": {"a": 1}}, "tags.a"),
        ({"policy": POLICY, "tags": {"a": "x\u2028y\n"}}, "tags.a"),
        ({"policy": POLICY, "tags": {"a": "x" * 201}}, "tags.a"),
        ({"policy": POLICY, "state": {}}, "state"),
        ({"policy": POLICY, "attempt": 3}, "attempt"),
        ({"policy": {"type": "reduce_on_plateau", "monitor": "val_loss", "mode": "min"}}, "policy"),
    ],
)
def test_an_invalid_run_is_rejected_with_its_field(hostile, members, path):
    answer = hostile.http.put("/v1/runs/never", json=members)

    body = answer.json()
    assert_problem(answer, 422, body["code"])
    assert any(each["path"].startswith(path) for each in body["errors"]), body
    assert 404 == hostile.http.get("/v1/runs/never").status_code


@pytest.mark.parametrize(
    "key", ["-a", ".a", "a b", "a%00", "a%0A", "%C3%A9", "a" * 201, "a;b", "a'b", "%ED%A0%80", "%FF", "__proto__"]
)
def test_an_invalid_key_is_rejected(hostile, key):
    answer = hostile.http.get(f"/v1/runs/{key}")

    assert "path.run" in assert_problem(answer, 422, "invalid_request")["detail"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "query.limit"),
        ("limit=201", "query.limit"),
        ("limit=-1", "query.limit"),
        ("limit=1.0", "query.limit"),
        ("limit=%201", "query.limit"),
        ("limit=1_0", "query.limit"),
        ("limit=9223372036854775808", "query.limit"),
        ("limit=" + "9" * 5000, "query.limit"),
        ("limit=", "query.limit"),
        ("limit=1&limit=2", "query.limit"),
        ("page=1", "query.page"),
        ("status=asleep", "query.status"),
        ("tag=novalue", "query.tag"),
        ("after=%00", "query.after"),
        ("experiment=%27%20OR%201=1", "query.experiment"),
        ("tag=a:%FF", "UTF-8"),
    ],
)
def test_an_invalid_query_is_rejected_with_its_parameter(hostile, query, named):
    assert named in assert_problem(hostile.http.get(f"/v1/runs?{query}"), 422, "invalid_request")["detail"]


@pytest.mark.parametrize("query", ["wait=nan", "wait=inf", "wait=-1", "wait=1e2", "wait=301", "steps=1", "steps=True"])
def test_an_invalid_wait_or_flag_is_rejected(hostile, query):
    assert_problem(hostile.http.get(f"/v1/runs/target/decision?{query}"), 422, "invalid_request")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json; charset=utf-16",
    ],
)
def test_a_body_not_declared_as_json_is_rejected(hostile, content_type):
    before = seq(hostile)
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = hostile.http.post("/v1/runs/target/reports", content=json.dumps(REPORT), headers=headers)

    assert "application/json" in assert_problem(answer, 415, "unsupported_media_type")["detail"]
    assert before == seq(hostile)


def test_json_may_say_its_charset(hostile):
    answer = hostile.http.post(
        "/v1/policies/preview",
        content=json.dumps({"policy": POLICY, "count": 1}),
        headers={"Content-Type": 'Application/JSON; charset="UTF-8"'},
    )

    assert 200 == answer.status_code


def test_a_body_without_a_length_is_bounded_too(hostile):
    answer = hostile.http.post(
        "/v1/runs/target/reports",
        content=(b" " * 1024 for _ in range(1000)),
        headers={"Content-Type": "application/json"},
    )

    assert_problem(answer, 413, "body_too_large")


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/run", "/v1/runs/", "/v1/runs/target/", "/v2/runs", "/v1/runs/a%2Fb", "/docs/../etc/passwd"],
)
def test_a_path_with_nothing_at_it_is_a_problem(hostile, path):
    assert_problem(hostile.http.get(path), 404, "not_found")


def test_a_key_with_a_slash_gets_a_hint(hostile):
    assert "a run key contains no '/'" in hostile.http.get("/v1/runs/a%2Fb").json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/runs/target", "DELETE, GET, HEAD, PATCH, PUT"),
        ("PUT", "/v1/runs", "GET, HEAD"),
        ("GET", "/v1/runs/target/reports", "POST"),
        ("DELETE", "/livez", "GET, HEAD"),
        ("OPTIONS", "/v1/runs", "GET, HEAD"),
        ("TRACE", "/v1/runs/target/commands", "GET, HEAD, POST"),
    ],
)
def test_a_wrong_method_gets_all_allowed_methods(hostile, method, path, allow):
    answer = hostile.http.request(method, path)

    assert_problem(answer, 405, "method_not_allowed")
    assert allow == answer.headers["allow"]


def test_a_plain_request_id_is_used_and_any_other_is_replaced(hostile):
    given = [
        hostile.http.get("/livez", headers={"X-Request-Id": value}).headers["x-request-id"]
        for value in ("abc-123", "a b", "x" * 65, "<script>")
    ]

    assert "abc-123" == given[0]
    assert all(len(each) == 16 for each in given[1:])
    assert 4 == len(set(given))


def test_no_answer_names_the_server(hostile):
    assert "server" not in hostile.http.get("/livez").headers


def test_a_problem_never_grows_beyond_its_bound():
    body = problem_body("report_conflict", "x" * 10_000, known={"a" * 100: "x" * 20_000}, given=1.0)

    assert (True, 1.0, True) == (len(body) <= MAX_BODY_BYTES, json.loads(body)["given"], json.loads(body)["left_out"])


def test_a_conflict_of_many_metrics_is_a_problem_all_the_same(hostile):
    metrics = {f"{'m' * 90}{i}": 0.123456789 for i in range(64)}
    hostile.http.put("/v1/runs/wide", json={"policy": POLICY})
    hostile.http.post("/v1/runs/wide/reports", json={"epoch": 0, "metrics": metrics})
    answer = hostile.http.post("/v1/runs/wide/reports", json={"epoch": 0, "metrics": dict.fromkeys(metrics, 1.0)})

    assert_problem(answer, 409, "report_conflict")


def test_an_unexpected_failure_reveals_no_details(service, monkeypatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("secret of the service")

    monkeypatch.setattr("remotelr_service.features.runs.runs.get_run", fail)
    answer = service.http.get("/v1/runs/mnist-7", headers={"X-Request-Id": "tell-me"})

    body = assert_problem(answer, 500, "internal_error")
    assert ("tell-me", False) == (body["request_id"], "secret" in answer.text)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
@pytest.mark.parametrize("path", ["/v1/runs/run/reports", "/v1/runs/run/attempts"])
def test_an_encoded_body_is_refused_whether_or_not_it_is_encoded(service: Service, path: str, encoding: str):
    answer = service.http.post(path, json={"epoch": 0, "metrics": {}}, headers={"Content-Encoding": encoding})

    assert (415, "unsupported_media_type") == (answer.status_code, answer.json()["code"])
    assert "Content-Encoding" in answer.json()["detail"]
    assert "identity" == answer.headers["accept-encoding"]


@pytest.mark.parametrize("number", ["+1", "%201", "1.0", "1_0", "0x1"])
@pytest.mark.parametrize("path", ["/v1/runs/run/decisions/{}", "/v1/runs/run/stream?after={}"])
def test_a_number_in_an_address_has_plain_digits(service: Service, path: str, number: str):
    assert 422 == service.http.get(path.format(number)).status_code
