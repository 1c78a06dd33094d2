"""Kernels at all depths in one pass."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from precision import by_precision
from work import work


def conv(**options):
    return nn.Conv(8, 3, padding="SAME", weight_std=1.4, bias_std=0.3, **options)


DENSE = nn.Sequential([nn.Relu(), nn.Linear(8, weight_std=1.4, bias_std=0.3)])
BLOCKS = {
    "dense": ([nn.Linear(8)], DENSE, [nn.Erf(), nn.Linear(1)], (3,)),
    "streamed": (
        [conv()],
        nn.Sequential([nn.Relu(), conv()]),
        [nn.GlobalAvgPool(), nn.Linear(1)],
        (2, 4),
    ),
    "tabulated": (
        [conv()],
        nn.Sequential([nn.Relu(), nn.AvgPool(3, padding="SAME"), conv()]),
        [nn.Relu(), nn.Flatten(), nn.Linear(1)],
        (2, 4),
    ),
}
each_block = pytest.mark.parametrize("parts", BLOCKS.values(), ids=BLOCKS.keys())


def network(parts, n, depth=None):
    first, block, readout, _ = parts
    return nn.Sequential([*first, nn.Repeat(block, n, depth=depth), *readout])


@pytest.mark.slow
@each_block
def test_every_depth_in_one_pass(parts):
    x = jr.normal(jr.key(0), (3, *parts[-1]))
    at_depth = lambda depth: eqt.kernel(network(parts, 3, depth), x)
    kernels = jax.vmap(at_depth)(jnp.arange(4))
    rtol = by_precision(float64=1e-12, float32=1e-5)
    for depth in range(4):
        expected = eqt.kernel(network(parts, depth), x)
        found = jax.tree.map(lambda k, depth=depth: k[depth], kernels)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol)


@pytest.mark.slow
@each_block
def test_all_depths_cost_what_the_deepest_does(parts):
    x, n = jr.normal(jr.key(0), (3, *parts[-1])), 12
    at_depth = lambda depth: eqt.ntk(network(parts, n, depth), x)
    deepest = work(lambda: eqt.ntk(network(parts, n), x))
    every = work(jax.vmap(at_depth), jnp.arange(n + 1))
    shallow = work(lambda: eqt.ntk(network(parts, 1), x))
    # The readout is run for each depth; all else once, and the states are kept.
    assert every < 1.5 * deepest + (n + 1) * shallow
    one_by_one = sum(work(lambda k=k: eqt.ntk(network(parts, k), x)) for k in range(n))
    assert every < 0.6 * one_by_one


@pytest.mark.slow
def test_no_depth_compiles_anew():
    x = jr.normal(jr.key(0), (3, 3))
    traced = []

    @jax.jit
    def at_depth(depth):
        traced.append(depth)
        return eqt.ntk(network(BLOCKS["dense"], 4, depth), x)

    kernels = [at_depth(jnp.asarray(depth)) for depth in (1, 4, 0)]
    assert len(traced) == 1
    assert len({float(kernel[0, 1]) for kernel in kernels}) == 3


@pytest.mark.slow
@each_block
def test_networks_of_finite_width_stop_at_their_depth(parts):
    x = jr.normal(jr.key(0), parts[-1])
    model = network(parts, 3, jnp.asarray(2)).init(x.shape, key=jr.key(1))
    block = model.layers[len(parts[0])].copies
    expected = x
    for layer in model.layers:
        if not isinstance(layer, nn.Repeat):
            expected = layer(expected)
            continue
        for i in range(2):
            one = jax.tree.map(
                lambda leaf, i=i: leaf[i] if isinstance(leaf, jax.Array) else leaf,
                block,
            )
            expected = one(expected)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)


def test_depths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must be from 0 to `n`"):
        nn.Repeat(DENSE, 3, depth=4)
    with pytest.raises(TypeError, match="be an integer, or an array of one"):
        nn.Repeat(DENSE, 3, depth=1.5)
    with pytest.raises(ValueError, match=r"mapped by `jax\.vmap`"):
        nn.Repeat(DENSE, 3, depth=jnp.arange(3))
