"""What several tables are computed from is computed once, and nothing changes by it."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import eqtangents as eqt
from eqtangents import nn
from eqtangents.covariance import _shared
from eqtangents.covariance._table import by_displacement
from precision import DTYPE, by_precision
from work import work


def attend(**options):
    return nn.GlobalSelfAttention(
        8, key_channels=4, value_channels=4, heads=2, linear_scaling=True, **options
    )


def attention(i=0, **options):
    last = nn.Linear(8, weight_std=1 + i / 100)
    return nn.Residual(nn.Sequential([nn.LayerNorm(), attend(**options), last]))


def dense():
    layers = nn.Linear(8), nn.Gelu(), nn.Linear(8)
    return nn.Residual(nn.Sequential([nn.LayerNorm(), *layers]))


def crop(i):
    """A convolution that loses the edges, beside what it reads without them."""
    conv = nn.Conv(8, 3, padding="VALID", weight_std=1 + i / 100)
    cut = nn.Index((slice(1, 9 - 2 * i),))
    return nn.Sequential(
        [
            nn.FanOut(2),
            nn.Parallel([cut, nn.Sequential([nn.Relu(), conv])]),
            nn.FanInSum(),
        ]
    )


def different(depth):
    """Blocks of attention of which no two are the same."""
    return [layer for i in range(depth) for layer in (attention(i), dense())]


first = nn.Linear(8)
NETWORKS = {
    "outputs with positions": [first, attention(1, reach=2), attention(2), dense()],
    "pooled": [first, *different(2), nn.GlobalAvgPool(), nn.Linear(1)],
    "where positions coincide": [first, *different(2), attention(3), nn.Flatten()],
    "strides": [
        first,
        *(attention(0), attention(1)),
        nn.Conv(8, 3, stride=3, padding="SAME"),
        attention(2),
        attention(3),
        nn.AvgPool(2, 2),
        nn.GlobalAvgPool(),
    ],
    "crops": [nn.Conv(8, 1), crop(0), crop(1), crop(2), nn.GlobalAvgPool()],
    "crops before strides": [
        *(nn.Conv(8, 1), crop(0), crop(1)),
        nn.Conv(8, 3, stride=3, padding="SAME"),
        nn.GlobalAvgPool(),
    ],
}


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.quick(1)
def test_what_is_stored_changes_nothing(layers, monkeypatch):
    net, x = nn.Sequential(layers), jr.normal(jr.key(0), (3, 4, 10), DTYPE)
    slopes = lambda x: jax.grad(lambda x: jnp.sum(jnp.sin(eqt.ntk(net, x))))(x)
    found = eqt.kernel(net, x), eqt.kernel(net, x[:2], x[1:]), slopes(x)
    stored = []
    once = _shared._shared
    monkeypatch.setattr(_shared, "_shared", lambda o: stored.append(once(o)) or set())
    jax.clear_caches()
    expected = eqt.kernel(net, x), eqt.kernel(net, x[:2], x[1:]), slopes(x)
    assert any(stored), "nothing was"
    rtol = by_precision(float64=1e-10, float32=1e-4)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@pytest.mark.precision("float32")
@pytest.mark.parametrize("readout", [nn.GlobalAvgPool(), nn.Flatten()])
def test_blocks_of_attention_cost_the_same_each(readout):
    x = jax.ShapeDtypeStruct((2, 8, 3), jnp.float32)

    def work_of(depth):
        net = nn.Sequential([first, *different(depth), readout, nn.Linear(1)])
        return work(lambda x: eqt.ntk(net, x), x)

    two, three, four = map(work_of, (2, 3, 4))
    assert four - three <= 1.05 * (three - two)


@pytest.mark.precision("float32")
def test_the_same_blocks_of_attention_are_one_loop():
    x = jax.ShapeDtypeStruct((2, 8, 3), jnp.float32)

    def operations(depth):
        blocks = [attention(), dense()] * depth
        net = nn.Sequential([first, *blocks, nn.GlobalAvgPool()])
        return str(jax.make_jaxpr(lambda x: eqt.ntk(net, x))(x)).count(" = ")

    assert operations(40) == operations(4)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_tables_of_a_share_of_the_examples_have_their_derivatives(kind):
    mesh, share = jax.make_mesh((2,), ("d",), axis_types=(kind,)), PartitionSpec("d")
    dense = jr.normal(jr.key(0), (4, 3, 3), DTYPE)
    table = lambda dense: jnp.sin(by_displacement(dense, (3,)).sum(0))
    shares = jax.shard_map(table, mesh=mesh, in_specs=share, out_specs=share)
    slope = lambda of: jax.jit(jax.grad(lambda x: jnp.sum(of(x) ** 3)))
    expected = slope(table)(dense)
    with jax.set_mesh(mesh):
        found = slope(shares)(jax.device_put(dense, NamedSharding(mesh, share)))
    rounding = by_precision(float64=1e-14, float32=1e-5)
    np.testing.assert_allclose(found, expected, atol=rounding)
    assert jnp.any(expected != 0)
