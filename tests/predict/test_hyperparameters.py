"""Learning hyperparameters of networks by their gradients."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import eqtangents as eqt
from eqtangents import nn
from eqtangents.predict import GaussianProcess
from precision import DTYPE, is_double


class Model(eqx.Module):
    """A network whose layers have hyperparameters of their own, and noise."""

    log_stds: jax.Array  # of weights, layer by layer
    log_bias: jax.Array
    log_noise: jax.Array

    def network(self):
        weights, bias = jnp.exp(self.log_stds), jnp.exp(self.log_bias)
        hidden = lambda std: nn.Linear(1, weight_std=std, bias_std=bias)
        return nn.Sequential(
            [
                hidden(weights[0]),
                nn.Relu(),
                hidden(weights[1]),
                nn.Erf(),
                nn.Linear(1, weight_std=weights[2]),
            ]
        )

    def posterior(self, x, y, kernel):
        k = kernel(self.network(), x)
        return GaussianProcess(k, y, noise=jnp.exp(self.log_noise))


def _model():
    zeros = jnp.zeros(3, DTYPE)
    return Model(zeros + 0.3, zeros[0] - 1, zeros[0] - 2)


def _data(key, n=12):
    x = jr.normal(key, (n, 4), DTYPE)
    x = x.at[1].set(x[0]).at[2].set(0)  # repeated, and no input at all
    return x, jnp.sin(2 * x[:, :1])


CRITERIA = {
    "evidence": lambda model, x, y: (
        -model.posterior(x, y, eqt.nngp).log_marginal_likelihood()
    ),
    "evidence of the NTK": lambda model, x, y: (
        -model.posterior(x, y, eqt.ntk).log_marginal_likelihood()
    ),
    "leave one out": lambda model, x, y: (
        -model.posterior(x, y, eqt.nngp).leave_one_out_log_density()
    ),
}


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.slow
def test_gradient_is_that_of_finite_differences(getkey, name):
    x, y = _data(getkey())
    flat, unravel = ravel_pytree(_model())
    criterion = eqx.filter_jit(lambda flat: CRITERIA[name](unravel(flat), x, y))
    gradient = eqx.filter_jit(eqx.filter_grad(criterion))(flat)
    assert jnp.all(jnp.isfinite(gradient))
    step = 1e-5 if is_double() else 1e-2
    for i, direction in enumerate(step * np.eye(5, dtype=flat.dtype)):
        difference = criterion(flat + direction) - criterion(flat - direction)
        np.testing.assert_allclose(
            gradient[i],
            difference / (2 * step),
            rtol=1e-5 if is_double() else 5e-2,
            atol=1e-5 if is_double() else 5e-2,
        )


@pytest.mark.slow
def test_learning_compiles_once_and_stays_finite(getkey):
    x, y = _data(getkey())
    model, optimiser = _model(), optax.adam(0.1)
    state = optimiser.init(model)
    compiled = 0

    @eqx.filter_jit
    def step(model, state):
        nonlocal compiled
        compiled += 1
        loss, gradient = eqx.filter_value_and_grad(CRITERIA["evidence"])(model, x, y)
        updates, state = optimiser.update(gradient, state)
        return loss, eqx.apply_updates(model, updates), state

    losses = []
    with jax.numpy_dtype_promotion("standard"):  # Adam needs it
        for _ in range(50):
            loss, model, state = step(model, state)
            losses.append(float(loss))
    assert compiled == 1
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 2


def test_new_values_of_kernels_and_times_do_not_compile_again(getkey):
    x, y = _data(getkey())
    k = eqt.nngp(_model().network(), x)
    misses = []

    def outputs(k, t):
        training = eqt.predict.GradientDescentMSE(k, y, relative_noise=1e-3)
        return training.train_outputs(t)

    for i in range(3):
        outputs(k * (i + 1), float(i))
        misses.append(_compilations(lambda i=i: outputs(k * (i + 5), i + 0.5)))
    assert misses == [0, 0, 0]


def _compilations(function):
    """How many programs JAX compiles during a call."""
    events = []
    listen = lambda name, *_, **__: events.append(name)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        function()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return sum("backend_compile" in name for name in events)
