"""The laws of dual activations."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents.duals import AbstractDual, Moments, Pair, deviation
from eqtangents.duals._dual import in_terms, is_stack
from eqtangents.testing._dual_derivatives import check_derivatives
from eqtangents.testing._expectations import pair_expectations, single_expectation
from eqtangents.testing._gaussian_pairs import (
    EXPECTATIONS,
    GaussianPairs,
    Traits,
    agree,
    all_moments,
    diagonal_of,
    evaluate_dual,
    expectations,
    root_norms,
)


_CORRELATIONS = (-1.0, -0.6, 0.0, 0.3, 0.9, 0.99, 1.0)
_SINGLE_RTOL = 1e-3  # an error in single precision
# Two ways to one number; angles of nearly equal inputs have half of the digits.
_FEW_DIGITS = 1e-7


def check_dual(
    dual: AbstractDual,
    function: Callable | None,
    *,
    breaks: Sequence[float] = (0.0,),
    variances: Sequence[float] = (0.25, 1.0, 4.0),
    rtol: float = 1e-6,
) -> None:
    r"""Raise unless a dual activation obeys its laws, and is the dual of a function.

    In double precision, whatever JAX's default is:

    - $\mathbb{E} f(u) f(v)$ and $\mathbb{E} f'(u) f'(v)$ agree with a quadrature;
    - the second is the derivative of the first in the covariance, unless $f$ jumps;
    - `diagonal` is the first at equal inputs;
    - the two inputs may be swapped, and may have many positions (`prepare`);
    - gradients and second derivatives agree with finite differences. At equal,
      opposite and zero inputs they are finite, and at equal inputs they are right where
      they exist; so are those of the pair of a zero input and another one;
    - a gap that is passed on is right, and so is `homogeneous`;
    - for inputs in single precision, results are of that type and nearly the same.

    **Arguments:**

    - `dual`: the dual activation.
    - `function`: the nonlinearity $f$, elementwise and of functions of JAX; `None` if
        there is none, or it is not known. Then the laws that need it are left out.
    - `breaks`: all points where $f$ or its slope jumps.
    - `variances`: the variances to try, each above zero.
    - `rtol`: the error that is allowed in the expectations, relative to the root of
        the product of $\mathbb{E} f(u)^2$ and $\mathbb{E} f(v)^2$.

    **Raises:** `AssertionError`, which says what is off, where, and by how much.

    **Cost:** a few seconds, most of it to compile derivatives.
    """
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        shape = Traits.of(function, breaks)
        _check_shapes_of_dual(dual)
        pairs = GaussianPairs.of(variances, _CORRELATIONS)
        values = expectations(dual, pairs)
        scales = root_norms(dual, pairs)
        if shape.function is not None:
            _check_expectations(shape, pairs, values, scales, rtol)
            _check_zero_inputs(dual, shape, variances, rtol)
            _check_homogeneous(dual, shape)
        _check_equal_inputs(dual, variances, rtol)
        _check_swapped(dual, pairs, values, scales)
        _check_positions(dual, variances, scales.max())
        _check_gap(dual, variances, rtol)
        _check_single_precision(dual, pairs, values, scales)
        check_derivatives(dual, variances, shape, rtol)


def _check_shapes_of_dual(dual: AbstractDual) -> None:
    variance = jnp.asarray([[0.5, 1.0, 2.0], [1.5, 0.1, 3.0]])
    for leaf in jax.tree.leaves(dual.prepare(variance), is_leaf=is_stack):
        shape = leaf.array.shape if is_stack(leaf) else jnp.shape(leaf)
        fits = shape[1:] if is_stack(leaf) else shape
        needed = "(terms, 2, 3)" if is_stack(leaf) else "(2, 3)"
        assert fits == variance.shape, (
            f"`prepare` makes an array of shape {shape} of variances of shape (2, 3), "
            f"but should make one of shape {needed}. Many numbers for each variance "
            "are one `Stacked` array, with their axis before the axis of examples."
        )
    zeros = [jnp.zeros(size) for size in ((2, 3, 2), (2, 2), (3, 2))]
    moments, _ = eqx.filter_eval_shape(_block_of_pairs, dual, *zeros)
    for name, block in zip(EXPECTATIONS, moments[:2], strict=True):
        assert jnp.shape(block) == (2, 3, 2), (
            f"{name} of covariances of shape (2, 3, 2) has shape {jnp.shape(block)}, "
            "but should have the same. `left` and `right` broadcast against "
            "`pair.cov`; make the result as large as that, by "
            "`jnp.full_like(pair.cov, ...)` say."
        )


def _check_expectations(
    shape: Traits,
    pairs: GaussianPairs,
    values: Float[np.ndarray, "2 n"],
    scales: Float[np.ndarray, "2 n"],
    rtol: float,
) -> None:
    assert shape.function is not None
    seen: dict[tuple, tuple[float, float]] = {}
    for cov, *both in zip(*pairs, strict=True):
        low, high = np.sqrt(sorted(both))
        key = cov, low, high
        if key not in seen:
            correlation = float(np.clip(cov / (low * high), -1, 1))
            seen[key] = pair_expectations(
                shape.function, low, high, correlation, shape.breaks
            )
    exact = [
        seen[(cov, *np.sqrt(sorted(both)))] for cov, *both in zip(*pairs, strict=True)
    ]
    for name, came, expected, scale in zip(
        EXPECTATIONS, values, np.transpose(exact), scales, strict=True
    ):
        size = np.maximum(scale, np.abs(expected))
        agree(f"{name}, by quadrature", pairs, came, expected, size, rtol)


def _check_zero_inputs(
    dual: AbstractDual, shape: Traits, variances: Sequence[float], rtol: float
) -> None:
    """An input of zero is no random variable: its expectations are products."""
    function = shape.function
    assert function is not None
    near = (np.abs(np.asarray(shape.breaks)) < 1e-6).any()
    if near and shape.jumps:
        return
    stds = np.sqrt(np.asarray(variances, float))
    means = [single_expectation(function, std, shape.breaks) for std in stds]
    at_zero = np.stack(function(np.zeros(1)))
    means = np.column_stack([at_zero, np.transpose(means)])
    var2 = np.asarray([0.0, *variances], float)
    pairs = GaussianPairs(np.zeros_like(var2), np.zeros_like(var2), var2)
    values, size = expectations(dual, pairs), np.maximum(np.abs(means).max(), 1e-3) ** 2
    laws = ["f(0) E f(v)"] if near and shape.kinks else ["f(0) E f(v)", "f'(0) E f'(v)"]
    for i, law in enumerate(laws):
        expected = at_zero[i] * means[i]
        agree(f"{law}, at zero", pairs, values[i], expected, size, rtol)
    diagonal = diagonal_of(dual, np.zeros(1))
    zero = GaussianPairs(*np.zeros((3, 1)))
    agree("`diagonal` at zero", zero, diagonal, at_zero[0] ** 2, size, rtol)


def _check_homogeneous(dual: AbstractDual, shape: Traits) -> None:
    if not dual.homogeneous:
        return
    assert shape.function is not None
    x = np.linspace(-3, 3, 13)
    doubled, once = shape.function(2 * x)[0], shape.function(x)[0]
    worst = int(np.abs(doubled - 2 * once).argmax())
    assert np.allclose(doubled, 2 * once, rtol=1e-6, atol=1e-12), (
        f"`homogeneous` is true, but f(2 x) = {doubled[worst]:.6g} and 2 f(x) = "
        f"{2 * once[worst]:.6g} at x = {x[worst]:.3g}."
    )


def _check_equal_inputs(
    dual: AbstractDual, variances: Sequence[float], rtol: float
) -> None:
    v = np.asarray([0.0, *variances], float)
    pairs = GaussianPairs(v, v, v)
    value, _, diagonal = all_moments(dual, pairs)
    size = np.maximum(np.abs(value), np.abs(value[1:]).max() * 1e-3)
    agree("`diagonal`, as E f(u) f(v) with u = v", pairs, diagonal, value, size, rtol)


def _check_swapped(
    dual: AbstractDual,
    pairs: GaussianPairs,
    values: Float[np.ndarray, "2 n"],
    scales: Float[np.ndarray, "2 n"],
) -> None:
    swapped = expectations(dual, GaussianPairs(pairs.cov, pairs.var2, pairs.var1))
    for name, came, expected, scale in zip(
        EXPECTATIONS, swapped, values, scales, strict=True
    ):
        size = np.maximum(scale, np.abs(expected))
        agree(f"{name} with u and v swapped", pairs, came, expected, size, _FEW_DIGITS)


@eqx.filter_jit
def _block_of_pairs(
    dual: AbstractDual,
    cov: Float[Array, "n1 n2 size"],
    var1: Float[Array, "n1 size"],
    var2: Float[Array, "n2 size"],
) -> tuple[Moments, Float[Array, "..."]]:
    left, right = (in_terms(dual.prepare(v)) for v in (var1, var2))
    left = jax.tree.map(lambda leaf: leaf[:, None], left)
    right = jax.tree.map(lambda leaf: leaf[None], right)
    return dual.moments(Pair(cov), left, right), dual.diagonal(var1)


def _check_positions(
    dual: AbstractDual, variances: Sequence[float], size: float
) -> None:
    """Blocks of kernels: examples along two axes, and positions along a third."""
    var1 = np.resize(np.asarray(variances, float), (2, 2))
    var2 = np.resize(np.asarray(variances, float)[::-1], (3, 2))
    cov = 0.4 * np.sqrt(var1[:, None] * var2[None])
    came, diagonal = _block_of_pairs(dual, *map(jnp.asarray, (cov, var1, var2)))
    flat = GaussianPairs(
        *(
            np.broadcast_to(a, cov.shape).ravel()
            for a in (cov, var1[:, None], var2[None])
        )
    )
    for name, block, expected in zip(
        EXPECTATIONS, came[:2], expectations(dual, flat), strict=True
    ):
        law = f"{name} in blocks with positions, as pair by pair"
        agree(law, flat, jnp.ravel(block), expected, size, _FEW_DIGITS)
    v = var1.ravel()
    expected = diagonal_of(dual, v)
    law = "`diagonal` with positions"
    agree(law, GaussianPairs(v, v, v), jnp.ravel(diagonal), expected, size, _FEW_DIGITS)


@eqx.filter_jit
def _gap(
    dual: AbstractDual,
    cov: Float[Array, " n"],
    var1: Float[Array, " n"],
    var2: Float[Array, " n"],
) -> Float[Array, " n"] | None:
    """The gap of both images by way of the gap of a pair, if the dual tells it."""
    gap = deviation(var1).std * deviation(var2).std - cov
    left, right = (in_terms(dual.prepare(v)) for v in (var1, var2))
    moments = dual.moments(Pair(cov, gap), left, right)
    return moments.gap_between(*(jnp.sqrt(dual.diagonal(v)) for v in (var1, var2)))


def _check_gap(dual: AbstractDual, variances: Sequence[float], rtol: float) -> None:
    """What a dual says of nearly equal inputs is what subtracting says of others."""
    pairs = GaussianPairs.of(variances, (0.3, 0.9))
    came = _gap(dual, *map(jnp.asarray, pairs))
    if came is None:
        return
    left, right = (np.sqrt(diagonal_of(dual, v)) for v in pairs[1:])
    expected = np.maximum(left * right - expectations(dual, pairs)[0], 0)
    law = "`gap` or `distance`, as the gap of E f(u) f(v)"
    agree(law, pairs, came, expected, left * right, max(rtol, 1e-9))


def _check_single_precision(
    dual: AbstractDual,
    pairs: GaussianPairs,
    values: Float[np.ndarray, "2 n"],
    scales: Float[np.ndarray, "2 n"],
) -> None:
    single = evaluate_dual(dual, jnp.asarray(np.stack(pairs), jnp.float32))[:2]
    for name, came, expected, scale in zip(
        EXPECTATIONS, single, values, scales, strict=True
    ):
        assert came.dtype == jnp.float32, (
            f"{name} is {came.dtype} for covariances of float32. Constants that are "
            "arrays enter by `constants(pair.cov, self.a)`, in the type of the inputs."
        )
        size = np.maximum(scale, np.abs(expected))
        agree(f"{name} in single precision", pairs, came, expected, size, _SINGLE_RTOL)
