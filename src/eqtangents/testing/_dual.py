"""The laws of dual activations."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents.duals import AbstractDual, Moments, Pair, Stacked, deviation
from eqtangents.duals._dual import in_terms
from eqtangents.duals._sampled import SampledFunction
from eqtangents.testing._expectations import pair_expectations, single_expectation


_NAMES = "E f(u) f(v)", "E f'(u) f'(v)"
_CORRELATIONS = (-1.0, -0.6, 0.0, 0.3, 0.9, 0.99, 1.0)
# Derivatives are compared with differences, which need some room on either side.
_INNER__NAMES = "E f(u) f(v)", "E f'(u) f'(v)"
_CORRELATIONS = (-0.9, -0.4, 0.0, 0.7, 0.95)
_STEP = 1e-5  # of first differences, relative to each of the three
_FIRST, _SECOND = 1e-6, 1e-4  # errors of differences, for derivatives of either order
_SINGLE = 1e-3  # an error in single precision
_JUMP = 1e-5  # the size of a jump, relative to the function
_AT_ONCE = 64  # pairs of one evaluation: always as many, so that it compiles once


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

    - $\mathbb{E} f(u) f(v)$ and $\mathbb{E} f'(u) f'(v)$ are those by quadrature;
    - the second is the derivative of the first in the covariance, unless $f$ jumps;
    - `diagonal` is the first at equal inputs;
    - the two inputs may be swapped, and may have many positions (`prepare`);
    - gradients and second derivatives are those of finite differences. They are finite
      at equal, opposite and zero inputs, and right where they exist there;
    - a gap that is passed on is right, and so is `homogeneous`;
    - in single precision all is of that type and nearly the same.

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
        shape = _Shape.of(function, breaks)
        _check_shapes(dual)
        pairs = _Pairs.of(variances, _CORRELATIONS)
        values = _both(dual, pairs)
        scales = _scales(dual, pairs)
        if shape.function is not None:
            _check_expectations(shape, pairs, values, scales, rtol)
            _check_zero_inputs(dual, shape, variances, rtol)
            _check_homogeneous(dual, shape)
        _check_equal_inputs(dual, variances, rtol)
        _check_swapped(dual, pairs, values, scales)
        _check_positions(dual, variances, scales.max())
        _check_gap(dual, variances, rtol)
        _check_single_precision(dual, pairs, values, scales)
        _check_derivatives(dual, variances, shape, rtol)


class _Shape(NamedTuple):
    """A function, and whether it or its slope jumps anywhere."""

    function: SampledFunction | None
    breaks: tuple[float, ...]
    jumps: bool
    kinks: bool

    @classmethod
    def of(cls, function: Callable | None, breaks: Sequence[float]) -> "_Shape":
        """Look at a function on both sides of its breaks."""
        if function is None:
            return cls(None, (), jumps=False, kinks=True)
        sampled = SampledFunction(function)
        at = np.asarray(breaks, float)
        step = 1e-7 * (1 + np.abs(at))
        sizes = [np.abs(part).max() for part in sampled(np.linspace(-4.95, 5, 200))]
        jump, kink = (
            bool(np.any(np.abs(above - below) > _JUMP * size))
            for above, below, size in zip(
                sampled(at + step), sampled(at - step), sizes, strict=True
            )
        )
        return cls(sampled, tuple(breaks), jump, jump or kink)


class _Pairs(NamedTuple):
    """Covariances and variances, one of each for every pair."""

    cov: Float[np.ndarray, " n"]
    var1: Float[np.ndarray, " n"]
    var2: Float[np.ndarray, " n"]

    @classmethod
    def of(cls, variances: Sequence[float], correlations: Sequence[float]) -> "_Pairs":
        """Every variance with every other, at every correlation."""
        grid = np.meshgrid(variances, variances, correlations, indexing="ij")
        var1, var2, correlation = (a.ravel().astype(float) for a in grid)
        return cls(correlation * np.sqrt(var1 * var2), var1, var2)


def _agree(
    law: str,
    pairs: _Pairs,
    came: Array | np.ndarray,
    expected: Array | np.ndarray,
    scale: float | np.ndarray,
    rtol: float,
) -> None:
    """Raise unless numbers agree for all pairs, relative to some size."""
    came, expected, scale = np.broadcast_arrays(
        *(np.asarray(a, float) for a in (came, expected, scale))
    )
    with np.errstate(invalid="ignore"):
        error = np.abs(came - expected) / np.maximum(scale, 1e-30)
    error = np.where(np.isfinite(came) & np.isfinite(expected), error, np.inf)
    worst = np.unravel_index(int(error.argmax()), error.shape)
    if error[worst] <= rtol:
        return
    cov, var1, var2 = (float(a[worst[-1]]) for a in pairs)
    raise AssertionError(
        f"{law}: at cov = {cov:.6g}, var1 = {var1:.6g}, var2 = {var2:.6g} it is "
        f"{came[worst]:.9g}, but should be {expected[worst]:.9g}. It is off by "
        f"{error[worst]:.1e} of {scale[worst]:.3g}, where {rtol:.0e} is allowed."
    )


@eqx.filter_jit
def _compiled(dual: AbstractDual, m: Float[Array, "3 n"]) -> tuple[Array, Array, Array]:
    return *dual(*m), dual.diagonal(m[1])


def _evaluated(dual: AbstractDual, pairs: _Pairs) -> list[Float[np.ndarray, " n"]]:
    """Both expectations, and the diagonal for `var1`."""
    n = pairs.cov.size
    padded = np.stack([np.resize(a, -(-n // _AT_ONCE) * _AT_ONCE) for a in pairs])
    parts = [
        _compiled(dual, jnp.asarray(part))
        for part in np.split(padded, padded.shape[1] // _AT_ONCE, 1)
    ]
    return [np.concatenate(a)[:n].astype(float) for a in zip(*parts, strict=True)]


def _both(dual: AbstractDual, pairs: _Pairs) -> Float[np.ndarray, "2 n"]:
    return np.stack(_evaluated(dual, pairs)[:2])


def _diagonal(dual: AbstractDual, v: Float[np.ndarray, " n"]) -> np.ndarray:
    return _evaluated(dual, _Pairs(v, v, v))[2]


def _scales(dual: AbstractDual, pairs: _Pairs) -> Float[np.ndarray, "2 n"]:
    """The root of the product of both expectations at equal inputs, on either side."""
    left, right = (np.abs(_both(dual, _Pairs(v, v, v))) for v in pairs[1:])
    return np.sqrt(left * right)


def _check_shapes(dual: AbstractDual) -> None:
    variance = jnp.asarray([[0.5, 1.0, 2.0], [1.5, 0.1, 3.0]])
    is_stack = lambda leaf: isinstance(leaf, Stacked)
    for leaf in jax.tree.leaves(dual.prepare(variance), is_leaf=is_stack):
        shape = leaf.array.shape if is_stack(leaf) else jnp.shape(leaf)
        fits = shape[:1] + shape[2:] if is_stack(leaf) else shape
        needed = "(2, terms, 3)" if is_stack(leaf) else "(2, 3)"
        assert fits == variance.shape, (
            f"`prepare` makes an array of shape {shape} of variances of shape (2, 3), "
            f"but should make one of shape {needed}. Many numbers for each variance "
            "are one `Stacked` array, with their axis right after the axis of examples."
        )
    zeros = [jnp.zeros(size) for size in ((2, 3, 2), (2, 2), (3, 2))]
    moments, _ = eqx.filter_eval_shape(_block, dual, *zeros)
    for name, block in zip(_NAMES, moments[:2], strict=True):
        assert jnp.shape(block) == (2, 3, 2), (
            f"{name} of covariances of shape (2, 3, 2) has shape {jnp.shape(block)}, "
            "but should have the same. `left` and `right` broadcast against "
            "`pair.cov`; make the result as large as that, by "
            "`jnp.full_like(pair.cov, ...)` say."
        )


def _check_expectations(
    shape: _Shape,
    pairs: _Pairs,
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
        _NAMES, values, np.transpose(exact), scales, strict=True
    ):
        size = np.maximum(scale, np.abs(expected))
        _agree(f"{name}, by quadrature", pairs, came, expected, size, rtol)


def _check_zero_inputs(
    dual: AbstractDual, shape: _Shape, variances: Sequence[float], rtol: float
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
    pairs = _Pairs(np.zeros_like(var2), np.zeros_like(var2), var2)
    values, size = _both(dual, pairs), np.maximum(np.abs(means).max(), 1e-3) ** 2
    laws = ["f(0) E f(v)"] if near and shape.kinks else ["f(0) E f(v)", "f'(0) E f'(v)"]
    for i, law in enumerate(laws):
        expected = at_zero[i] * means[i]
        _agree(f"{law}, at zero", pairs, values[i], expected, size, rtol)
    diagonal = _diagonal(dual, np.zeros(1))
    zero = _Pairs(*np.zeros((3, 1)))
    _agree("`diagonal` at zero", zero, diagonal, at_zero[0] ** 2, size, rtol)


def _check_homogeneous(dual: AbstractDual, shape: _Shape) -> None:
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
    pairs = _Pairs(v, v, v)
    value, _, diagonal = _evaluated(dual, pairs)
    size = np.maximum(np.abs(value), np.abs(value[1:]).max() * 1e-3)
    _agree("`diagonal`, as E f(u) f(v) with u = v", pairs, diagonal, value, size, rtol)


def _check_swapped(
    dual: AbstractDual,
    pairs: _Pairs,
    values: Float[np.ndarray, "2 n"],
    scales: Float[np.ndarray, "2 n"],
) -> None:
    swapped = _both(dual, _Pairs(pairs.cov, pairs.var2, pairs.var1))
    for name, came, expected, scale in zip(
        _NAMES, swapped, values, scales, strict=True
    ):
        size = np.maximum(scale, np.abs(expected))
        _agree(f"{name} with u and v swapped", pairs, came, expected, size, 1e-10)


@eqx.filter_jit
def _block(
    dual: AbstractDual,
    cov: Float[Array, "n1 n2 size"],
    var1: Float[Array, "n1 size"],
    var2: Float[Array, "n2 size"],
) -> tuple[Moments, Float[Array, "n1 size"]]:
    left, right = (in_terms(dual.prepare(v), 1) for v in (var1, var2))
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
    came, diagonal = _block(dual, *map(jnp.asarray, (cov, var1, var2)))
    flat = _Pairs(
        *(
            np.broadcast_to(a, cov.shape).ravel()
            for a in (cov, var1[:, None], var2[None])
        )
    )
    for name, block, expected in zip(_NAMES, came[:2], _both(dual, flat), strict=True):
        law = f"{name} in blocks with positions, as pair by pair"
        _agree(law, flat, jnp.ravel(block), expected, size, 1e-10)
    v = var1.ravel()
    expected = _diagonal(dual, v)
    law = "`diagonal` with positions"
    _agree(law, _Pairs(v, v, v), jnp.ravel(diagonal), expected, size, 1e-10)


@eqx.filter_jit
def _gap(
    dual: AbstractDual,
    cov: Float[Array, " n"],
    var1: Float[Array, " n"],
    var2: Float[Array, " n"],
) -> Float[Array, " n"] | None:
    """The gap of both images by way of the gap of a pair, if the dual tells it."""
    gap = deviation(var1).std * deviation(var2).std - cov
    left, right = (in_terms(dual.prepare(v), 1) for v in (var1, var2))
    moments = dual.moments(Pair(cov, gap), left, right)
    return moments.gap_between(*(jnp.sqrt(dual.diagonal(v)) for v in (var1, var2)))


def _check_gap(dual: AbstractDual, variances: Sequence[float], rtol: float) -> None:
    """What a dual says of nearly equal inputs is what subtracting says of others."""
    pairs = _Pairs.of(variances, (0.3, 0.9))
    came = _gap(dual, *map(jnp.asarray, pairs))
    if came is None:
        return
    left, right = (np.sqrt(_diagonal(dual, v)) for v in pairs[1:])
    expected = np.maximum(left * right - _both(dual, pairs)[0], 0)
    law = "`gap` or `distance`, as the gap of E f(u) f(v)"
    _agree(law, pairs, came, expected, left * right, max(rtol, 1e-9))


def _check_single_precision(
    dual: AbstractDual,
    pairs: _Pairs,
    values: Float[np.ndarray, "2 n"],
    scales: Float[np.ndarray, "2 n"],
) -> None:
    single = _compiled(dual, jnp.asarray(np.stack(pairs), jnp.float32))[:2]
    for name, came, expected, scale in zip(_NAMES, single, values, scales, strict=True):
        assert came.dtype == jnp.float32, (
            f"{name} is {came.dtype} for covariances of float32. Constants that are "
            "arrays enter by `constants(pair.cov, self.a)`, in the type of the inputs."
        )
        size = np.maximum(scale, np.abs(expected))
        _agree(f"{name} in single precision", pairs, came, expected, size, _SINGLE)


# Derivatives.


def _orders(dual: AbstractDual, pairs: _Pairs) -> list[np.ndarray]:
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


def _check_derivatives(
    dual: AbstractDual, variances: Sequence[float], shape: _Shape, rtol: float
) -> None:
    """All derivatives, of inner pairs and of those at the bounds, compiled at once."""
    inner = _Pairs.of(variances, _INNER_CORRELATIONS)
    steps = _STEP * np.stack([np.sqrt(inner.var1 * inner.var2), *inner[1:]])
    moved = [
        np.stack(inner) + sign * np.where(np.arange(3)[:, None] == i, steps, 0)
        for i in range(3)
        for sign in (1, -1)
    ]
    v = np.asarray(variances, float)
    zero = np.zeros_like(v)
    bounds = [(v, v, v), (-v, v, v), (zero, zero, v), (zero, v, zero)]
    bounds = [np.stack(one) for one in (*bounds, np.zeros((3, 1)))]
    n = inner.cov.size
    everything = _Pairs(*np.concatenate([np.stack(inner), *moved, *bounds], -1))
    orders = _orders(dual, everything)
    middle, around, edge = (
        [order[..., part] for order in orders]
        for part in (slice(0, n), slice(n, 7 * n), slice(7 * n, None))
    )
    _check_differences(dual, inner, steps, middle, around)
    edges = _Pairs(*(axis[7 * n :] for axis in everything))
    _check_finite(edges, edge)
    if not shape.jumps:
        for pairs, (values, gradients, _) in ((inner, middle), (edges, edge)):
            law = "The derivative of E f(u) f(v) in cov, as E f'(u) f'(v)"
            size = np.maximum(np.abs(values[1]).max(), 1e-30)
            _agree(law, pairs, gradients[0, 0], values[1], size, max(100 * rtol, 1e-6))
        _check_along_equal_inputs(dual, v, [a[..., : v.size] for a in edge], shape)


def _check_differences(
    dual: AbstractDual,
    pairs: _Pairs,
    steps: Float[np.ndarray, "3 n"],
    middle: list[np.ndarray],
    around: list[np.ndarray],
) -> None:
    """Gradients by differences of values, and Hessians by differences of gradients."""
    scales = _scales(dual, pairs)
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
            _agree(law, pairs, derivative, difference, size, rtol)


def _check_finite(pairs: _Pairs, orders: list[np.ndarray]) -> None:
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


def _check_along_equal_inputs(
    dual: AbstractDual,
    v: Float[np.ndarray, " n"],
    orders: list[np.ndarray],
    shape: _Shape,
) -> None:
    """As all three move together, derivatives are those of `diagonal`.

    Others do not exist there for covariances, which are at their bound. Second
    derivatives exist for functions without kinks.
    """
    pairs = _Pairs(v, v, v)
    at = lambda scale: _diagonal(dual, scale * v)
    size = np.maximum(np.abs(orders[0][0]), 1e-30)
    slope = (at(1 + _STEP) - at(1 - _STEP)) / (2 * _STEP * v)
    total = orders[1][:, 0].sum(0)
    law = "The derivative along equal inputs, as of `diagonal`"
    _agree(law, pairs, total, slope, size / v, 10 * _FIRST)
    if not shape.kinks:
        h = 1e-3
        curvature = (at(1 + h) - 2 * at(1.0) + at(1 - h)) / (h * v) ** 2
        total = orders[2][:, :, 0].sum((0, 1))
        law = "The second derivative along equal inputs, as of `diagonal`"
        _agree(law, pairs, total, curvature, size / v**2, _SECOND)
