r"""Elementary functions that vectorise on every device, with finite derivatives.

Angles are computed from fractions of polynomials, because `arccos` and `arctan2` are
calls of a scalar library on CPUs and would cost more than the rest of a layer. For
$\theta = \arccos(1 - z)$ with $0 \le z \le 1$,

$$\theta = \sqrt{z} \sum_k p_k z^k, \qquad
\sin\theta - \theta\cos\theta = \int_0^z \theta\, dz
= z^{3/2} \sum_k \frac{p_k}{k + 3/2} z^k, \qquad
p_k = \frac{\sqrt{2}}{2^k (2k + 1)} \prod_{j \le k} \frac{2j - 1}{2j}.$$

The second is the integral of the first, so that it is not a difference of nearly equal
numbers where two inputs nearly coincide. Both series have their singularity at $z = 2$.

Where the obvious formula of a quantity loses digits, the value comes from another
formula and its derivatives, of every order, from the obvious one: `valued` joins the
two. Bounds that rounding alone violates are enforced in the same way.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from eqtangents._buffers import buffered_sum
from eqtangents._types import Scalar


# Whether what is traced meanwhile may be differentiated. Programs of their own are not,
# and need no formulas that are there for their derivatives alone. Compiled functions
# are told apart by it.
may_be_differentiated = jax.make_user_context(True)


class _AngleFractions(NamedTuple):
    """Numerators for both series without their first terms, and one denominator."""

    angle: np.ndarray
    integral: np.ndarray
    denominator: np.ndarray


def _angle_series() -> tuple[np.ndarray, np.ndarray]:
    """The numbers `p_k`, and `p_k / (k + 3/2)`, as many as matter up to `z = 1`."""
    k = np.arange(64)
    ratios = np.divide(2 * k - 1, 2 * k, out=np.ones(k.size), where=k > 0)
    series = 2**0.5 * np.cumprod(ratios) / (2.0**k * (2 * k + 1))
    return series, series / (k + 1.5)


@functools.cache
def _angle_fractions(double: bool) -> _AngleFractions:
    r"""Fractions whose errors are as small as the rounding of a type.

    In double precision six poles take the place of a dozen terms of each numerator, at
    the cost of one division. The first terms of the series, $\sqrt{2}$ and
    $\frac{2}{3} \sqrt{2}$, stay apart and are exact, so that small angles keep their
    digits through thousands of layers.
    """
    degrees, poles = ((5, 8), 6) if double else ((6, 6), 0)
    rests = [np.polynomial.Polynomial(series[1:]) for series in _angle_series()]
    denominator = _denominator(rests[0], poles)
    numerators = [
        np.polynomial.Chebyshev.interpolate(
            lambda z, rest=rest: rest(z) * denominator(z), degree, domain=[0, 1]
        )
        for rest, degree in zip(rests, degrees, strict=True)
    ]
    return _AngleFractions(*map(_in_powers, (*numerators, denominator)))


def _denominator(
    function: Callable[[np.ndarray], np.ndarray], poles: int
) -> np.polynomial.Chebyshev:
    """The denominator of the fraction through a function at Chebyshev points.

    The points are as many as determine `poles` coefficients in the numerator, and one
    more in the denominator up to a factor: the null vector of linear equations.
    """
    z = 0.5 + 0.5 * np.polynomial.chebyshev.chebpts1(2 * poles or 1)
    powers = np.polynomial.chebyshev.chebvander(2 * z - 1, poles)
    equations = np.hstack([powers[:, :-1], -function(z)[:, None] * powers])
    null = np.linalg.svd(equations)[2][-1]
    found = np.polynomial.Chebyshev(null[poles:], domain=[0, 1])
    return found / found(0.0)


def _in_powers(series: np.polynomial.Chebyshev) -> np.ndarray:
    kind = np.polynomial.Polynomial
    return series.convert(kind=kind, domain=[0, 1], window=[0, 1]).coef


def angle_factors(
    z: Float[Array, "*s"],
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    r"""$\theta / \sqrt{z}$ and $(\sin\theta - \theta\cos\theta) / z^{3/2}$."""
    fractions = _angle_fractions(z.dtype == jnp.float64)
    angle, integral = horner(fractions.angle, z), horner(fractions.integral, z)
    shared = _over_denominator(fractions, z)
    return 2**0.5 + angle * shared, 2**0.5 / 1.5 + integral * shared


def _over_denominator(
    fractions: _AngleFractions, z: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    if fractions.denominator.size == 1:
        return z
    return z / horner(fractions.denominator, z)


def horner(
    coefficients: Sequence[float] | np.ndarray, z: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """A polynomial, by its coefficients from the constant upwards."""
    total = jnp.full_like(z, float(coefficients[-1]))
    for coefficient in coefficients[-2::-1]:
        total = total * z + float(coefficient)
    return total


def valued(
    value: Float[Array, "*s"], formula: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """An accurate value of a formula, with the derivatives of the formula.

    This is no `custom_jvp`: within loops JAX forgets such rules where it differentiates
    backwards, and derivatives of the backward pass would be wrong.
    """
    if not may_be_differentiated.value:
        return lax.stop_gradient(value)
    return formula + lax.stop_gradient(value - formula)


def safe_sqrt(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Square root, zero for negative input, whose derivative at zero counts as zero.

    All operations after the root read the root alone: compilers repeat such cheap
    operations wherever the result is used, but never repeat a root.
    """
    tiny = jnp.finfo(x.dtype).tiny
    root = jnp.sqrt(lax.max(x, jnp.full_like(x, tiny)))
    return jnp.where(root < 1.5 * tiny**0.5, jnp.zeros_like(x), root)


