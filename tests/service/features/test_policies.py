"""Explanations of decisions, what-if, charts and replay policies."""

import csv
import random
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import httpx
import pytest

from support.fixtures.service import Service

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 2, "min_delta": 0.0, "flavor": "keras_legacy"}
COSINE = {"type": "cosine", "decay_steps": 20, "end_learning_rate": 0.001}
# Both a float32 and a double, and so is its half: Keras holds rates in float32.
RATE, HALF = 0.125, 0.0625
SVG = "{http://www.w3.org/2000/svg}"


def put(http: httpx.Client, run: str, policy: dict[str, Any], **rest: Any) -> dict[str, Any]:
    answer = http.put(f"/v1/runs/{run}", json={"policy": policy, "initial_learning_rate": RATE, **rest})
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def report(http: httpx.Client, run: str, epoch: int, loss: float | str = 1.0, **rest: Any) -> dict[str, Any]:
    answer = http.post(f"/v1/runs/{run}/reports", json={"epoch": epoch, "metrics": {"val_loss": loss}, **rest})
    assert answer.status_code == 200, answer.text
    return answer.json()


def trained(http: httpx.Client, run: str, epochs: int) -> None:
    """A new run with this number of reports."""
    put(http, run, PLATEAU)
    for epoch in range(epochs):
        report(http, run, epoch)


def order(http: httpx.Client, run: str, **command: Any) -> None:
    answer = http.post(f"/v1/runs/{run}/commands", json=command)
    assert answer.status_code == 200, answer.text


