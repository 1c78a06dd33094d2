"""Kernels by sampling networks."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn


NET = nn.Sequential([nn.Linear(128, bias_std=0.2), nn.Relu(), nn.Linear(1)])


def leaves(estimate):
    return jax.tree.leaves(estimate)


@pytest.mark.slow
def test_mean_is_the_kernel_of_infinite_width(getkey):
    x1, x2 = jr.normal(getkey(), (3, 4)), jr.normal(getkey(), (2, 4))
    found = eqt.monte_carlo(NET, x1, x2, getkey(), 400, batch_size=50)
    limit = eqt.kernel(NET, x1, x2)
    for name in ("nngp", "ntk"):
        mean = getattr(found.mean, name)
        error = getattr(found.standard_error, name)
        expected = getattr(limit, name)
        assert mean.shape == expected.shape
        # One hidden layer has no bias of order 1 / width in the mean.
        assert jnp.all(jnp.abs(mean - expected) < 5 * error), name
        assert jnp.all(error < 0.2 * jnp.max(jnp.abs(expected)))


def sequences(key):
    values, mask = jr.normal(key, (2, 3, 4)), jnp.asarray([[1, 1, 1, 0], [1, 0, 1, 1]])
    return nn.Masked(values, mask == 1)


def graphs(key):
    edges = jr.bernoulli(key, 0.5, (2, 4, 4)).astype(float)
    return nn.Graph(jr.normal(key, (2, 3, 4)), edges)


POOLED = [nn.Relu(), nn.GlobalAvgPool(), nn.Linear(1)]
KINDS = {
    "masked": (sequences, [nn.Linear(64), *POOLED]),
    "graph": (graphs, [nn.Linear(64), nn.Aggregate(), *POOLED]),
    "dropout": (
        lambda key: jr.normal(key, (3, 4)),
        [nn.Linear(64), nn.Relu(), nn.Dropout(0.5), nn.Linear(1)],
    ),
}


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_every_input_and_dropped_values(kind, batches, getkey):
    make, layers = KINDS[kind]
    net, x1 = nn.Sequential(layers), make(getkey())
    x2 = make(getkey()) if batches == 2 else None
    found = eqt.monte_carlo(net, x1, x2, getkey(), 400, batch_size=50)
    limit = eqt.kernel(net, x1, x2)
    for name in ("nngp", "ntk"):
        distance = jnp.abs(getattr(found.mean, name) - getattr(limit, name))
        assert jnp.all(distance < 5 * getattr(found.standard_error, name)), name


@pytest.mark.slow
def test_batches_and_counts_do_not_change_the_samples(getkey):
    x, key = jr.normal(getkey(), (2, 4)), getkey()
    seen = []
    *_, last = eqt.running_monte_carlo(
        NET, x, None, key, [12, 5], batch_size=4, progress=seen.append
    )
    assert seen == [4, 5, 9, 12]
    whole = eqt.monte_carlo(NET, x, None, key, 12, batch_size=12)
    for a, b in zip(leaves(last), leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.slow
def test_samples_are_spread_over_devices(getkey):
    x, key = jr.normal(getkey(), (2, 4)), getkey()
    mesh = jax.make_mesh((2,), ("samples",))
    spread = eqt.monte_carlo(NET, x, None, key, 8, batch_size=2, mesh=mesh)
    alone = eqt.monte_carlo(NET, x, None, key, 8, batch_size=4)
    for a, b in zip(leaves(spread), leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.slow
def test_any_function_of_a_key(getkey):
    x = jr.normal(getkey(), (2, 4))
    draw = lambda key: NET.init((4,), key=key)
    key = getkey()
    a = eqt.monte_carlo(draw, x, None, key, 3)
    b = eqt.monte_carlo(NET, x, None, key, 3)
    np.testing.assert_allclose(a.mean.ntk, b.mean.ntk, rtol=1e-5)


def test_errors_say_what_to_do(getkey):
    x = jr.normal(getkey(), (2, 4))
    with pytest.raises(ValueError, match="at least 2 samples"):
        eqt.monte_carlo(NET, x, None, getkey(), 1)
    with pytest.raises(ValueError, match="at least 1"):
        eqt.monte_carlo(NET, x, None, getkey(), 4, batch_size=0)
