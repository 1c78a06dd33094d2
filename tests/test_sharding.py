"""Kernels over the devices of a mesh, and of no examples at all."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import eqtangents as eqt
from eqtangents import nn
from precision import DTYPE


def block():
    return [nn.Conv(4, 3, padding="SAME"), nn.Relu()]


NETWORKS = {
    "pooled": lambda: [*block(), nn.GlobalAvgPool(), nn.Linear(1)],
    "flattened": lambda: [*block(), nn.Flatten(), nn.Linear(1)],
    "average pooling": lambda: [
        *block(),
        nn.AvgPool(2, 2),
        *block(),
        nn.GlobalAvgPool(),
    ],
    "repeated": lambda: [
        nn.Flatten(),
        nn.Linear(2),
        nn.Repeat(nn.Sequential([nn.Tanh(), nn.Linear(2)]), 3),
    ],
}
each = pytest.mark.parametrize("name", NETWORKS)


def network(name):
    return nn.Sequential(NETWORKS[name]())


def images(n=4):
    return jr.normal(jr.key(0), (n, 2, 6), DTYPE)


@pytest.mark.quick(2)
@each
def test_shard_map_changes_nothing(name):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    rows, net, x = PartitionSpec("d"), network(name), images()
    part = lambda a, b: eqt.ntk(net, a, b)
    sharded = jax.jit(
        jax.shard_map(part, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows)
    )
    np.testing.assert_allclose(sharded(x, x[:2]), eqt.ntk(net, x, x[:2]), rtol=1e-5)


@pytest.mark.quick(2)
@each
@pytest.mark.parametrize("symmetric", [True, False])
def test_examples_on_explicit_meshes(name, symmetric):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
    x, net = images(), network(name)
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("d")))
    others = () if symmetric else (x[:3],)
    found = eqt.ntk(net, split, *others)
    assert jax.typeof(found).sharding.spec[0] == "d"
    expected = eqt.ntk(net, x, *others)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-7)


@each
def test_no_examples(name):
    x, net = images(), network(name)
    assert eqt.ntk(net, x[:0]).shape == (0, 0)
    assert eqt.ntk(net, x[:0], x).shape == (0, 4)
    assert eqt.ntk(net, x, x[:0]).shape == (4, 0)
    assert eqt.ntk_diagonal(net, x[:0]).shape == (0,)


@pytest.mark.quick(1)
@each
def test_diagonals(name):
    x, net = images(), network(name)
    kernels, own = eqt.kernel(net, x), eqt.kernel_diagonal(net, x)
    np.testing.assert_allclose(own.nngp, jnp.diagonal(kernels.nngp), rtol=1e-5)
    np.testing.assert_allclose(own.ntk, jnp.diagonal(kernels.ntk), rtol=1e-5)
    np.testing.assert_array_equal(eqt.nngp_diagonal(net, x), own.nngp)
    np.testing.assert_array_equal(eqt.ntk_diagonal(net, x), own.ntk)
