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


_MOMENT_NAMES = "cov", "var1", "var2"
# Differences need some room on either side.
_INNER_CORRELATIONS = (-0.9, -0.4, 0.0, 0.7, 0.95)
_STEP = 1e-5  # of first differences, relative to each of the three
_FIRST, _SECOND = 1e-6, 1e-4  # errors of differences, for derivatives of either order
_BESIDE = 1e-7  # inputs on either side of zero
_STEP_AT_ZERO = 1e-4  # of means in their variance, relative to it
# Small variances, relative to others, at which derivatives are close to those at zero.
_SMALL_VARIANCES = 1e-4, 4e-4, 16e-4
_LIMIT = 1e-3  # an error of derivatives at zero, beside such a limit


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
    # Equal inputs, opposite ones, one or both that are zero, and one that is nearly so.
    bounds = [np.stack(bound) for bound in ((v, v, v), (-v, v, v), (zero, zero, v))]
    bounds += [np.stack((zero, v, zero)), np.zeros((3, 1))]
    near = [np.stack((zero, h * np.ones_like(v), v)) for h in _SMALL_VARIANCES]
    n = inner.cov.size
    ends = np.cumsum([n, 6 * n, 4 * v.size + 1])
    all_of = np.concatenate([np.stack(inner), *moved, *bounds, *near], -1)
    orders = _orders(dual, GaussianPairs(*all_of))
    middle, around, edge, small = (
        list(parts)
        for parts in zip(*(np.split(o, ends, -1) for o in orders), strict=True)
    )
    _check_by_differences(dual, inner, steps, middle, around)
    edges = GaussianPairs(*(np.split(axis, ends)[2] for axis in all_of))
    _check_derivatives_are_finite(edges, edge)
    at_zero = slice(2 * v.size, None)
    zeros = GaussianPairs(*(axis[at_zero] for axis in edges))
    if shape.function is not None and not shape.bent_at_zero:
        _check_at_zero(zeros, edge[1][:, 0, at_zero], shape, rtol)
        _check_limits_at_zero(GaussianPairs(zero, zero, v), edge[1:], small[1:])
        _check_diagonal_at_zero(dual, [order[..., -1:] for order in edge])
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
    for order, rtol in ((1, _FIRST), (2, _SECOND)):
        # (..., i above, i below, ...) -> (..., i, side, pair)
        below_order = around[order - 1]
        sides = below_order.reshape(*below_order.shape[:-1], 3, 2, -1)
        differences = (sides[..., 0, :] - sides[..., 1, :]) / (2 * steps)
        for i, name in enumerate(_MOMENT_NAMES):
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

    In the covariance it is `f'(0) E f'(v)`, with jumps of `f` in its derivative:
    `E f'(v)` is `E v f(v)` over the variance. In the variance of the other input it is
    the derivative of `E f(v)`, times `f(0)`, and in that of zero `f''(0) E f(v) / 2`.
    """
    function = shape.function
    assert function is not None

    def with_product(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, _ = function(x)
        return value, x * value

    def means(v: float) -> tuple[float, float, float]:
        """`E f`, `E f'`, and the derivative of the first in the variance, `v`."""
        if not v:
            value, slope = function(np.array([0.0, _BESIDE, -_BESIDE]))
            change = (slope[1] - slope[2]) / (4 * _BESIDE)
            return float(value[0]), float(slope[0]), float(change)
        at = lambda v: single_expectation(with_product, np.sqrt(v), shape.breaks)
        change = at(v * (1 + _STEP_AT_ZERO))[0] - at(v * (1 - _STEP_AT_ZERO))[0]
        value, product = at(v)
        return float(value), float(product / v), float(change) / (2 * _STEP_AT_ZERO * v)

    ends = [np.transpose([means(v) for v in axis]) for axis in pairs[1:]]
    (value1, slope1, change1), (value2, slope2, change2) = ends
    expected = np.stack([slope1 * slope2, change1 * value2, value1 * change2])
    size = np.maximum(np.abs(expected).max(), 1e-3)
    for name, came, exact in zip(_MOMENT_NAMES, gradients, expected, strict=True):
        law = f"The derivative of E f(u) f(v) in {name}, of an input of zero"
        agree(law, pairs, came, exact, size, max(100 * rtol, 1e-6))


def _check_limits_at_zero(
    pairs: GaussianPairs, edge: list[np.ndarray], small: list[np.ndarray]
) -> None:
    """Derivatives where one input is zero are limits of those where it is small."""
    n = pairs.cov.size
    ordinals = "derivatives", "second derivatives"
    for ordinal, bounds, near in zip(ordinals, edge, small, strict=True):
        came = bounds[..., 2 * n : 3 * n]
        limit, exists = _limit(np.split(near, len(_SMALL_VARIANCES), -1))
        law = f"The {ordinal} where an input is zero, as where it is nearly zero"
        equal = np.abs(bounds[..., :n]).max()
        size = max(np.abs(limit)[exists].max(initial=0), 1e-2 * equal)
        agree(law, pairs, np.where(exists, came, limit), limit, size, _LIMIT)


def _check_diagonal_at_zero(dual: AbstractDual, edge: list[np.ndarray]) -> None:
    """The slope of `diagonal` at zero is that along equal inputs."""
    _, slope = jax.jvp(dual.diagonal, (jnp.zeros(1),), (jnp.ones(1),))
    total = edge[1][:, 0].sum(0)
    size = np.maximum(np.abs(total), np.abs(edge[0]).max() + 1e-3)
    zero = GaussianPairs(*np.zeros((3, 1)))
    agree("The slope of `diagonal` at zero", zero, slope, total, size, _LIMIT)


def _limit(near: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The limit of numbers that change linearly at last, and whether they do."""
    first, second = np.diff(near, axis=0)
    same = np.abs(second) < 1e-7 * (np.abs(near[0]) + 1e-3)
    exists = (np.abs(second) > 3 * np.abs(first)) | same
    return near[0] - first / 3, exists


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
