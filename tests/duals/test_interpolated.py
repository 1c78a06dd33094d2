"""Coefficients of many inputs, found from few: as right as one by one."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from hypothesis import Phase, given, settings
from numpy.testing import assert_allclose

import eqtangents as eqt
from eqtangents import nn
from eqtangents.duals._elementary import may_be_differentiated
from eqtangents.duals._interpolated import WORTHWHILE, from_few
from work import differentiated


NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # Each example compiles.


def allowed(units, at_least):
    """So many units of rounding, or what interpolation may be off."""
    return max(units * float(jnp.finfo(jnp.zeros(()).dtype).eps), at_least)


def half_step(x):
    """A function that jumps at zero, and is not zero there."""
    return jnp.where(x > 0, jnp.cos(x), 0.5)


LAYERS = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,  # not zero at zero
    "elu": nn.Elu,
    "selu": nn.Selu,  # with a kink
    "jump": lambda: nn.Elementwise(half_step),
}


def variances(low, high, shape=(WORTHWHILE,)):
    """Variances of all sizes between two, and zero."""
    logs = jr.uniform(jr.key(0), shape, minval=jnp.log(low), maxval=jnp.log(high))
    return jnp.exp(logs).at[0].set(0)


@pytest.mark.parametrize("ratio", [1.0, 30.0, 1e3])
def test_smooth_functions_are_found_to_rounding(ratio):
    def smooth(variance):
        root = jnp.sqrt(variance)
        return [jnp.stack([jnp.tanh(root), 1 / (1 + root)]), jnp.cos(root)[None]]

    variance = variances(3 / ratio, 3.0, (20, 5, 6))[1:]
    rows, right = from_few(smooth, variance)
    assert right
    for found, expected in zip(rows, smooth(variance.ravel()), strict=True):
        expected = expected.reshape(found.shape)
        assert_allclose(found, expected, rtol=0, atol=allowed(64, 4e-12))


@pytest.mark.parametrize(
    ("function", "largest"),
    [
        (lambda v: jnp.abs(v - 1), 3.0),
        (lambda v: jnp.where(v > 1, v, jnp.nan), 3.0),
        (lambda v: jnp.sin(100 * v), 3.0),
        (jnp.sqrt, jnp.inf),
        (jnp.sqrt, 0.0),
    ],
    ids=["kink", "not a number", "many waves", "overflow", "zero"],
)
def test_what_is_not_found_is_told(function, largest):
    variance = jnp.full(WORTHWHILE, largest).at[1:].multiply(0.1)
    assert not from_few(lambda v: [function(v)[None]], variance)[1]


@given(
    st.sampled_from(sorted(LAYERS)),
    st.floats(-6, 1),
    st.floats(0, 5),
    st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=12, phases=NO_SHRINKING)
def test_kernels_of_many_inputs_are_those_without_interpolation(
    name, lowest, orders, bias_std
):
    variance = variances(10**lowest, 10 ** (lowest + orders))[:, None]
    x = jnp.sqrt(3 * variance / 2) * jr.normal(jr.key(1), (WORTHWHILE, 3))
    linear = nn.Linear(1, bias_std=bias_std)
    net = nn.Sequential([linear, layer := LAYERS[name](), linear, layer, linear])
    own, moved = eqt.kernel(net, x), differentiated(lambda x: eqt.kernel(net, x), x)
    for found, expected in [(own.nngp, moved.nngp), (own.ntk, moved.ntk)]:
        size = jnp.sqrt(jnp.diagonal(expected))
        # Angles between inputs that nearly coincide magnify rounding. Where variances
        # are too large for the expansion, none of both is a number.
        bound = allowed(1000, 1e-11) * jnp.outer(size, size)
        close = jnp.abs(found - expected) <= bound
        assert jnp.all(close | jnp.isnan(found) & jnp.isnan(expected))


def test_few_nodes_stand_for_many_inputs():
    """The quadrature of all inputs is there for what cannot be interpolated alone."""
    dual, variance = nn.Tanh().dual, jnp.ones(4 * WORTHWHILE)
    outside = []
    for asked in (False, True):
        with may_be_differentiated(asked):
            jaxpr = jax.make_jaxpr(dual.prepare)(variance)
        found = [eqn.outvars[0] for eqn in jaxpr.eqns if str(eqn.primitive) == "tanh"]
        outside.append(max(variable.aval.size for variable in found))
    assert outside[0] < outside[1] / 10
