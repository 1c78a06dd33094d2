"""Derivatives of kernels keep little, add up what is computed, and hardly divide."""

import math
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from numpy.testing import assert_allclose

import eqtangents as eqt
from eqtangents import nn
from eqtangents._budget import ACCELERATOR, CPU, under
from eqtangents._buffers import buffered
from precision import by_precision
from work import operations


def network(depth, readout):
    layers = [nn.Conv(1, (3, 3), padding="SAME"), nn.Relu()] * depth
    return nn.Sequential([*layers, readout, nn.Linear(1)])


def keeping(kept_bytes):
    """A budget under which derivatives keep so much; nothing traced before fits it."""
    return under(CPU._replace(kept_bytes=kept_bytes))


@pytest.mark.parametrize("readout", [nn.Flatten(), nn.GlobalAvgPool()])
def test_derivatives_are_the_same_whatever_they_keep(readout, getkey):
    x, net = jr.normal(getkey(), (5, 2, 4, 4)), network(2, readout)
    total = lambda x: jnp.sum(jnp.sin(eqt.ntk(net, x, x + 1)))

    def derivatives(kept_bytes):
        with keeping(kept_bytes):
            return jax.grad(total)(x), jax.jvp(total, (x,), (jnp.ones_like(x),))[1]

    for found, expected in zip(derivatives(2**10), derivatives(2**30), strict=True):
        scale = float(jnp.abs(expected).max())
        atol = by_precision(float64=1e-12, float32=1e-5) * scale
        assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.precision("float32")
def test_derivatives_alone_keep_less_where_layers_are_many():
    x = jax.ShapeDtypeStruct((48, 2, 8, 8), jnp.float32)

    def programs(kept_bytes):
        net = network(4, nn.Flatten())
        total = lambda x: jnp.sum(eqt.ntk(net, x, x + 1))
        with keeping(kept_bytes):
            backwards = jax.jit(jax.grad(total)).lower(x).compile()
            forwards = jax.jit(total).lower(x).compile()
        return [p.memory_analysis().temp_size_in_bytes for p in (backwards, forwards)]

    (less, same), (more, expected) = programs(2**20), programs(2**30)
    assert less < more / 2
    assert same == expected


@pytest.mark.precision("float32")
def test_sums_of_expansions_share_what_they_read_backwards():
    """Three for each layer, of which each would compute the windows around it again."""
    layers = [nn.Conv(1, (3, 3), padding="SAME", bias_std=0.1), nn.Tanh()] * 2
    net = nn.Sequential([*layers, nn.GlobalAvgPool()])
    x = jax.ShapeDtypeStruct((2, 1, 8, 16), jnp.float32)
    total = lambda x1, x2: jnp.sum(eqt.ntk(net, x1, x2))
    forwards, backwards = (
        jax.jit(function).lower(x, x).compile().cost_analysis()["flops"]
        for function in (total, jax.grad(total))
    )
    assert backwards < 2.7 * forwards


@pytest.mark.parametrize("map_over", [lambda f: f, jax.vmap], ids=["one", "batched"])
def test_buffers_stay_buffers_and_have_the_derivatives_of_what_they_hold(map_over):
    x = jnp.linspace(0.1, 1.0, 12).reshape(3, 4)
    held = map_over(lambda x: jnp.sin(buffered(jnp.exp(x))))
    bare = map_over(lambda x: jnp.sin(jnp.exp(x)))
    assert "conditional(" in jax.jit(held).lower(x).compile().as_text()
    along = lambda function: lambda x: jax.jvp(function, (x,), (x,))[1]
    backwards = lambda function: jax.grad(lambda x: jnp.sum(function(x)))
    for order in (lambda f: f), along, backwards, (lambda f: backwards(along(f))):
        assert_allclose(order(held)(x), order(bare)(x), rtol=1e-6)
    with under(ACCELERATOR):
        assert "conditional(" not in jax.jit(held).lower(x + 1).compile().as_text()


