"""Derivatives of kernels keep little at a time, and compute what they add up once."""

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
    """Sums over examples read what is in memory, and do not compute it on the way."""
    net, x = network(2, readout), jax.ShapeDtypeStruct((7, 2, 16, 16), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(eqt.ntk(net, x, x + 1))))
    program = gradient.lower(x).compile().as_text()
    found = []
    for body in re.split(r"\n(?=(?:ENTRY )?%[\w.\-]+ \()", program):
        computed = dict(re.findall(r"(%[\w.\-]+) = \S+ ([\w\-]+)\(", body))
        sums = re.findall(r"= f32\[[\d,]+\]\S* reduce\((%[\w.\-]+),.*reduce_sum", body)
        found += [computed[one] for one in sums]
    assert found
    assert set(found) <= {"parameter", "get-tuple-element", "conditional", "bitcast"}