def begin(http: httpx.Client, run: str, epoch: int, **rest: Any) -> dict[str, Any]:
    request = {"key": f"attempt-{random.random()}", "epoch": epoch, **rest}
    answer = http.post(f"/v1/runs/{run}/attempts", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()["decision"]


def what_if(http: httpx.Client, run: str, **policies: Any) -> dict[str, Any]:
    answer = http.post(f"/v1/runs/{run}/what-if", json={"policies": policies})
    assert answer.status_code == 200, answer.text
    return answer.json()


def replayed(http: httpx.Client, run: str) -> dict[str, Any]:
    answer = http.get(f"/v1/runs/{run}/replay-policy")
    assert answer.status_code == 200, answer.text
    return answer.json()


# Decisions, explained.


def test_the_decision_of_an_epoch_contains_a_sentence_with_its_cause(shared_service: Service):
    http = shared_service.http
    trained(http, "explained", 4)
    found = http.get("/v1/runs/explained/decisions/3").json()

    assert (3, HALF, "plateau") == (found["epoch"], found["learning_rate"], found["reason"])
    assert found["sentence"].endswith(".") and "0.0625" in found["sentence"], found["sentence"]
    assert found["why"]


def test_an_epoch_in_a_gap_went_by_the_newest_decision_before(shared_service: Service):
    http = shared_service.http
    put(http, "gap", PLATEAU)
    report(http, "gap", 0)
    report(http, "gap", 4)

    assert [0, 1, 1, 5] == [http.get(f"/v1/runs/gap/decisions/{epoch}").json()["epoch"] for epoch in (0, 1, 3, 5)]


def test_after_a_rewind_an_epoch_is_explained_by_the_effective_attempt(shared_service: Service):
    http = shared_service.http
    trained(http, "rewound", 5)
    begin(http, "rewound", 2)

    assert 1 == http.get("/v1/runs/rewound/decisions/2").json()["attempt"]
    assert "epoch_undecided" == http.get("/v1/runs/rewound/decisions/3").json()["code"]


# What-if.


def test_recorded_losses_are_given_to_several_policies_at_once(shared_service: Service):
    http = shared_service.http
    put(http, "rehearsed", PLATEAU)
    decided = [RATE] + [report(http, "rehearsed", epoch)["learning_rate"] for epoch in range(6)]
    found = what_if(http, "rehearsed", same=PLATEAU, patient={**PLATEAU, "patience": 4}, cosine=COSINE)

    assert list(range(7)) == found["epochs"]
    assert decided == found["actual"] == found["policies"]["same"]["learning_rates"]
    assert (2, 1) == (found["policies"]["same"]["reductions"], found["policies"]["patient"]["reductions"])
    assert found["policies"]["cosine"]["learning_rates"] == sorted(set(decided[:1]) | set(
        http.post("/v1/policies/preview", json={"policy": COSINE, "initial_learning_rate": RATE, "count": 7}).json()[
            "learning_rates"
        ]
    ), reverse=True)  # fmt: skip


def test_a_command_affects_the_actual_curve_and_no_alternative(shared_service: Service):
    http = shared_service.http
    put(http, "overridden", PLATEAU)
    report(http, "overridden", 0)
    order(http, "overridden", type="set_learning_rate", value=0.003)
    report(http, "overridden", 1)
    found = what_if(http, "overridden", same=PLATEAU)

    assert [RATE, RATE, 0.003] == found["actual"]
    assert [RATE, RATE, RATE] == found["policies"]["same"]["learning_rates"]


def test_what_if_ignores_superseded_reports(shared_service: Service):
    http = shared_service.http
    trained(http, "twice", 6)
    begin(http, "twice", 2)
    for epoch in range(2, 4):
        report(http, "twice", epoch, 0.5)

    assert [RATE] * 5 == what_if(http, "twice", same=PLATEAU)["policies"]["same"]["learning_rates"]


def test_what_if_aggregates_ranks_as_each_policy_requires(shared_service: Service):
    http = shared_service.http
    mean = {"schedule": PLATEAU, "aggregate": {"ranks": "all"}}
    put(http, "ranks", mean, world_size=2)
    for epoch, losses in enumerate([(1.0, 1.0), (0.9, 1.2), (0.8, 1.4)]):
        http.post("/v1/runs/ranks/reports", json={"epoch": epoch, "rank": 1, "metrics": {"val_loss": losses[1]}})
        report(http, "ranks", epoch, losses[0])
    found = what_if(http, "ranks", mean=mean, rank0=PLATEAU)

    assert [RATE, RATE, RATE, HALF] == found["actual"] == found["policies"]["mean"]["learning_rates"]
    assert [RATE] * 4 == found["policies"]["rank0"]["learning_rates"]


def test_a_wrong_policy_is_named(shared_service: Service):
    http = shared_service.http
    put(http, "what-if-of-a-wrong-one", PLATEAU)
    policies = {"fine": PLATEAU, "wrong": {"type": "cosine", "decay_steps": -1}}
    refused = http.post("/v1/runs/what-if-of-a-wrong-one/what-if", json={"policies": policies})
    too_many = http.post(
        "/v1/runs/what-if-of-a-wrong-one/what-if", json={"policies": {f"p{number}": PLATEAU for number in range(9)}}
    )

    assert (422, "invalid_policy") == (refused.status_code, refused.json()["code"])
    assert refused.json()["detail"].startswith("policies.wrong.")
    assert (422, "invalid_request") == (too_many.status_code, too_many.json()["code"])


# Pictures and tables.


def paths(document: str) -> list[str]:
    """The curves of a chart: paths with a color of their own, beside their keys in the legend."""
    drawn = [each.get("d") or "" for each in ET.fromstring(document).iter(f"{SVG}path") if each.get("stroke-width")]
    return [path for path in drawn if "h26" not in path]


def test_a_preview_is_svg_if_the_client_accepts_svg(shared_service: Service):
    body = {"policy": COSINE, "initial_learning_rate": RATE, "count": 20}
    answer = shared_service.http.post("/v1/policies/preview", json=body, headers={"Accept": "image/svg+xml"})
    root = ET.fromstring(answer.text)

    assert "image/svg+xml" == answer.headers["content-type"].partition(";")[0]
    assert 1 == len(paths(answer.text))
    assert "Learning rate of a policy" == root.findtext(f"{SVG}title")
    assert "from epoch 0 to epoch 19" in (root.findtext(f"{SVG}desc") or "")


def test_a_preview_as_a_table_holds_the_very_same_doubles(shared_service: Service):
    body = {
        "policy": {"type": "one_cycle", "max_lr": 0.3, "total_steps": 40},
        "initial_learning_rate": RATE,
        "count": 30,
    }
    body["start"] = 3
    as_json = shared_service.http.post("/v1/policies/preview", json=body)
    as_csv = shared_service.http.post("/v1/policies/preview", json=body, headers={"Accept": "text/csv"})
    rows = list(csv.DictReader(StringIO(as_csv.text)))

    assert as_json.status_code == 200, as_json.text
    assert as_json.json()["learning_rates"] == [float(row["learning_rate"]) for row in rows]
    assert as_json.json()["momentum"] == [float(row["momentum"]) for row in rows]
    assert [str(position) for position in range(3, 33)] == [row["epoch"] for row in rows]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "application/json"),
        ("text/csv;q=0.2, image/*;q=0.9", "image/svg+xml"),
        ("text/csv, */*;q=0.1", "text/csv"),
        ("image/svg+xml;q=0, text/csv;q=x", "application/json"),
    ],
)
def test_the_media_type_of_a_preview_is_the_most_preferred_one(shared_service: Service, accept: str, media_type: str):
    body = {"policy": COSINE, "initial_learning_rate": RATE, "count": 2}
    answer = shared_service.http.post("/v1/policies/preview", json=body, headers={"Accept": accept})

    assert media_type == answer.headers["content-type"].partition(";")[0]