@pytest.mark.precision("float32")
@pytest.mark.parametrize("readout", [nn.Flatten(), nn.GlobalAvgPool()])
def test_what_is_added_up_for_each_example_is_computed_before(readout):
    """Sums over examples add slices in memory, and do not compute them on the way."""
    net, x = network(2, readout), jax.ShapeDtypeStruct((7, 2, 16, 16), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(eqt.ntk(net, x, x + 1))))
    program = gradient.lower(x).compile().as_text()
    of_examples = r"= f32\[(?:16,)?(?:7,1|1,7),16,16\]\S* slice\((%[\w.\-]+)\)"
    added = []
    for body in re.split(r"\n(?=(?:ENTRY )?%[\w.\-]+ \()", program):
        kind = dict(re.findall(r"(%[\w.\-]+) = \S+ ([\w\-]+)\(", body))
        shape = dict(re.findall(r"(%[\w.\-]+) = f32\[([\d,]+)\]", body))
        is_block = lambda one, shape=shape: shape.get(one, "").endswith("7,7,16,16")
        added += [kind[one] for one in re.findall(of_examples, body) if is_block(one)]
        assert not any(map(is_block, re.findall(r" reduce\((%[\w.\-]+),", body)))
    products_of_inputs = 2 * 7  # for each of two channels: too cheap for a buffer
    assert added.count("multiply") <= 2 * products_of_inputs
    assert added.count("parameter") >= 2 * 7
    assert {*added} == {"multiply", "parameter"}


def gradient_of_repeated(depth):
    """The program of a gradient through equal layers, for 37 x 41 examples."""
    layers = [nn.Linear(1, weight_std=1.4, bias_std=0.1), nn.Relu()] * depth
    net, x = nn.Sequential(layers), jax.ShapeDtypeStruct((37, 60), jnp.float32)
    second = jnp.ones((41, 60), jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(eqt.ntk(net, x, second)))
    return jax.jit(gradient).lower(x).compile()


@pytest.mark.precision("float32")
def test_each_depth_of_repeated_layers_hands_on_what_no_sum_is_needed_for():
    """Only what the nonlinearity does with deviations is added up for each example."""
    program = gradient_of_repeated(6).as_text()
    sums = re.findall(r"= f32\[(?:37|41)\]\S* reduce\((%[\w.\-]+),", program)
    # Of the first layer, and of those in the loop.
    assert 1 <= len(sums) <= 2


@pytest.mark.precision("float32")
def test_derivatives_keep_of_each_repeated_layer_its_block_alone():
    less, more = (gradient_of_repeated(n).memory_analysis() for n in (6, 12))
    kept = (more.temp_size_in_bytes - less.temp_size_in_bytes) / (6 * 37 * 41 * 4)
    assert 2 <= kept < 3  # Of covariance and tangent kernel, and of single examples.


@pytest.mark.precision("float32")
@pytest.mark.parametrize(
    "nonlinearity",
    [
        nn.Relu(),
        nn.RectifiedMonomial(2),
        nn.Erf(),
        nn.Gelu(),
        nn.Gaussian(),
        nn.Gabor(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_derivatives_of_nonlinearities_hardly_divide(nonlinearity):
    """A division takes as long as a layer: compilers repeat each, and fuse nothing."""
    net = nn.Sequential([nn.Linear(1), nonlinearity, nn.Linear(1)])
    x, second = jax.ShapeDtypeStruct((37, 60), jnp.float32), jnp.ones((41, 60))
    total = lambda x: jnp.sum(eqt.ntk(net, x, second))

    def divisions(function):
        program = jax.jit(function).lower(x).compile().as_text()
        return len(re.findall(r"= f32\[37,41\]\S* divide\(", program))

    assert divisions(jax.grad(total)) <= divisions(total) + 1


@pytest.mark.precision("float32")
def test_derivatives_of_attention_add_no_entry_after_the_other():
    """Where pairs of positions are arranged anew, JAX would scatter them, backwards."""
    heads = {"key_channels": 4, "value_channels": 4, "heads": 2}
    attend = nn.GlobalSelfAttention(8, **heads, linear_scaling=True)
    net = nn.Sequential([nn.Linear(8), attend, nn.GlobalAvgPool()])
    x = jax.ShapeDtypeStruct((3, 4, 7), jnp.float32)
    slopes = jax.grad(lambda x: jnp.sum(jnp.sin(eqt.ntk(net, x))))
    places = [
        math.prod(eqn.invars[1].aval.shape[:-1])
        for eqn, _ in operations(slopes, x)
        if eqn.primitive.name == "scatter-add"
    ]
    assert max(places) <= 7, "more than one for each displacement"
