"""Derivatives of dual activations: by differences, and where inputs coincide."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents.duals import AbstractDual
from eqtangents.testing._expectations import single_expectation
from eqtangents.testing._gaussian_pairs import (
    GaussianPairs,
    Traits,
    agree,
    diagonal_of,
    root_norms,
)


# Differences need some room on either side.
_INNER_CORRELATIONS = (-0.9, -0.4, 0.0, 0.7, 0.95)
_STEP = 1e-5  # of first differences, relative to each of the three
_FIRST, _SECOND = 1e-6, 1e-4  # errors of differences, for derivatives of either order
_STEP_AT_ZERO = 1e-4  # of means in their variance, relative to it


def _orders(dual: AbstractDual, pairs: GaussianPairs) -> list[np.ndarray]:
    """Both expectations `(2, n)`, gradients `(3, 2, n)`, and Hessians `(3, 3, 2, n)`.

    All are functions of each pair alone, so that one derivative along ones finds the
    derivatives of all pairs.
    """

    def both(m: Float[Array, "3 n"]) -> Float[Array, "2 n"]:
        return jnp.stack(dual(*m))

    def gradient(m: Float[Array, "3 n"]) -> Float[Array, "3 2 n"]:
        _, pull = jax.vjp(both, m)
        ones = jnp.ones_like(m[0])
        basis = jnp.eye(2)[:, :, None] * ones
        (gradients,) = jax.vmap(pull)(basis)
        return gradients.swapaxes(0, 1)

    def orders(m: Float[Array, "3 n"]) -> tuple[Array, Array, Array]:
        basis = jnp.eye(3)[:, :, None] * jnp.ones_like(m[0])
        second = jax.vmap(lambda t: jax.jvp(gradient, (m,), (t,))[1])(basis)
        return both(m), gradient(m), second

    return [np.asarray(a) for a in jax.jit(orders)(jnp.asarray(np.stack(pairs)))]


def check_derivatives(
    dual: AbstractDual, variances: Sequence[float], shape: Traits, rtol: float
) -> None:
    """All derivatives, of inner pairs and of those at the bounds, compiled at once."""
    inner = GaussianPairs.of(variances, _INNER_CORRELATIONS)
    steps = _STEP * np.stack([np.sqrt(inner.var1 * inner.var2), *inner[1:]])
    moved = [
        np.stack(inner) + sign * np.where(np.arange(3)[:, None] == i, steps, 0)
        for i in range(3)
        for sign in (1, -1)
    ]
    v = np.asarray(variances, float)
    zero = np.zeros_like(v)
    # Equal inputs, opposite ones, and one or both that are zero.
    bounds = [
        np.stack(bound)
        for bound in ((v, v, v), (-v, v, v), (zero, zero, v), (zero, v, zero))
    ]
    bounds.append(np.zeros((3, 1)))
    n = inner.cov.size
    everything = GaussianPairs(*np.concatenate([np.stack(inner), *moved, *bounds], -1))
    orders = _orders(dual, everything)
    middle, around, edge = (
        [order[..., part] for order in orders]
        for part in (slice(0, n), slice(n, 7 * n), slice(7 * n, None))
    )
    _check_by_differences(dual, inner, steps, middle, around)
    edges = GaussianPairs(*(axis[7 * n :] for axis in everything))
    _check_derivatives_are_finite(edges, edge)
    at_zero = slice(2 * v.size, None)
    zeros = GaussianPairs(*(axis[at_zero] for axis in edges))
    _check_at_zero(zeros, edge[1][:, 0, at_zero], shape, rtol)
    if not shape.jumps:
        # At zero inputs a derivative in the covariance may depend on the direction.
        some = slice(0, 2 * v.size)
        bounded = GaussianPairs(*(axis[some] for axis in edges))
        at_bounds = [order[..., some] for order in edge]
        for pairs, (values, gradients, _) in ((inner, middle), (bounded, at_bounds)):
            law = "The derivative of E f(u) f(v) in cov, as E f'(u) f'(v)"
            size = np.maximum(np.abs(values[1]).max(), 1e-30)
            agree(law, pairs, gradients[0, 0], values[1], size, max(100 * rtol, 1e-6))
        _check_along_equal_inputs(dual, v, [a[..., : v.size] for a in edge], shape)


def _check_by_differences(
    dual: AbstractDual,
    pairs: GaussianPairs,
    steps: Float[np.ndarray, "3 n"],
    middle: list[np.ndarray],
    around: list[np.ndarray],
) -> None:
    """Gradients by differences of values, and Hessians by differences of gradients."""
    scales = root_norms(dual, pairs)
    names = "cov", "var1", "var2"
    for order, rtol in ((1, _FIRST), (2, _SECOND)):
        # (..., i above, i below, ...) -> (..., i, side, pair)
        below_order = around[order - 1]
        sides = below_order.reshape(*below_order.shape[:-1], 3, 2, -1)
        differences = (sides[..., 0, :] - sides[..., 1, :]) / (2 * steps)
        for i, name in enumerate(names):
            derivative, difference = middle[order][i], differences[..., i, :]
            # Relative to the function, by the sizes of what it is differentiated in.
            unit = steps[i] / _STEP
            if order == 2:
                unit = unit * (steps / _STEP)[:, None]
            size = np.maximum(scales, np.abs(middle[0])) / unit
            ordinal = "derivative" if order == 1 else "second derivative"
            law = f"A {ordinal} in {name}, as by finite differences"
            agree(law, pairs, derivative, difference, size, rtol)


def _check_derivatives_are_finite(
    pairs: GaussianPairs, orders: list[np.ndarray]
) -> None:
    names = "An expectation", "A derivative", "A second derivative"
    for name, order in zip(names, orders, strict=True):
        bad = np.argwhere(~np.isfinite(order))
        if not bad.size:
            continue
        cov, var1, var2 = (float(axis[bad[0][-1]]) for axis in pairs)
        raise AssertionError(
            f"{name} is {order[tuple(bad[0])]} at cov = {cov:.6g}, var1 = {var1:.6g}, "
            f"var2 = {var2:.6g}. Roots and quotients need finite derivatives where "
            "inputs are equal, opposite or zero: see `safe_sqrt` and `reciprocal`."
        )


def _check_at_zero(
    pairs: GaussianPairs,
    gradients: Float[np.ndarray, "3 n"],
    shape: Traits,
    rtol: float,
) -> None:
    """Derivatives of `E f(u) f(v)` where one input or both are zero.

    In the covariance it is `f'(0) E f'(v)`. In the variance of the other input it is
    the derivative of `E f(v)`, times `f(0)`.
    """
    function = shape.function
    bent = shape.kinks and (np.abs(np.asarray(shape.breaks)) < 1e-6).any()
    if function is None or bent:
        return

    def means(v: float) -> tuple[float, float, float]:
        """`E f(v)`, `E f'(v)`, and the derivative of the first in the variance."""
        if not v:
            value, slope = function(np.zeros(1))
            return float(value[0]), float(slope[0]), 0.0
        at = lambda v: single_expectation(function, np.sqrt(v), shape.breaks)
        change = at(v * (1 + _STEP_AT_ZERO))[0] - at(v * (1 - _STEP_AT_ZERO))[0]
        value, slope = at(v)
        return float(value), float(slope), float(change) / (2 * _STEP_AT_ZERO * v)

    ends = [np.transpose([means(v) for v in axis]) for axis in pairs[1:]]
    (value1, slope1, change1), (value2, slope2, change2) = ends
    expected = np.stack([slope1 * slope2, change1 * value2, value1 * change2])
    size = np.maximum(np.abs(expected).max(), 1e-3)
    names = "cov", "var1", "var2"
    for i, name in enumerate(names):
        there = pairs[i] > 0 if i else np.ones(pairs.cov.shape, bool)
        law = f"The derivative of E f(u) f(v) in {name}, of an input of zero"
        some = GaussianPairs(*(axis[there] for axis in pairs))
        came, exact = gradients[i][there], expected[i][there]
        agree(law, some, came, exact, size, max(100 * rtol, 1e-6))


def _check_along_equal_inputs(
    dual: AbstractDual,
    v: Float[np.ndarray, " n"],
    orders: list[np.ndarray],
    shape: Traits,
) -> None:
    """As all three move together, the derivatives are the derivatives of `diagonal`.

    Along other directions a covariance would leave its bounds. Second derivatives exist
    for functions without kinks.
    """
    pairs = GaussianPairs(v, v, v)
    at = lambda scale: diagonal_of(dual, scale * v)
    size = np.maximum(np.abs(orders[0][0]), 1e-30)
    slope = (at(1 + _STEP) - at(1 - _STEP)) / (2 * _STEP * v)
    total = orders[1][:, 0].sum(0)
    law = "The derivative along equal inputs, as of `diagonal`"
    agree(law, pairs, total, slope, size / v, 10 * _FIRST)
    if not shape.kinks:
        h = 1e-3
        curvature = (at(1 + h) - 2 * at(1.0) + at(1 - h)) / (h * v) ** 2
        total = orders[2][:, :, 0].sum((0, 1))
        law = "The second derivative along equal inputs, as of `diagonal`"
        unit = np.maximum(size / v**2, np.abs(curvature))
        agree(law, pairs, total, curvature, unit, _SECOND)