def test_the_chart_of_what_if_shows_every_policy_beside_the_actual_curve(shared_service: Service):
    http = shared_service.http
    trained(http, "drawn", 6)
    body = {"policies": {"cosine": COSINE, "patient": {**PLATEAU, "patience": 4}}}
    answer = http.post("/v1/runs/drawn/what-if", json=body, headers={"Accept": "image/svg+xml"})
    texts = [each.text for each in ET.fromstring(answer.text).iter(f"{SVG}text")]

    assert 3 == len(paths(answer.text))
    assert {"drawn under other policies", "actual rates", "cosine", "patient"} <= set(texts)


def test_names_in_a_picture_are_nothing_but_text():
    from remotelr_service.features.policies.svg_chart import Line, line_chart

    evil = '</text><script>alert("1")</script>&\x00\u202e'
    document = line_chart(
        evil, evil, [Line(evil, [(0, 1.0), (1, 2.0)]), Line("b", [(0, 1.0)])], x_name=evil, y_name="y"
    )

    assert not list(ET.fromstring(document).iter(f"{SVG}script"))
    assert ET.fromstring(document).findtext(f"{SVG}title") == '</text><script>alert("1")</script>&'


@pytest.mark.parametrize("rates", [[0.1], [0.0], [0.0, 0.0], [1e-9, 1.0], [0.1] * 3, [1e3, 1e-7] * 50_000], ids=len)
def test_every_curve_can_be_drawn_and_no_picture_grows_with_its_curve(rates: list[float]):
    from remotelr_service.features.policies.svg_chart import Line, line_chart

    line = Line("rate", [(float(epoch), rate) for epoch, rate in enumerate(rates)], held=len(rates) < 100)
    document = line_chart("title", "words", [line], x_name="epoch", y_name="learning rate")
    ET.fromstring(document)

    assert len(document) < 100_000
    assert "nan" not in document and "inf" not in document


# Doing it again.


def test_a_replay_policy_contains_the_effect_of_commands(shared_service: Service):
    http = shared_service.http
    trained(http, "first", 5)
    order(http, "first", type="set_learning_rate", value=0.002)
    for epoch in range(5, 8):
        report(http, "first", epoch)
    order(http, "first", type="release")
    for epoch in range(8, 12):
        report(http, "first", epoch, 0.1)
    found = replayed(http, "first")

    assert (True, [], 13, "epoch") == (found["exact"], found["notes"], found["epochs"], found["policy"]["unit"])
    assert 0.002 in found["policy"]["schedule"]["values"]
    assert rates_of(http, "first", 13) == rates_again(http, "first-again", found["policy"], 13)


@pytest.mark.parametrize("seed", range(6))
def test_any_run_is_done_again_with_exactly_the_same_rates(shared_service: Service, seed: int):
    http, run = shared_service.http, f"any-{seed}"
    epochs = live(http, run, random.Random(seed))
    found = replayed(http, run)

    assert (True, epochs) == (found["exact"], found["epochs"]), found["notes"]
    assert rates_of(http, run, epochs) == rates_again(http, f"{run}-again", found["policy"], epochs)


def test_a_run_by_steps_is_done_again_step_by_step(shared_service: Service):
    http = shared_service.http
    cosine = {"schedule": {**COSINE, "decay_steps": 70}, "unit": "step"}
    put(http, "steps", cosine, steps_per_epoch=10)
    rates = [http.get("/v1/runs/steps/decision?steps=true").json()["learning_rates"]]
    for epoch in range(6):
        if epoch == 2:
            order(http, "steps", type="scale", value=0.5)
        report(http, "steps", epoch)
        rates.append(http.get("/v1/runs/steps/decision?steps=true").json()["learning_rates"])
    found = replayed(http, "steps")
    put(http, "steps-again", found["policy"], steps_per_epoch=10)
    again = [http.get("/v1/runs/steps-again/decision?steps=true").json()["learning_rates"]]
    for epoch in range(6):
        report(http, "steps-again", epoch)
        again.append(http.get("/v1/runs/steps-again/decision?steps=true").json()["learning_rates"])

    assert (True, "step") == (found["exact"], found["policy"]["unit"])
    assert rates == again


