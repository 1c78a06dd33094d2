"""What type checkers see of networks of finite width: read by them, never run."""

from collections.abc import Iterator
from typing import assert_type

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

import eqtangents as eqt
from eqtangents import nn


x, key = jnp.ones((4, 3)), jax.random.key(0)
net = nn.Sequential([nn.Linear(8), nn.Relu(), nn.Linear(1)])
mlp = eqx.nn.MLP(3, 1, 8, 1, key=key)


def f(p: Array, x: Array) -> Array:
    return p @ x


assert_type(eqt.empirical_ntk(mlp, x), Array)
assert_type(eqt.empirical_ntk(f, x, None, x, trainable=eqx.is_array), Array)
assert_type(eqt.empirical_nngp(mlp, x, x, trace_axes=()), Array)
assert_type(eqt.empirical_kernel(mlp, x), eqt.Kernel)
assert_type(eqt.empirical_kernel(mlp, x).ntk, Array)
assert_type(eqt.empirical_ntk_by_leaf(mlp, x), eqx.nn.MLP)
assert_type(eqt.empirical_ntk_by_leaf(f, x, None, {"w": x}), dict[str, Array])
assert_type(eqt.explain_empirical_ntk(mlp, x), eqt.Explanation)
assert_type(eqt.NTKOperator(mlp, x).as_matrix(), Array)

both = eqt.monte_carlo(net, x, None, key, 4)
assert_type(both, eqt.Estimate[eqt.Kernel])
assert_type(both.mean, eqt.Kernel)
assert_type(eqt.monte_carlo(net, x, None, key, 4, kernels="nngp").mean, Array)
running = eqt.running_monte_carlo(net, x, None, key, [4], kernels="ntk")
assert_type(running, Iterator[eqt.Estimate[Array]])
assert_type(eqt.estimate_trace(eqt.NTKOperator(mlp, x), key, 4).mean, Array)

assert_type(eqt.linearize(mlp), eqt.TaylorModel[eqx.nn.MLP])
assert_type(eqt.linearize(mlp).model, eqx.nn.MLP)
assert_type(eqt.taylorize(mlp, 2)(x[0]), Array)
assert_type(eqt.linearize(f, x), eqt.TaylorFunction)
assert_type(eqt.taylorize(f, 2, x)(x, x[0]), Array)

# Mistakes, each of which is found.
eqt.empirical_ntk(mlp, [1.0, 2.0])
eqt.empirical_ntk(mlp, x, trace_axis=(0,))
eqt.monte_carlo(net, x, None, key, 4, kernels="ntks")
wrong = eqt.linearize(f, x).model
eqt.linearize(3)
