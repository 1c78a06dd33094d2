"""Kernels of finite networks inside of `jax.shard_map`, as it is by default."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import eqtangents as eqt
from eqtangents import nn
from precision import by_precision


ROWS, WHOLE = PartitionSpec("rows"), PartitionSpec()


def scanned(params, x):
    """Layers in a loop, whose state starts from a constant."""

    def layer(x, w):
        return jnp.tanh(w @ x + 1), None

    x = jax.lax.scan(layer, jnp.zeros(x.shape, x.dtype).at[:3].set(x[:3]), params[0])[0]
    return params[1] @ x


def convolved(params, x):
    net = nn.Sequential([nn.Conv(3, 3), nn.Relu(), nn.Flatten(), nn.Linear(4)])
    return net.init((1, 5), key=jr.key(3))(x[None]) * params[1][0, 0]


NETWORKS = {"scanned": scanned, "convolved": convolved}


def problem():
    keys = jr.split(jr.key(0), 4)
    params = [jr.normal(keys[0], (2, 5, 5)), jr.normal(keys[1], (4, 5))]
    return params, jr.normal(keys[2], (8, 5)), jr.normal(keys[3], (3, 5))


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", ["structured", "jacobian", "vector_products"])
@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("trace_axes", [(), (0,)])
def test_rows_of_kernels_on_four_devices(name, way, chunk_size, trace_axes):
    params, x1, x2 = problem()
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Auto,))
    options = {"trace_axes": trace_axes, "implementation": way}

    def kernel(params, x1, x2):
        return eqt.empirical_ntk(
            NETWORKS[name], x1, x2, params, chunk_size=chunk_size, **options
        )

    specs = (WHOLE, ROWS, WHOLE)
    sharded = jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=ROWS)
    truth = kernel(params, x1, x2)
    tolerance = by_precision(float64=1e-12, float32=1e-5) * float(np.abs(truth).max())
    found = jax.jit(sharded)(params, x1, x2)
    np.testing.assert_allclose(found, truth, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", ["structured", "jacobian", "vector_products"])
def test_blocks_of_one_batch_and_their_gradients(name, way):
    params, x1, _ = problem()
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Auto,))

    def blocks(params, x):
        return eqt.empirical_ntk(NETWORKS[name], x, None, params, implementation=way)

    def all_blocks(params, x):
        cut = x.reshape(4, 2, *x.shape[1:])
        return jax.lax.map(lambda x: blocks(params, x), cut).reshape(8, 2)

    specs = (WHOLE, ROWS)
    sharded = jax.shard_map(blocks, mesh=mesh, in_specs=specs, out_specs=ROWS)
    weights = jnp.arange(16.0).reshape(8, 2)
    of = lambda kernels: jax.jit(
        jax.value_and_grad(
            lambda params, x: jnp.sum(weights * kernels(params, x)), argnums=(0, 1)
        )
    )
    found, truth = of(sharded)(params, x1), of(all_blocks)(params, x1)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        tolerance = by_precision(float64=1e-11, float32=1e-4) * float(
            np.abs(other).max()
        )
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