def test_more_changes_than_a_list_holds_are_put_together(shared_service: Service):
    http = shared_service.http
    put(http, "long", {"type": "exponential", "decay_rate": 0.999})
    for begin_at in range(0, 2_500, 500):
        reports = [{"epoch": epoch, "metrics": {}} for epoch in range(begin_at, begin_at + 500)]
        assert 200 == http.post("/v1/runs/long/reports/batch", json={"reports": reports}).status_code
    found = replayed(http, "long")
    again = http.post("/v1/policies/preview", json={"policy": found["policy"], "count": 2_501})

    assert ("sequential", 3) == (found["policy"]["schedule"]["type"], len(found["policy"]["schedule"]["schedules"]))
    assert found["exact"]
    assert what_if(http, "long", again=found["policy"])["actual"] == again.json()["learning_rates"]


def test_too_many_steps_are_interpolated_with_a_note(shared_service: Service):
    http = shared_service.http
    put(http, "many", {"schedule": {**COSINE, "decay_steps": 300_000}, "unit": "step"}, steps_per_epoch=100_000)
    for epoch in range(3):
        report(http, "many", epoch)
    found = replayed(http, "many")

    assert (False, "piecewise_interpolate") == (found["exact"], found["policy"]["schedule"]["type"])
    assert "are interpolated" in found["notes"][0]
    assert 201 == http.put("/v1/runs/many-again", json={"policy": found["policy"]}).status_code


def live(http: httpx.Client, run: str, rng: random.Random) -> int:
    """A run with rewinds, gaps and many commands; returns the number of epochs with a rate."""
    put(http, run, {"schedule": rng.choice([PLATEAU, COSINE]), "max_lr": 0.5})
    epoch = 0
    for _ in range(rng.randrange(5, 25)):
        match rng.randrange(10):
            case 0:
                epoch = begin(http, run, rng.randrange(epoch + 1))["epoch"]
            case 1:
                mode = rng.choice(["pin", "rebase", "one_shot"])
                order(http, run, type="set_learning_rate", value=rng.uniform(0.001, 0.5), mode=mode)
            case 2:
                order(http, run, type="scale", value=rng.choice([0.5, 0.9]))
            case 3:
                order(http, run, type=rng.choice(["release", "pause", "resume_schedule"]))
            case 4 if rng.random() < 0.5:
                order(http, run, type="replace_policy", policy=rng.choice([PLATEAU, COSINE]), state="reset")
            case 4:
                put(http, run, rng.choice([PLATEAU, COSINE]), on_conflict=rng.choice(["replace", "restart"]))
            case 5:
                epoch += rng.randrange(3)
                epoch = report(http, run, epoch, rng.random())["epoch"]
            case _:
                epoch = report(http, run, epoch, rng.choice([0.1, rng.random(), "nan"]))["epoch"]
    return epoch + 1


def rates_of(http: httpx.Client, run: str, epochs: int) -> list[float]:
    return [http.get(f"/v1/runs/{run}/decisions/{epoch}").json()["learning_rate"] for epoch in range(epochs)]


def rates_again(http: httpx.Client, run: str, policy: dict[str, Any], epochs: int) -> list[float]:
    """The rates of a new run with the policy, that reports every epoch."""
    rates = [put(http, run, policy, initial_learning_rate=None)["learning_rate"]]
    return rates + [report(http, run, epoch)["learning_rate"] for epoch in range(epochs - 1)]


def test_a_preview_that_is_too_expensive_is_refused_with_the_count_that_may_be(service: Service):
    formulas = [{"type": "expression", "expression": f"cos(epoch * 0.{number:02d})"} for number in range(40)]
    policy = {"type": "chained", "initial_learning_rate": 0.1, "schedules": formulas}
    answer = service.http.post("/v1/policies/preview", json={"policy": policy, "count": 100_000})

    assert (422, "evaluation_too_long") == (answer.status_code, answer.json()["code"])
    assert answer.json()["limit"] < 100_000


def test_a_preview_with_timms_noise_over_all_positions_is_answered_while_lists_and_health_are(service: Service):
    policy = {"type": "constant", "learning_rate": 0.1, "noise": {}}
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=service.url, timeout=60, trust_env=False) as other:
        curve = pool.submit(
            service.http.post, "/v1/policies/preview", json={"policy": policy, "count": 100_000}, timeout=60
        )
        while not curve.done():
            assert 200 == other.get("/v1/runs").status_code
            assert 200 == other.get("/readyz").status_code

    assert 100_000 == len(curve.result().json()["learning_rates"])
