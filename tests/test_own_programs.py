"""Kernels that are not differentiated are those that are, at less cost."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from numpy.testing import assert_allclose

import eqtangents as eqt
from eqtangents import nn
from eqtangents._tiles import _on_one_device
from eqtangents.duals._elementary import may_be_differentiated
from random_networks import networks
from work import differentiated


RECTIFIERS = [nn.Relu(), nn.LeakyRelu(0.3), nn.Abs()]
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # Each example compiles.
SHAPE = 5, 6


@st.composite
def rectified_networks(draw):
    """Convolutions and rectifiers, whose positions meet in an average."""
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        window = draw(st.sampled_from([(3, 3), (2, 3), (1, 2)]))
        conv = nn.Conv(
            1,
            window,
            stride=draw(st.sampled_from([1, 1, 2])),
            padding=draw(st.sampled_from(["SAME", "CIRCULAR"])),
            weight_std=draw(st.floats(0.3, 3.0)),
            bias_std=draw(st.sampled_from([None, 0.0, 0.7])),
            parameterization=draw(st.sampled_from(["ntk", "ntk", "standard"])),
            tap_variances=draw(st.sampled_from([None, rising(window)])),
        )
        layers += [conv, draw(st.sampled_from(RECTIFIERS))]
    return nn.Sequential([*layers, nn.GlobalAvgPool(), nn.Linear(1)])


def rising(window):
    """Variances of taps, of mean one."""
    variances = np.arange(1.0, 1 + np.prod(window)).reshape(window)
    return variances / variances.mean()


SECOND = {
    "zero": lambda x: 0 * x,
    "alike": lambda x: x,
    "longer": lambda x: 1.1 * x,
    "opposite": lambda x: -x,
    "tiny": lambda x: 1e-14 * x,
    "other": lambda x: x[..., ::-1],
}


def images(second):
    """Three images, of which one is made of another."""
    x = jr.normal(jr.key(0), (3, 2, *SHAPE))
    return x.at[1].set(SECOND[second](x[0]))


def padded(x):
    """Images of different widths."""
    inside = np.arange(SHAPE[1]) < np.array([6, 3, 4])[:, None, None]
    return nn.Masked(x, np.broadcast_to(inside, (3, *SHAPE)))


def check(net, x):
    """Compare both kernels, by the size of their largest entry."""
    own, moved = eqt.kernel(net, x), differentiated(lambda x: eqt.kernel(net, x), x)
    rounding = 100 * jnp.finfo(own.ntk.dtype).eps
    for found, expected in [(own.nngp, moved.nngp), (own.ntk, moved.ntk)]:
        assert_allclose(found, expected, atol=rounding * jnp.abs(expected).max())


@given(rectified_networks(), st.sampled_from(sorted(SECOND)), st.booleans())
@settings(max_examples=20, phases=NO_SHRINKING)
def test_sums_over_windows_are_read_back_from_correlations(net, second, masked):
    x = images(second)
    check(net, padded(x) if masked else x)


@given(networks(), st.integers(0, 2**16))
@settings(max_examples=10, phases=NO_SHRINKING)
def test_kernels_of_any_network_are_those_that_are_differentiated(network, seed):
    check(network.net, jr.normal(jr.key(seed), (3, *network.input_shape)))


def deep(readout, layers=3):
    conv = nn.Conv(1, (3, 3), padding="SAME", weight_std=2**0.5)
    return nn.Sequential([*[conv, nn.Relu()] * layers, readout])


@pytest.mark.precision("float32")
def test_what_overflows_is_infinite():
    net, x = deep(nn.GlobalAvgPool()), jnp.full((1, 1, 4, 4), 1e19)
    assert jnp.isposinf(eqt.ntk(net, x)).all()
    assert jnp.isposinf(eqt.nngp(net, jnp.concatenate([x, -x]))).all()


@pytest.mark.parametrize("net", [deep(nn.GlobalAvgPool()), deep(nn.Flatten())])
def test_derivatives_know_nothing_of_programs_that_ran_before(net):
    """Programs that are not differentiated are told apart from those that may be."""
    x = images("alike")
    loss = lambda x: eqt.ntk(net, x).sum()
    directions = jr.normal(jr.key(1), (2, *x.shape))
    slope = lambda x: jax.jvp(loss, (x,), (directions[0],))[1]
    derivatives = lambda: [jax.grad(loss)(x), jax.jvp(slope, (x,), (directions[1],))[1]]
    jax.clear_caches()
    expected = derivatives()
    jax.clear_caches()
    loss(x)
    for found, value in zip(derivatives(), expected, strict=True):
        assert jnp.array_equal(found, value)
        assert jnp.any(value != 0)


def programs(net, x):
    """A kernel in a program, and what is differentiated in its place, as compiled."""
    both = partial(_on_one_device.__wrapped__, net, wants_ntk=True)
    functions = [lambda x: eqt.kernel(net, x, x), lambda x: both(x, x)]
    return [jax.jit(function).lower(x).compile() for function in functions]


@pytest.mark.parametrize("activation", [nn.Relu, nn.Tanh])
def test_a_kernel_within_a_program_is_the_one_alone(activation):
    conv = nn.Conv(1, (3, 3), padding="SAME", bias_std=0.1)
    net = nn.Sequential([conv, activation(), conv, activation(), nn.GlobalAvgPool()])
    x = images("other")
    cost = lambda: jax.jit(lambda x: eqt.kernel(net, x, x)).lower(x).cost_analysis()
    within = cost()
    with may_be_differentiated(False):
        assert cost() == within


@pytest.mark.precision("float32")
def test_windows_are_read_once_where_nothing_is_differentiated():
    found = programs(deep(nn.GlobalAvgPool(), layers=8), images("other"))
    own, part = (program.as_text().count(" slice(") for program in found)
    assert own < 0.9 * part


@pytest.mark.precision("float32")
def test_layers_that_recur_cost_what_a_repeat_costs():
    linear, x = nn.Linear(1), jnp.eye(40)
    pair = nn.Sequential([linear, nn.Relu()])
    written = nn.Sequential([*[linear, nn.Relu()] * 9, linear])
    repeated = nn.Sequential([pair, nn.Repeat(pair, 8), linear])
    costs = [
        [program.cost_analysis()["flops"] for program in programs(net, x)]
        for net in (written, repeated)
    ]
    assert costs[0] == costs[1]
    assert costs[0][0] < 0.9 * costs[0][1]


def test_programs_do_not_grow_with_very_many_layers_that_recur():
    conv, x = nn.Conv(1, (3, 3), padding="SAME", bias_std=0.1), images("other")

    def traced(copies):
        net = nn.Sequential([*[conv, nn.Relu()] * copies, nn.GlobalAvgPool()])
        return net, str(jax.make_jaxpr(lambda x: eqt.ntk(net, x))(x)).count(" = ")

    (net, few), (_, many) = traced(40), traced(80)
    assert few == many < traced(20)[1]
    block = nn.Sequential([conv, nn.Relu()])
    repeated = nn.Sequential([block, nn.Repeat(block, 39), nn.GlobalAvgPool()])
    assert_allclose(eqt.ntk(net, x), eqt.ntk(repeated, x), rtol=1e-5)


def costs_of_layers(function, layers):
    """Operations of a program for some layers, each another, and for twice as many."""

    def cost(depth):
        own = [nn.Linear(1, weight_std=1 + 0.1 * i, bias_std=0.1) for i in range(depth)]
        net = nn.Sequential([layer for one in own for layer in (one, nn.Erf())])
        program = jax.jit(lambda x: function(net, x)).lower(jnp.eye(8)).compile()
        return program.cost_analysis()["flops"]

    return cost(layers), cost(2 * layers)


@pytest.mark.precision("float32")
@pytest.mark.parametrize("order", [0, 1])
def test_no_layer_is_computed_again_for_each_that_follows(order):
    kernel = lambda net, x: eqt.ntk(net, x, 2 * x).sum()
    gradient = lambda net, x: jax.grad(lambda x: kernel(net, x))(x)
    few, twice = costs_of_layers(gradient if order else kernel, 4)
    assert twice < 3 * few
