"""Kernels of networks that pass through few numbers, and what they cost."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from precision import by_precision


def narrowing(params, x):
    """Thirty, nine, then three numbers, and twenty outputs."""
    w1, w2, w3, w4, bias = params
    x = jnp.tanh(jax.nn.relu(x @ w1) @ w2 + bias)
    x = jax.nn.softmax(x @ w3)
    return jnp.tanh(x @ w4).reshape(4, 5)


def shortcut(params, x):
    """Half of the outputs go around the three numbers."""
    w1, w2, w3, w4, bias = params
    hidden = jnp.tanh(jax.nn.relu(x @ w1) @ w2 + bias)
    narrow = jnp.tanh(hidden @ w3) @ w4
    return narrow.reshape(4, 5) + hidden[:4, None]


def tied(params, x):
    """The weights above the three numbers are those below them."""
    w = params[2]
    return jnp.tile(w @ jnp.tanh(jnp.tanh(w @ x[:3]) @ w), 3)[:20]


def rounded(params, x):
    """A narrow value that is no floating-point number has no derivative."""
    w1, w2, w3, w4, bias = params
    x = jnp.tanh(jax.nn.relu(x @ w1) @ w2 + bias) @ w3
    return (w4[jnp.argmax(x)] * jnp.max(x)).reshape(4, 5)


NETWORKS = {
    "narrowing": narrowing,
    "jitted": jax.jit(narrowing),
    "checkpointed": jax.checkpoint(narrowing),
    "shortcut": shortcut,
    "tied": tied,
    "rounded": rounded,
}
WAISTS = {
    "narrowing": (9, 3),
    "jitted": (9, 3),
    "checkpointed": (9, 3),
    "shortcut": (9,),
    "tied": (9,),
    "rounded": (9, 3),
}
each = pytest.mark.parametrize("name", NETWORKS)


def problem():
    shapes = [(7, 30), (30, 9), (9, 3), (3, 20), (9,)]
    keys = jr.split(jr.key(0), 7)
    params = [jr.normal(k, s) for k, s in zip(keys, shapes, strict=False)]
    return params, jr.normal(keys[5], (3, 7)), jr.normal(keys[6], (2, 7))


def widths(explanation):
    lines = [l for l in str(explanation).splitlines() if "passes through" in l]
    return tuple(int(line.split()[-2]) for line in lines)


@pytest.mark.slow
@each
def test_waists_are_found_where_nothing_goes_around(name):
    params, x1, x2 = problem()
    call = NETWORKS[name]
    found = eqt.explain_empirical_ntk(call, x1, x2, params, trace_axes=())
    assert widths(found)
    assert {*widths(found)} <= {*WAISTS[name]}
    few = eqt.explain_empirical_ntk(call, x1, x2, params, trace_axes=(), chunk_size=5)
    assert all(2 * width <= 5 for width in widths(few))


@pytest.mark.slow
@each
@pytest.mark.parametrize(
    "options",
    [
        {"trace_axes": ()},
        {"trace_axes": (0,)},
        {"trace_axes": (), "chunk_size": 40},
        {"trace_axes": (), "chunk_size": 8},
        {"trace_axes": (-1,), "chunk_size": 6},
        {"trace_axes": (), "diagonal_axes": (0,)},
    ],
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_waists_do_not_change_the_kernel(name, options, symmetric):
    params, x1, x2 = problem()
    if name == "tied" and "diagonal_axes" in options:
        pytest.skip("its outputs have one axis")
    call, x2 = NETWORKS[name], None if symmetric else x2
    truth = eqt.empirical_ntk(
        call, x1, x2, params, implementation="jacobian", **options
    )
    tolerance = by_precision(float64=1e-12, float32=1e-5) * float(np.abs(truth).max())
    found = eqt.empirical_ntk(
        call, x1, x2, params, implementation="structured", **options
    )
    np.testing.assert_allclose(found, truth, rtol=0, atol=tolerance)
    by_leaf = eqt.empirical_ntk_by_leaf(call, x1, x2, params, **options)
    np.testing.assert_allclose(sum(by_leaf), truth, rtol=0, atol=tolerance)


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def classifier(params, x):
    """Convolutions, eight features, and as many classes as the last weights have."""
    w1, w2, w3 = params
    for w in (w1, w2):
        x = jax.lax.conv_general_dilated(x[None], w, (1, 1), "SAME")[0]
        x = jax.nn.relu(x)
    return jnp.mean(x, (1, 2)) @ w3


@pytest.mark.precision("float32")
def test_classes_above_few_features_cost_no_passes_backwards():
    def cost(classes, way):
        shapes = [(8, 3, 3, 3), (8, 8, 3, 3), (8, classes)]
        params = [jnp.ones(shape) for shape in shapes]
        x = jnp.ones((1, 3, 16, 16))
        kernel = lambda p, x: eqt.empirical_ntk(
            classifier, x, None, p, trace_axes=(), implementation=way
        )
        found = compiled(kernel, params, x)
        temporary = found.memory_analysis().temp_size_in_bytes
        return found.cost_analysis()["flops"], temporary

    (few, few_bytes), (many, many_bytes) = (cost(n, "structured") for n in (16, 256))
    # Products of matrices of classes times classes, and no convolution for each class.
    assert many - few < 4 * 256**3
    assert cost(256, "jacobian")[0] - few > 4 * 256**3
    # A few matrices of classes times classes may be held.
    assert many_bytes - few_bytes < 4 * 4 * 256**2


@pytest.mark.slow
@pytest.mark.precision("float32")
def test_tiles_hold_one_kernel_and_not_that_of_each_parameter():
    depth, width, n = 12, 4, 64
    params = [jnp.ones((width, width))] * depth
    x = jnp.ones((n, width))

    def network(params, x):
        for w in params:
            x = jnp.tanh(w @ x)
        return x

    options = {"trace_axes": (), "chunk_size": 32}
    kernel = lambda p, x: eqt.empirical_ntk(network, x, None, p, **options)
    temporary = compiled(kernel, params, x).memory_analysis().temp_size_in_bytes
    kernel_bytes = 4 * (n * width) ** 2
    assert temporary < 4 * kernel_bytes
