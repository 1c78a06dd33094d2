"""Normalisation layers, recognised by their values."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from eqtangents import nn
from eqtangents._jaxpr import bind, dtype_of
from eqtangents._traced._expressions import Expression, Hole, value_of_expression
from eqtangents._traced._layout import Layout, output_array, shown_array
from eqtangents._traced._numpy import in_numpy
from eqtangents._traced._values import as_number


# Inputs so large that no constant matters which is added to variances, and inputs of
# sizes of which one tells that constant.
_LARGE, _TEST_SCALES = 1e3, (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def recognised_normalisation(
    expression: Expression,
    holes: Mapping[Hole, Layout],
    layout: Layout,
    shape: tuple[int, ...],
) -> tuple[nn.AbstractLayer, float] | None:
    """The layer whose values an expression has on random inputs."""
    random = np.random.default_rng(0)
    x = random.normal(size=shape) * random.uniform(0.5, 2, size=shape) + 0.3

    def values_at(size: float) -> np.ndarray:
        given = {hole: shown_array(size * x, one) for hole, one in holes.items()}
        value = value_of_expression(expression, given, _in_double_precision)
        return output_array(np.asarray(value, float), layout)

    values = values_at(_LARGE)
    for layer, expected in _normalisations(x):
        ratio = values / np.where(expected == 0, 1, expected)
        factor = float(np.median(ratio))
        if not np.allclose(values, factor * expected, rtol=2e-3, atol=2e-3):
            continue
        eps = _added_to_variance(values_at, expected, factor, x, layer, expression)
        if eps is None:
            continue
        nice = 1.0 if math.isclose(factor, 1, rel_tol=1e-4) else factor
        return _with_eps(layer, eps), nice
    return None


def _normalisations(x: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    """Normalisations without a constant, and their values."""
    rank, channels = x.ndim - 1, x.shape[0]
    for count in range(rank + 1):
        for spatial in itertools.combinations(range(1, rank + 1), count):
            layer = nn.LayerNorm((0, *spatial))
            yield layer, (x - x.mean(layer.axes, keepdims=True)) / _divisor(layer, x)
    yield nn.RMSNorm(), x / _divisor(nn.RMSNorm(), x)
    for groups in range(2, channels + 1 if rank else channels):
        if channels % groups == 0:
            mean = x.reshape(groups, -1).mean(1).repeat(channels // groups)
            mean = mean.reshape(-1, *(1,) * rank)
            layer = nn.GroupNorm(groups)
            yield layer, (x - mean) / _divisor(layer, x)


def _in_double_precision(eqn: core.JaxprEqn, args: Sequence[Any]) -> Sequence[Any]:
    """An equation in NumPy, as far as that can be; else in JAX's own precision."""
    found = in_numpy(eqn, args)
    if found is not None:
        return found
    types = [dtype_of(atom) for atom in eqn.invars]
    with jax.ensure_compile_time_eval():
        cast = [jnp.asarray(a, t) for a, t in zip(args, types, strict=True)]
        return [np.asarray(one) for one in bind(eqn, *cast)]


def _added_to_variance(
    values_at: Callable[[float], np.ndarray],
    expected: np.ndarray,
    factor: float,
    x: np.ndarray,
    layer: Any,
    expression: Expression,
) -> float | None:
    """The constant that is added to variances; `None` if it is something else.

    The values are `factor * expected` times the root of `v / (v + eps)`, for the
    variance `v`.
    """
    variance = _divisor(layer, x) ** 2
    sure = np.abs(expected) > 0.1
    eps = 0.0
    for size in _TEST_SCALES:
        share = (values_at(size)[sure] / (factor * expected[sure])) ** 2
        v = size * size * variance[sure]
        if np.all(share < 0.9) and np.all(share > 0.02):
            found = v * (1 / share - 1)
            eps = float(np.median(found))
            if not np.allclose(found, eps, rtol=0.05):
                return None
            break
    near = [c for c in _small_numbers(expression) if math.isclose(c, eps, rel_tol=0.05)]
    return min(near, key=lambda c: abs(c - eps)) if near else eps


def _divisor(layer: Any, x: np.ndarray) -> np.ndarray:
    """What a normalisation divides by, but for the constant."""
    if isinstance(layer, nn.RMSNorm):
        variance = (x * x).mean(0, keepdims=True)
    elif isinstance(layer, nn.GroupNorm):
        each = x.reshape(layer.groups, -1).var(1).repeat(x.shape[0] // layer.groups)
        variance = each.reshape(-1, *(1,) * (x.ndim - 1))
    else:
        variance = x.var(layer.axes, keepdims=True)
    return np.broadcast_to(np.sqrt(variance), x.shape)


def _with_eps(layer: Any, eps: float) -> nn.AbstractLayer:
    if isinstance(layer, nn.LayerNorm):
        return nn.LayerNorm(layer.axes, eps=eps)
    if isinstance(layer, nn.GroupNorm):
        return nn.GroupNorm(layer.groups, eps=eps)
    return nn.RMSNorm(eps=eps)


def _small_numbers(expression: Any) -> list[float]:
    """The small numbers that an expression has, as they were written."""
    found: list[float] = []
    seen: set[int] = set()
    left = [expression]
    while left:
        node = left.pop()
        if isinstance(node, Expression):
            if id(node) not in seen and not isinstance(node, Hole):
                seen.add(id(node))
                left.extend(node.args)
            continue
        number = as_number(node)
        if number is not None and 0 < number < 1:
            found.append(float(f"{number:.6g}"))
    return found
