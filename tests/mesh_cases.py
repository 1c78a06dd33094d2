"""Meshes, networks and inputs that are tried on them."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType

from eqtangents import nn
from precision import DTYPE, by_precision


AXES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


def line(kind="auto"):
    return jax.make_mesh((4,), ("d",), axis_types=(AXES[kind],))


def square(kind="auto"):
    return jax.make_mesh((2, 2), ("a", "b"), axis_types=(AXES[kind],) * 2)


MESHES = {"line": line, "square": square}
over_meshes = pytest.mark.parametrize("kind", AXES)
over_shapes = pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())
over_rings = pytest.mark.parametrize("ring", [False, True], ids=["dealt", "ring"])


def conv(stride=1):
    return nn.Conv(4, 3, stride, padding="SAME")


def attention():
    return nn.GlobalSelfAttention(2, key_channels=2, value_channels=2, heads=2)


def connected(nonlinearity=nn.Relu):
    return nn.Sequential([nn.Linear(8), nonlinearity(), nn.Linear(1)])


NETWORKS = {
    "fully-connected": connected,
    "pooled": lambda: nn.Sequential([conv(), nn.Relu(), nn.GlobalAvgPool()]),
    "strided residual": lambda: nn.Sequential(
        [
            conv(),
            nn.Residual(nn.Sequential([conv(2), nn.Relu(), conv()]), conv(2)),
            nn.GlobalAvgPool(),
        ]
    ),
    "repeated": lambda: nn.Sequential(
        [
            nn.Flatten(),
            nn.Linear(2),
            nn.Repeat(nn.Sequential([nn.Tanh(), nn.Linear(2)]), 3),
        ]
    ),
    "attention": lambda: nn.Sequential(
        [conv(), nn.Relu(), attention(), nn.GlobalAvgPool()]
    ),
    "tanh": lambda: connected(nn.Tanh),
    "masked": lambda: nn.Sequential([conv(), nn.Relu(), nn.GlobalAvgPool()]),
    "positions": lambda: nn.Sequential([conv(), nn.Relu()]),
    "dropped out": lambda: nn.Sequential(
        [conv(), nn.Relu(), nn.Dropout(0.5), conv(), nn.Relu(), nn.GlobalAvgPool()]
    ),
}


def network(name):
    return NETWORKS[name]()


def inputs(name, n, seed=0):
    if name in ("fully-connected", "tanh"):
        return jr.normal(jr.key(seed), (n, 5), DTYPE)
    x = jr.normal(jr.key(seed), (n, 2, 6), DTYPE)
    if name != "masked":
        return x
    return nn.Masked(x, jnp.arange(6)[None] < 3 + jnp.arange(n)[:, None] % 4)


def assert_same(found, expected):
    """The same numbers, up to rounding: 1e-12 of the largest in double precision."""
    rtol = by_precision(float64=1e-12, float32=1e-6)
    leaves = map(jax.tree.leaves, (found, expected))
    for a, b in zip(*leaves, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())
