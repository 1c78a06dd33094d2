"""Positions of small images lie in one row: the same numbers, in longer loops."""

import math
import re

import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents._budget import CPU, under
from precision import by_precision
from random_networks import networks


ALWAYS, NEVER = (CPU._replace(row=row) for row in (10**6, 1))


def conv(size=(3, 3), stride=1, padding="SAME"):
    return nn.Conv(1, size, stride, padding, weight_std=1.3, bias_std=0.1)


NETWORKS = {
    "pooled": [conv(), nn.Relu(), conv((2, 3)), nn.Erf(), nn.GlobalAvgPool()],
    "flattened": [conv(), nn.Relu(), conv((3, 1)), nn.Gelu(), nn.Flatten()],
    "dense": [conv(), nn.Relu(), conv(), nn.Relu()],
    "unpadded": [conv(padding="VALID"), nn.Relu(), conv(), nn.Relu(), nn.Flatten()],
    "strided": [conv(), nn.Erf(), conv(stride=2), nn.Relu(), conv(), nn.Flatten()],
    "periodic": [conv(padding="CIRCULAR"), nn.Relu(), conv(), nn.GlobalAvgPool()],
    "dilated": [nn.Conv(1, 3, dilation=2, padding="SAME"), nn.Relu(), nn.Flatten()],
    "averaged": [conv(), nn.Relu(), nn.AvgPool(2, 2), conv(), nn.Relu(), nn.Flatten()],
    "normalised": [conv(), nn.LayerNorm(), nn.Relu(), conv(), nn.GlobalAvgPool()],
    "side by side": [
        nn.FanOut(2),
        nn.Parallel([conv(), nn.Sequential([nn.Relu(), conv()])]),
        nn.FanInConcat(2),
        nn.Relu(),
        conv(),
        nn.GlobalAvgPool(),
    ],
    "repeated": [
        conv(),
        nn.Repeat(nn.Residual(nn.Sequential([nn.Relu(), conv()])), 3),
        nn.Flatten(),
    ],
    "dropped out": [conv(), nn.Relu(), nn.Dropout(0.7), conv(), nn.GlobalAvgPool()],
    "attended": [
        conv(),
        nn.Relu(),
        nn.GlobalSelfAttention(4, key_channels=2, value_channels=4, heads=4),
        nn.Flatten(),
    ],
}


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_kernels_and_gradients(name):
    net = nn.Sequential(NETWORKS[name])
    x1, x2 = (jr.normal(jr.key(i), (2, 2, 5, 6)) for i in range(2))
    x2 = x2.at[0].set(x1[0])

    def found_with(budget):
        with under(budget):
            kernel = eqt.kernel(net, x1, x2)
            total = lambda x: jnp.sum(jnp.sin(eqt.ntk(net, x, x2)))
            own = eqt.ntk(net, x1)
            return kernel.nngp, kernel.ntk, own, jax.jit(jax.grad(total))(x1)

    for found, expected in zip(*map(found_with, (ALWAYS, NEVER)), strict=True):
        atol = by_precision(float64=1e-12, float32=1e-5) * float(
            jnp.abs(expected).max()
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.slow
@hyp.given(network=networks(), seed=st.integers(0, 2**31 - 1))
@hyp.settings(deadline=None, max_examples=20)
def test_the_same_kernels_of_random_networks(network, seed):
    x = jr.normal(jr.key(seed), (3, *network.input_shape))
    with under(ALWAYS):
        found = eqt.kernel(network.net, x)
    with under(NEVER):
        expected = eqt.kernel(network.net, x)
    for one, other in ((found.nngp, expected.nngp), (found.ntk, expected.ntk)):
        atol = by_precision(float64=1e-7, float32=1e-4) * float(jnp.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def loops_with_roots(program):
    """The sizes of what is computed with a root or a fraction, in loops of its own."""
    bodies = dict(re.findall(r"\n%?([\w.\-]+) \([^\n]*\{\n(.*?)\n\}", program, re.S))
    found = re.findall(r"= f32\[([\d,]+)\]\S* fusion\([^\n]*calls=%([\w.\-]+)", program)
    return [
        [int(size) for size in sizes.split(",")]
        for sizes, body in found
        if re.search(r" (sqrt|rsqrt|divide)\(", bodies[body])
    ]


@pytest.mark.precision("float32")
@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("readout", [nn.Flatten(), nn.GlobalAvgPool()])
@pytest.mark.parametrize("nonlinearity", [nn.Relu(), nn.Erf()])
def test_rows_fill_vectors(size, readout, nonlinearity):
    net = nn.Sequential([*[nn.Conv(1, 3, padding="SAME"), nonlinearity] * 3, readout])
    n = 24 if isinstance(readout, nn.Flatten) else 4
    x = jax.ShapeDtypeStruct((n, 1, size, size), jnp.float32)
    program = jax.jit(lambda x1, x2: eqt.kernel(net, x1, x2).ntk)
    loops = loops_with_roots(program.lower(x, x).compile().as_text())
    pairs = [sizes for sizes in loops if math.prod(sizes) > 4 * n * size**2]
    assert pairs
    assert [sizes for sizes in pairs if sizes[-1] < 16 or sizes[-1] % 8] == []


@pytest.mark.precision("float32")
@pytest.mark.parametrize("size", [16, 28])
def test_what_is_computed_of_examples_and_positions_alone_has_one_loop(size):
    """Loops over few entries are written out, and take longer to compile than all else.

    Masks and what duals need of variances are long rows.
    """
    convs = [nn.Conv(1, 3, padding="SAME"), nn.Relu()] * 2
    net = nn.Sequential([*convs, nn.AvgPool(3, 2, "SAME"), *convs, nn.GlobalAvgPool()])
    n = 4
    x = jax.ShapeDtypeStruct((n, 1, size, size), jnp.float32)
    program = jax.jit(lambda x1, x2: eqt.kernel(net, x1, x2).ntk)
    program = program.lower(x, x).compile().as_text()
    fields = [s for s in loops_with_roots(program) if math.prod(s) <= 2 * n * size**2]
    assert fields
    assert [sizes for sizes in fields if len(sizes) > 1] == []
    masks = re.findall(r"= pred\[([\d,]+)\]\S* fusion\(", program)
    assert masks
    assert [sizes for sizes in masks if "," in sizes] == []


@pytest.mark.precision("float32")
@pytest.mark.parametrize("nonlinearity", [nn.Relu, nn.Erf, nn.Gelu])
def test_loops_over_pairs_read_fields_of_examples_with_axes_of_their_own(nonlinearity):
    """Out of one long row, numbers are gathered: that took five times as long."""
    net = nn.Sequential([conv(), nonlinearity()] * 3 + [nn.Flatten()])
    n, size = 6, 16
    x = jax.ShapeDtypeStruct((n, 1, size, size), jnp.float32)
    kernel = jax.jit(lambda x1, x2: eqt.kernel(net, x1, x2).ntk)
    program = kernel.lower(x, x).compile().as_text()
    heads = dict(re.findall(r"\n%?([\w.\-]+) (\([^\n]*)\{\n", program))
    found = re.findall(r"= f32\[([\d,]+)\]\S* fusion\([^\n]*calls=%([\w.\-]+)", program)
    blocks = [
        re.findall(r": f32\[(\d+)\]", heads[body])
        for sizes, body in found
        if sizes.startswith(f"{n},{n},")
    ]
    assert blocks
    assert [rows for rows in blocks if any(int(row) > size for row in rows)] == []
