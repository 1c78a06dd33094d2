"""Predictors against networks that were trained."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents.predict import (
    Ensemble,
    GradientDescent,
    GradientSteps,
    cross_entropy,
    half_mean_squared_error,
    max_learning_rate,
)
from precision import DTYPE


pytestmark = pytest.mark.slow

WIDTH, NETWORKS, N_TRAIN = 512, 100, 6
STEPS = (0, 10, 60)
BIAS = 20 / WIDTH  # a finite width's, of standard deviations


def steps():
    return jnp.asarray(STEPS, DTYPE)


def _network(width):
    return nn.Sequential(
        [nn.Linear(width, weight_std=1.4, bias_std=0.1), nn.Relu(), nn.Linear(2)]
    )


def _data():
    x = jr.normal(jr.key(1), (9, 5), DTYPE)
    labels = jnp.asarray(np.arange(N_TRAIN) % 2)
    return x, labels, eqt.kernel(_network(1), x)


def _trained(loss, y, learning_rate):
    """Outputs `(networks, times, examples, outputs)` of networks trained in steps."""
    x, _, _ = _data()

    @jax.jit
    @jax.vmap
    def train(key):
        model = _network(WIDTH).init(x.shape[1:], key=key)
        model = jax.tree.map(lambda a: a.astype(DTYPE) if eqx.is_array(a) else a, model)
        params, rest = eqx.partition(model, eqx.is_array)
        outputs = lambda params: jax.vmap(eqx.combine(params, rest))(x)

        def step(_, params):
            slope = jax.grad(lambda p: loss(outputs(p)[:N_TRAIN], y))(params)
            return jax.tree.map(lambda p, g: p - learning_rate * g, params, slope)

        def advance(params, steps):
            params = jax.lax.fori_loop(0, steps, step, params)
            return params, outputs(params)

        return jax.lax.scan(advance, params, np.diff(STEPS, prepend=0))[1]

    return np.asarray(train(jr.split(jr.key(2), NETWORKS)))


def _assert_moments(outputs, mean, variance):
    """Within 4 standard errors (of 162 numbers) and the bias of the width."""
    deviation = np.sqrt(variance)
    error = np.abs(outputs.mean(axis=0) - mean) / deviation
    assert error.max() < 4 / NETWORKS**0.5 + BIAS
    error = np.abs(outputs.var(axis=0, ddof=1) / variance - 1)
    assert error.max() < 4 * (2 / NETWORKS) ** 0.5 + 2 * BIAS


def test_moments_of_an_ensemble_trained_on_the_squared_error():
    _, labels, k = _data()
    y = 2.0 * jax.nn.one_hot(labels, 2, dtype=DTYPE) - 1
    block = lambda rows: jax.tree.map(lambda a: a[rows, :N_TRAIN], k)
    rate = max_learning_rate(k.ntk[:N_TRAIN, :N_TRAIN], n_targets=y.size) / 2
    ensemble = Ensemble(block(slice(N_TRAIN)), y, rule=GradientSteps(rate))
    # Training outputs hardly vary in the end: look at the test examples.
    star = block(slice(N_TRAIN, None))
    mean = ensemble.mean(steps(), star)
    variance = ensemble.variance(steps(), star, jnp.diagonal(k.nngp)[N_TRAIN:])
    outputs = _trained(half_mean_squared_error, y, rate)[:, :, N_TRAIN:]
    variance = np.broadcast_to(np.asarray(variance)[..., None], mean.shape)
    _assert_moments(outputs, np.asarray(mean), variance)
    # The law could tell a wrong learning rate.
    wrong = Ensemble(block(slice(N_TRAIN)), y, rule=GradientSteps(rate / 10))
    error = np.abs(outputs.mean(axis=0) - wrong.mean(steps(), star)) / np.sqrt(variance)
    assert error.max() > 4 / NETWORKS**0.5 + BIAS


def test_paths_of_networks_trained_on_the_cross_entropy():
    _, labels, k = _data()
    k_train = k.ntk[:N_TRAIN, :N_TRAIN]
    rate = max_learning_rate(k_train) / 4
    outputs = _trained(cross_entropy, labels, rate)
    training = GradientDescent(
        cross_entropy,
        k_train,
        labels,
        output_shape=(2,),
        learning_rate=rate,
        rtol=1e-4,
        atol=1e-5,
    )

    @jax.jit
    @jax.vmap
    def infinite(start):
        states = training.states(steps(), training.start(start[:N_TRAIN]))
        return training.test_outputs(states, k.ntk[:, :N_TRAIN], start)

    paths = np.asarray(infinite(jnp.asarray(outputs[:, 0])))
    _assert_moments(outputs, paths.mean(axis=0), paths.var(axis=0, ddof=1))
    # Each network, not the mean alone, follows its path.
    moved = np.std(paths[:, -1] - paths[:, 0])
    assert np.std(outputs[:, -1] - paths[:, -1]) < 0.15 * moved
