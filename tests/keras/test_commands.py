"""What an operator orders of a run while it is being fitted, and what the batches of the next epoch really had."""

import keras
import pytest

from remotelr import Client
from remotelr.keras import RemoteLR
from support.keras.outage import PATIENT_S, Outage
from support.keras.training_jobs import BATCH, BATCHES, Before, StepsTaken, ones, unit_gradient

QUIET = pytest.mark.filterwarnings("ignore::remotelr.errors.RemoteLRWarning")
HALVING = {"type": "step", "step_size": 1, "gamma": 0.5, "initial_learning_rate": 0.8}
FALLING = {
    "unit": "step",
    "schedule": {"type": "polynomial", "initial_learning_rate": 0.8, "end_learning_rate": 0.0, "decay_steps": 24},
}
EPOCHS = 6


def fit(*callbacks, epochs=EPOCHS, **more):
    """The rate of each batch, by epoch."""
    steps = StepsTaken()
    x, y = ones()
    unit_gradient(keras.optimizers.SGD(0.5)).fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=[*callbacks, steps], **more
    )
    return [steps.rates[first : first + BATCHES] for first in range(0, len(steps.rates), BATCHES)]


ORDERS = {
    "one shot": (lambda run: run.set_learning_rate(0.3, mode="one_shot"), [0.8, 0.4, 0.3, 0.1, 0.05, 0.025]),
    "until": (lambda run: run.set_learning_rate(0.3, until_epoch=4), [0.8, 0.4, 0.3, 0.3, 0.05, 0.025]),
    "rebase": (lambda run: run.set_learning_rate(0.4, mode="rebase"), [0.8, 0.4, 0.4, 0.2, 0.1, 0.05]),
    "scale": (lambda run: run.scale(0.5), [0.8, 0.4, 0.1, 0.05, 0.025, 0.0125]),
    "pause": (lambda run: run.pause(), [0.8, 0.4, 0.4, 0.4, 0.4, 0.4]),
    "note": (lambda run: run.note("a remark"), [0.8, 0.4, 0.2, 0.1, 0.05, 0.025]),
    "cancel": (lambda run: run.cancel(run.scale(0.5).seq), [0.8, 0.4, 0.2, 0.1, 0.05, 0.025]),
    "policy": (lambda run: run.replace_policy({"type": "constant", "learning_rate": 0.3}), [0.8, 0.4, *[0.3] * 4]),
}


@pytest.mark.parametrize(("order", "expected"), ORDERS.values(), ids=ORDERS.keys())
def test_a_command_is_effective_from_the_next_epoch_on(url, key, order, expected):
    with Client(url) as client:
        rates = fit(Before(1, lambda: order(client.get_run(key))), RemoteLR(url, key, HALVING))

    assert [each[0] for each in rates] == pytest.approx(expected, abs=1e-6)


@QUIET
@pytest.mark.parametrize("name", ["pause", "policy"])
def test_a_command_holds_if_the_service_goes_away_after_its_epoch(mortal_service, key, name):
    mortal_service.start()
    order, expected = ORDERS[name]
    remote = RemoteLR(mortal_service.url, key, HALVING, timeout_s=PATIENT_S)
    outage = Outage(mortal_service, remote, killed=2)
    with Client(mortal_service.url) as client:
        rates = fit(Before(1, lambda: order(client.get_run(key))), outage, remote)

    assert [each[0] for each in rates] == pytest.approx(expected, abs=1e-6)


@QUIET
def test_a_longer_run_has_the_steps_of_its_new_curve_which_begins_with_the_rate_of_the_old_one(mortal_service, key):
    """Only an event between this decision and the one before it shows that the curve is another one."""
    mortal_service.start()
    remote = RemoteLR(mortal_service.url, key, FALLING, timeout_s=PATIENT_S)
    outage = Outage(mortal_service, remote, killed=3, started=4)
    with Client(mortal_service.url) as client:
        rates = fit(Before(1, lambda: client.get_run(key).extend(12, continuity="keep_fraction")), outage, remote)
        decided = [row.learning_rate for row in client.get_run(key).history()]

    # Two epochs of a curve of 24 steps; then what is left of it over 40 steps instead of 16.
    curve = [0.8 * (1 - step / 24) for step in range(8)]
    curve += [0.8 * 16 / 24 * (1 - step / 40) for step in range(16)]
    assert [rate for each in rates for rate in each] == pytest.approx(curve, abs=1e-6)
    assert [each[0] for each in rates] == pytest.approx(decided, abs=1e-6)


@QUIET
def test_a_trainer_that_starts_again_means_the_run_an_operator_has_changed(mortal_service, key, tmp_path):
    """It asks for the policy it always asked for, first with the service, then alone with what it has kept."""
    mortal_service.start()
    state = tmp_path / "rates"
    with Client(mortal_service.url) as client:
        remote = RemoteLR(mortal_service.url, key, HALVING, state_file=state, timeout_s=PATIENT_S)
        exchange = {"type": "constant", "learning_rate": 0.3}
        fit(Before(1, lambda: client.get_run(key).replace_policy(exchange)), remote, epochs=4)
        again = fit(RemoteLR(mortal_service.url, key, HALVING, state_file=state), epochs=5, initial_epoch=4)
    mortal_service.kill()
    with pytest.warns(UserWarning, match="goes on by the same rules"):
        alone = fit(
            RemoteLR(mortal_service.url, key, HALVING, state_file=state, timeout_s=0.3), epochs=6, initial_epoch=5
        )

    assert [again, alone] == [[pytest.approx([0.3] * BATCHES, abs=1e-6)]] * 2