# Derivatives of the next three multiply alone, what compilers would divide for each.
@jax.custom_jvp
def reciprocal(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`1 / x` where `x` is positive, else zero."""
    positive = x > 0
    return jnp.where(positive, 1 / jnp.where(positive, x, 1), 0)


@reciprocal.defjvp
def _reciprocal_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    found = reciprocal(*primals)
    return found, -(tangents[0] * found) * found


@jax.custom_jvp
def inverse_root(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`1 / sqrt(x)` where `x` is positive, else zero."""
    return reciprocal(safe_sqrt(x))


@inverse_root.defjvp
def _inverse_root_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    root = inverse_root(*primals)
    return root, -0.5 * (((tangents[0] * root) * root) * root)


@jax.custom_jvp
def root_and_inverse(
    x: Float[Array, "*s"],
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """`sqrt(x)` and `1 / sqrt(x)`."""
    root = jnp.sqrt(x)
    return root, 1 / root


@root_and_inverse.defjvp
def _root_and_inverse_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    root, inverse = root_and_inverse(*primals)
    d_root = 0.5 * (tangents[0] * inverse)
    return (root, inverse), (d_root, -(d_root * inverse) * inverse)


@jax.custom_jvp
def product_of_ends(
    left: Float[Array, "..."], right: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The product of numbers of the two ends of pairs, none of which is negative.

    Its derivative is that of its logarithm, of which one array is added up for each
    example, backwards. Where a number is zero, its derivative counts as zero.
    """
    return left * right


@product_of_ends.defjvp
def _product_of_ends_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (left, right), (d_left, d_right) = primals, tangents
    d_log = buffered_sum(d_left * reciprocal(left), d_right * reciprocal(right))
    product = product_of_ends(left, right)
    return product, product * d_log


@jax.custom_jvp
def arcsin(sine: Float[Array, "*s"], square: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Inverse sine, given the square of the cosine too, vectorised on every device.

    The angle keeps its digits near +-1 if `square` does. Where that is zero, the
    derivative counts as zero.
    """
    size = jnp.minimum(jnp.abs(sine), 1)
    small = size < 0.7
    z = jnp.where(small, 2 * size * size, jnp.maximum(square, 0) / (1 + size))
    # The first term is exactly one: angles of deep networks are small, and their layers
    # would add up the rounding of any other number.
    ratio = 1 + _excess(z)
    angle = jnp.where(small, size * ratio, math.pi / 2 - safe_sqrt(2 * z) * ratio)
    return jnp.where(sine < 0, -angle, angle)


@arcsin.defjvp
def _arcsin_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The square of the cosine is a function of the sine: its tangent is not used."""
    return arcsin(*primals), tangents[0] * inverse_root(primals[1])


def arcsin_less_sine(sine: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`arcsin(sine) - sine` without subtracting, for sines of a size up to 0.7."""
    return sine * excess_of_arcsin(sine)


def excess_of_arcsin(sine: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`arcsin(sine) / sine - 1` without subtracting, for sines of a size up to 0.7."""
    return _excess(2 * sine * sine)


def _excess(z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    r"""$\theta / \sqrt{2z} - 1$: by how much half an angle exceeds its sine."""
    fractions = _angle_fractions(z.dtype == jnp.float64)
    return horner(fractions.angle / math.sqrt(2), z) * _over_denominator(fractions, z)


def constants(like: Float[Array, "..."], *values: Scalar) -> list[Any]:
    """Hyperparameters, as they enter formulas beside an array.

    **Arguments:**

    - `like`: the array.
    - `values`: numbers of Python, or arrays of shape `()`.

    **Returns:** the numbers as floats, and the arrays in the type of `like`. A constant
    computed from floats is rounded to the type of the array once, at the end; deep
    networks raise the rounding of each layer to the power of their depth.
    """
    return [
        float(value)
        if isinstance(value, int | float)
        else jnp.asarray(value, like.dtype)
        for value in values
    ]
