"""A rate of the service in the state of a real optimizer, in a compiled step."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Not "optax": without the library, that is this folder.
pytest.importorskip("optax.contrib", reason="optax is not installed: `make adapters` runs these tests")

import jax
import jax.numpy as jnp
import numpy as np
import optax

import remotelr
from remotelr.optax import set_learning_rate
from remotelr.testing import InMemoryService

TARGET = jnp.array([3.0, -1.0, 0.5])


def injected(inner=optax.sgd, rate=0.1, **settings):
    return optax.inject_hyperparams(inner, hyperparam_dtype=jnp.float32, **settings)(learning_rate=rate)


def loss_of(params):
    return jnp.sum((params["w"] - TARGET) ** 2)


class Model:
    """Three numbers that are trained in a compiled step. traces: how often it was compiled."""

    def __init__(self, optimizer, params=None, donate=False):
        self.traces = 0
        self.params = params or {"w": jnp.zeros(3)}
        self.state = optimizer.init(self.params)
        self._optimizer = optimizer
        self._step = jax.jit(self._trace, donate_argnums=(0, 1) if donate else ())

    def _trace(self, params, state):
        self.traces += 1
        updates, state = self._optimizer.update(jax.grad(loss_of)(params), state, params)
        return optax.apply_updates(params, updates), state

    def train(self, rate=None, **settings):
        if rate is not None:
            self.state = set_learning_rate(self.state, rate, **settings)
        self.params, self.state = self._step(self.params, self.state)
        return self


def test_the_next_update_uses_the_rate():
    model = Model(injected()).train(0.25)

    np.testing.assert_allclose(model.params["w"], 0.5 * TARGET)


@pytest.mark.parametrize("donate", [False, True])
def test_new_rates_do_not_compile_the_step_again(donate):
    model = Model(injected(optax.adamw), donate=donate).train()

    for step in range(20):
        model.train(0.1 / (1 + step))

    assert model.traces == 1
    assert float(model.state.hyperparams["learning_rate"]) == np.float32(0.1 / 20)


def test_nothing_else_in_the_state_changes():
    model = Model(injected(optax.adamw)).train(0.1).train(0.1)

    new = set_learning_rate(model.state, 0.5)

    back = set_learning_rate(new, float(model.state.hyperparams["learning_rate"]))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.all(a == b)), back, model.state))
    assert jax.tree.structure(new) == jax.tree.structure(model.state)
    assert float(new.hyperparams["learning_rate"]) == 0.5


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: optax.chain(optax.clip_by_global_norm(1.0), inner),
        lambda inner: optax.MultiSteps(inner, every_k_schedule=2),
        lambda inner: optax.apply_if_finite(inner, max_consecutive_errors=3),
        lambda inner: optax.masked(inner, {"w": True}),
    ],
    ids=["chain", "MultiSteps", "apply_if_finite", "masked"],
)
def test_the_rate_is_found_within_other_transformations(wrap):
    model = Model(wrap(injected(optax.adam)))

    for rate in (0.1, 0.05, 0.02):
        model.train(rate)

    assert model.traces == 1
    assert "0.02" in str(jax.tree.leaves(set_learning_rate(model.state, 0.02)))


def test_several_rates_keep_their_ratios_even_after_a_rate_of_zero():
    params = {"w": jnp.zeros(3), "bias": jnp.zeros(3)}
    optimizer = optax.multi_transform(
        {"head": injected(rate=0.1), "body": injected(optax.adam, rate=0.01)}, {"w": "head", "bias": "body"}
    )
    state = optimizer.init(params)

    for rate in (0.2, 0.0, 0.4):
        state = set_learning_rate(state, rate, ratios={"head": 1.0, "body": 0.25})

    rates = {label: float(each.inner_state.hyperparams["learning_rate"]) for label, each in state.inner_states.items()}
    assert rates == {"head": np.float32(0.4), "body": np.float32(0.1)}


def test_several_rates_without_ratios_are_refused_with_their_labels():
    optimizer = optax.multi_transform({"head": injected(), "body": injected()}, {"w": "head", "bias": "body"})
    state = optimizer.init({"w": jnp.zeros(3), "bias": jnp.zeros(3)})

    with pytest.raises(ValueError, match=r"2 rates 'learning_rate', at \[\['body'\], \['head'\]\]: give ratios="):
        set_learning_rate(state, 0.1)
    with pytest.raises(ValueError, match=r"one label of each rate, got \['head'\] for the rate at \['body'\]"):
        set_learning_rate(state, 0.1, ratios={"head": 1.0})


def test_a_scheduled_rate_is_refused():
    state = injected(rate=optax.cosine_decay_schedule(0.1, 10)).init({"w": jnp.zeros(3)})

    with pytest.raises(ValueError, match="is a schedule of optax, which writes it at each update"):
        set_learning_rate(state, 0.1)


def test_an_optimizer_without_inject_hyperparams_is_refused():
    with pytest.raises(ValueError, match=r"no hyperparameter 'learning_rate': make the optimizer with optax\.inject"):
        set_learning_rate(optax.adam(0.1).init({"w": jnp.zeros(3)}), 0.1)


def test_a_rate_in_sixteen_bits_is_refused():
    state = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1).init({"w": jnp.zeros(3, jnp.bfloat16)})

    with pytest.raises(ValueError, match="held in bfloat16, which rounds it"):
        set_learning_rate(state, 0.1)


def test_a_number_within_a_compiled_function_is_refused_and_an_argument_is_not():
    state = injected().init({"w": jnp.zeros(3)})

    with pytest.raises(ValueError, match="would be a constant"):
        jax.jit(lambda state: set_learning_rate(state, 0.3))(state)
    assert float(jax.jit(set_learning_rate)(state, 0.3).hyperparams["learning_rate"]) == np.float32(0.3)


def test_a_scan_over_steps_takes_a_vector_of_rates():
    optimizer, rates = injected(), [0.1, 0.2, 0.05]

    def step(carry, rate):
        params, state = carry
        state = set_learning_rate(state, rate)
        updates, state = optimizer.update(jax.grad(loss_of)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = {"w": jnp.zeros(3)}
    (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), jnp.array(rates))

    expected = Model(injected())
    for rate in rates:
        expected.train(rate)
    np.testing.assert_allclose(params["w"], expected.params["w"], rtol=1e-6)


def test_other_hyperparameters_can_be_set_by_name():
    optimizer = optax.inject_hyperparams(optax.sgd, hyperparam_dtype=jnp.float32)(learning_rate=0.1, momentum=0.9)

    state = set_learning_rate(optimizer.init({"w": jnp.zeros(3)}), 0.8, name="momentum")

    assert [float(state.hyperparams[each]) for each in ("learning_rate", "momentum")] == [
        np.float32(0.1),
        np.float32(0.8),
    ]


SHARDED = """
import jax, jax.numpy as jnp, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from remotelr.optax import set_learning_rate

