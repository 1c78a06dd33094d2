"""Kernels over the devices of a mesh, and of no examples at all."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import eqtangents as eqt
from eqtangents import nn
from eqtangents._budget import CPU, under
from mesh_cases import NETWORKS as ON_MESHES, assert_same, inputs, line, over_meshes
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


@pytest.mark.slow
@each
def test_shard_map_changes_nothing(name):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    rows, net, x = PartitionSpec("d"), network(name), images()
    part = lambda a, b: eqt.ntk(net, a, b)
    sharded = jax.jit(
        jax.shard_map(part, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows)
    )
    np.testing.assert_allclose(sharded(x, x[:2]), eqt.ntk(net, x, x[:2]), rtol=1e-5)


@pytest.mark.quick(4)
@each
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", ["d", None], ids=["split", "whole"])
@pytest.mark.parametrize("devices", [2, 1])
def test_examples_on_explicit_meshes(name, symmetric, axis, devices):
    """Split over them or not, in one tile or in several."""
    mesh = jax.make_mesh(
        *((devices,), ("d",), (AxisType.Explicit,)), devices=jax.devices()[:devices]
    )
    x, net = images(), network(name)
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec(axis)))
    others = () if symmetric else (x[:3],)
    expected = eqt.ntk(net, x, *others)
    for pairs in (1, 100):
        block = pairs * math.prod(x.shape[2:]) * x.dtype.itemsize
        with under(CPU._replace(block_bytes=block, table_bytes=block)):
            found = eqt.ntk(net, placed, *others)
        assert jax.typeof(found).sharding.spec[0] == axis
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-7)


@each
def test_no_examples(name):
    x, net = images(), network(name)
    assert eqt.ntk(net, x[:0]).shape == (0, 0)
    assert eqt.ntk(net, x[:0], x).shape == (0, 4)
    assert eqt.ntk(net, x, x[:0]).shape == (4, 0)
    assert eqt.ntk_diagonal(net, x[:0]).shape == (0,)


@pytest.mark.slow
@each
def test_diagonals(name):
    x, net = images(), network(name)
    kernels, own = eqt.kernel(net, x), eqt.kernel_diagonal(net, x)
    np.testing.assert_allclose(own.nngp, jnp.diagonal(kernels.nngp), rtol=1e-5)
    np.testing.assert_allclose(own.ntk, jnp.diagonal(kernels.ntk), rtol=1e-5)
    # Programs of one kernel and of both round differently, in the last digits.
    rounding = 16 * float(jnp.finfo(x.dtype).eps)
    np.testing.assert_allclose(eqt.nngp_diagonal(net, x), own.nngp, rtol=rounding)
    np.testing.assert_allclose(eqt.ntk_diagonal(net, x), own.ntk, rtol=rounding)


over_checks = pytest.mark.parametrize("check_vma", [True, False], ids=["vma", "plain"])
SPLIT, WHOLE = PartitionSpec("d"), PartitionSpec()
# The kinds of network whose derivatives are taken inside of `jax.shard_map`.
SCANNED = [
    "fully-connected",
    "pooled",
    "strided residual",
    "repeated",
    "attention",
    "tanh",
    "masked",
]


def conv_of_one(channels, **std):
    return nn.Conv(channels, 1, **std)


def on_mesh(mesh, spec, x):
    return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, spec)), x)


def by_rows(function, mesh, check_vma, *specs, out=SPLIT):
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=specs, out_specs=out, check_vma=check_vma
    )
    return jax.jit(mapped)


@pytest.mark.slow
@over_meshes
@over_checks
@pytest.mark.parametrize("name", ON_MESHES)
def test_values_inside_shard_map(name, check_vma, kind):
    net, x, mesh = ON_MESHES[name](), inputs(name, 8), line(kind)
    others = jax.tree.map(lambda a: a[:3], x)
    split, whole = on_mesh(mesh, SPLIT, x), on_mesh(mesh, WHOLE, others)
    pairs = by_rows(lambda a, b: eqt.ntk(net, a, b), mesh, check_vma, SPLIT, WHOLE)
    assert_same(pairs(split, whole), eqt.ntk(net, x, others))
    own = by_rows(lambda a: eqt.nngp(net, a), mesh, check_vma, SPLIT)(split)
    two = jax.tree.map(lambda a: a[:2], x)
    assert_same(np.asarray(own)[:2], eqt.nngp(net, two))
    diagonal = by_rows(lambda a: eqt.ntk_diagonal(net, a), mesh, check_vma, SPLIT)
    assert_same(diagonal(split), eqt.ntk_diagonal(net, x))
    none = lambda a, b: eqt.ntk(net, jax.tree.map(lambda a: a[:0], a), b)
    empty = by_rows(none, mesh, check_vma, SPLIT, WHOLE)(split, whole)
    assert jax.tree.leaves(empty)[0].shape[:2] == (0, 3)


@pytest.mark.slow
@over_meshes
@over_checks
@pytest.mark.parametrize("name", SCANNED)
def test_gradients_through_shard_map(name, check_vma, kind):
    """In inputs that are split, in others that are not, and in a hyperparameter."""
    mesh, x = line(kind), inputs(name, 8)
    few = jax.tree.map(lambda a: a[:3], x)
    first = nn.Linear if isinstance(x, jax.Array) and x.ndim == 2 else conv_of_one

    def ntk(std, a, b):
        net = nn.Sequential([first(8, weight_std=std), ON_MESHES[name]()])
        return eqt.ntk(net, a, b)

    mapped = by_rows(ntk, mesh, check_vma, WHOLE, SPLIT, WHOLE)
    slopes = lambda f, *at: eqx.filter_grad(lambda a: jnp.sum(jnp.sin(f(*a))))(at)
    std = jnp.asarray(1.2, DTYPE)
    at = on_mesh(mesh, WHOLE, std), on_mesh(mesh, SPLIT, x), on_mesh(mesh, WHOLE, few)
    with jax.set_mesh(mesh):
        found = jax.jit(lambda *at: slopes(mapped, *at))(*at)
    assert_same(found, slopes(ntk, std, x, few))


@pytest.mark.precision("float64")
def test_functions_are_evaluated_while_gradients_on_a_mesh_are_traced():
    mesh, x = line("auto"), inputs("tanh", 8)

    def rows(std, a):
        own = nn.Elementwise(lambda x: jnp.full_like(x, 1.1) * jnp.tanh(x))  # a new one
        return eqt.ntk(
            nn.Sequential([nn.Linear(8, weight_std=std), own, nn.Linear(8)]), a
        )

    def slope(f, std, a):
        return jax.grad(lambda std: jnp.sum(jnp.sin(f(std, a))))(std)

    std = jnp.asarray(1.2, DTYPE)
    mapped = by_rows(rows, mesh, True, WHOLE, WHOLE, out=WHOLE)
    with jax.set_mesh(mesh):
        at = on_mesh(mesh, WHOLE, (std, x))
        found = jax.jit(lambda *at: slope(mapped, *at))(*at)
    assert_same(found, slope(rows, std, x))


@pytest.mark.quick(1)
@over_meshes
def test_a_network_is_an_argument_inside_filter_jit_and_vmap(kind):
    mesh, x = line(kind), inputs("tanh", 8)
    net = nn.Sequential([nn.Linear(8, weight_std=jnp.asarray(1.2, DTYPE)), nn.Relu()])
    arrays, rest = eqx.partition(net, eqx.is_array)

    def rows(arrays, a, b):
        one = lambda x: eqt.ntk(eqx.combine(arrays, rest), x[None], b)[0]
        return jax.vmap(one)(a)

    mapped = jax.shard_map(
        rows, mesh=mesh, in_specs=(WHOLE, SPLIT, WHOLE), out_specs=SPLIT
    )
    places = zip((arrays, x, x[:3]), (WHOLE, SPLIT, WHOLE), strict=True)
    found = eqx.filter_jit(mapped)(*(on_mesh(mesh, spec, a) for a, spec in places))
    assert_same(found, eqt.ntk(net, x, x[:3]))
