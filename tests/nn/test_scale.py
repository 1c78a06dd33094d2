"""Constant factors are linear: they keep what is Gaussian so."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn


KEY = jr.key(0)


@pytest.fixture
def x():
    return jr.normal(KEY, (4, 2, 6))


def network(*between):
    """With the factor where no nonlinearity could be: right after another one."""
    first, last = nn.Conv(4, 3, padding="SAME", bias_std=0.3), nn.Linear(1, bias_std=0)
    return nn.Sequential([first, nn.Relu(), *between, nn.Flatten(), last])


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Scale(-3.0),
        lambda: nn.Scale(jnp.asarray(-3.0)),
        lambda: nn.Scale(-3),
        lambda: nn.ABRelu(-3.0, -3.0),
        lambda: nn.ABRelu(-3, -3.0),
        lambda: nn.Elementwise(lambda x: -3 * x),
    ],
    ids=["Scale", "array", "int", "ABRelu", "ABRelu_int", "Elementwise"],
)
def test_kernels_are_multiplied_by_the_square(layer, x):
    layer = layer()
    plain, scaled = eqt.kernel(network(), x), eqt.kernel(network(layer), x)
    np.testing.assert_allclose(scaled.nngp, 9 * plain.nngp, rtol=1e-5)
    np.testing.assert_allclose(scaled.ntk, 9 * plain.ntk, rtol=1e-5)
    np.testing.assert_allclose(layer(x[0]), -3 * x[0], rtol=1e-6)


@pytest.mark.slow
def test_nonlinearities_take_what_is_scaled(x):
    """After weights, and after the input of the network, which is not random."""
    linear = lambda std=1.0: nn.Linear(8, weight_std=std, bias_std=0.0)
    for scaled, plain in (
        (
            [linear(), nn.Scale(-2.0), nn.Erf(), linear()],
            [linear(2.0), nn.Erf(), linear()],
        ),
        ([nn.Scale(-2.0), nn.Relu(), linear()], None),
    ):
        features = x[:, :, 0]
        inputs = features if plain else jax.nn.relu(-2 * features)
        expected = eqt.nngp(nn.Sequential(plain or [linear()]), inputs)
        actual = eqt.nngp(nn.Sequential(scaled), features)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_slopes_that_may_change_are_no_line(x):
    """They are arrays: the kernel must not depend on their present values."""
    slope = jnp.asarray(2.0)
    with pytest.raises(nn.LayerError, match="needs a Gaussian input"):
        eqt.nngp(network(nn.ABRelu(slope, slope)), x)


@pytest.mark.slow
def test_a_factor_is_differentiated(x):
    total = lambda c: jnp.sum(eqt.ntk(network(nn.Scale(c)), x))
    value = total(jnp.asarray(1.5))
    assert jax.grad(total)(1.5) == pytest.approx(float(2 * value / 1.5), rel=1e-5)
    compiled = jax.jit(total)
    assert compiled(3.0) == pytest.approx(float(4 * value), rel=1e-5)


L = eqx.nn.Lambda
FACTORS = {
    "times 2": (lambda x: x * 2, 2.0),
    "over 255": (lambda x: x / 255, 1 / 255),
    "negative": (lambda x: -x, -1.0),
    "jnp.negative": (jnp.negative, -1.0),
    "nothing is left": (lambda x: 0 * x, 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize(("fn", "factor"), FACTORS.values(), ids=FACTORS.keys())
def test_functions_that_are_factors_become_this_layer(fn, factor, x):
    assert eqt.from_equinox(L(fn)) == nn.Scale(factor)
    first = eqx.nn.Conv1d(2, 4, 3, padding=1, key=KEY)
    last = eqx.nn.Linear(24, 1, use_bias=False, key=KEY)

    def kernel(*more):
        layers = [first, L(jax.nn.relu), *more, L(jnp.ravel), last]
        return eqt.nngp(eqt.from_equinox(eqx.nn.Sequential(layers)), x)

    np.testing.assert_allclose(kernel(L(fn)), factor**2 * kernel(), rtol=1e-5)