mesh = Mesh(jax.devices(), ("data",))
everywhere = NamedSharding(mesh, PartitionSpec())
optimizer = optax.inject_hyperparams(optax.adam, hyperparam_dtype=jnp.float32)(learning_rate=0.1)
params = jax.device_put({"w": jnp.zeros(8)}, NamedSharding(mesh, PartitionSpec("data")))
state = jax.device_put(optimizer.init(params), everywhere)
traces = []

@jax.jit
def step(params, state):
    traces.append(1)
    updates, state = optimizer.update({"w": params["w"] - 1.0}, state, params)
    return optax.apply_updates(params, updates), state

params, state = step(params, state)
first = len(traces), step._cache_size()
for rate in (0.3, 0.2, 0.1):
    state = set_learning_rate(state, rate)
    assert state.hyperparams["learning_rate"].sharding.is_equivalent_to(everywhere, 0)
    params, state = step(params, state)
state = set_learning_rate(state, 0.5)
settled = len(traces), step._cache_size()
for _ in range(5):
    state = set_learning_rate(state, 0.25)
    params, state = step(params, state)
assert (len(traces), step._cache_size()) == settled, (first, settled, len(traces), step._cache_size())
print("devices", jax.device_count())
"""


def test_a_rate_on_several_devices_keeps_its_sharding():
    ended = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"},
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )

    assert (ended.returncode, ended.stdout) == (0, "devices 4\n"), ended.stderr


def trained(policy, steps, **lengths):
    """The parameters after a training by `policy`, the rates used and the number of traces."""
    service, rates = InMemoryService(), []
    model = Model(injected())
    with remotelr.training(
        service.url, "job", policy=policy, initial_learning_rate=0.1, transport=service, verbose=False, **lengths
    ) as training:
        for _ in training.epochs():
            for step in range(steps):
                rates.append(training.learning_rate(step))
                model.train(rates[-1])
            training.report(val_loss=losses_of(len(rates) // steps - 1))
    return model.params["w"], rates, model.traces


def losses_of(epoch):
    return [0.9, 0.7, 0.7, 0.71, 0.6, 0.65, 0.65, 0.65, 0.66, 0.5, 0.52, 0.52][epoch]


def test_a_schedule_per_step_gives_the_parameters_that_optax_gives():
    schedule = optax.cosine_decay_schedule(0.1, 15)
    expected = Model(optax.sgd(schedule))
    for _ in range(20):
        expected.train()

    policy = {"schedule": {"type": "cosine", "decay_steps": 15}, "unit": "step"}
    params, rates, traces = trained(policy, 4, steps_per_epoch=4, total_epochs=5)

    np.testing.assert_allclose(rates, [float(schedule(step)) for step in range(20)], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(params, expected.params["w"], rtol=1e-5)
    assert traces == 1


def test_a_plateau_gives_the_parameters_that_reduce_on_plateau_gives():
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=1e-4, cooldown=1)
    params = {"w": jnp.zeros(3)}
    scaled, expected = plateau.init(params), []
    for epoch in range(12):
        expected.append(0.1 * float(scaled.scale))
        params = {"w": params["w"] - 0.1 * scaled.scale * jax.grad(loss_of)(params)["w"]}
        # The loss of an epoch scales the updates of the next one.
        _, scaled = plateau.update(params, scaled, value=losses_of(epoch))

    policy = {"type": "reduce_on_plateau", "flavor": "optax", "factor": 0.5, "patience": 1, "cooldown": 1}
    ours, rates, _ = trained(policy, 1, total_epochs=12)

    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert len(set(rates)) > 2
    np.testing.assert_allclose(ours, params["w"], rtol=1e-5)


def test_the_block_of_the_frameworks_page_trains():
    page = (Path(__file__).parents[2] / "docs" / "frameworks.md").read_text()
    (block,) = re.findall(r"^## optax and flax\n\n```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    used = []

    @jax.jit
    def train_step(params, opt_state, batch):
        # The block's optimizer; any other of the same form would do.
        updates, opt_state = names["optimizer"].update({"w": params["w"] - batch}, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def evaluate(params):
        used.append(float(names["opt_state"].hyperparams["learning_rate"]))
        return float(loss_of(params))

    # Without an address, the rules decide alone.
    names = {
        "url": None,
        "params": {"w": jnp.zeros(3)},
        "batches": [1.0, 2.0],
        "train_step": train_step,
        "evaluate": evaluate,
    }
    exec(block, names)

    assert used == [np.float32(1e-3)] * 5
