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


def test_samples_are_spread_over_devices(getkey):
    x, key = jr.normal(getkey(), (2, 4)), getkey()
    mesh = jax.make_mesh((2,), ("samples",))
    spread = eqt.monte_carlo(NET, x, None, key, 8, batch_size=2, mesh=mesh)
    alone = eqt.monte_carlo(NET, x, None, key, 8, batch_size=4)
    for a, b in zip(leaves(spread), leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


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
