r"""Elementary functions that vectorise on every device, with finite derivatives.

Angles are computed from one polynomial, because `arccos` and `arctan2` are calls of a
scalar library on CPUs and would cost more than the rest of a layer. For
$\theta = \arccos(1 - z)$ with $0 \le z \le 1$,

$$\theta = \sqrt{z} \sum_k p_k z^k, \qquad
\sin\theta - \theta\cos\theta = \int_0^z \theta\, dz
= z^{3/2} \sum_k \frac{p_k}{k + 3/2} z^k.$$

The second is the integral of the first, so that it is not a difference of nearly equal
numbers where two inputs nearly coincide.

Bounds that hold but for rounding are enforced by `at_least` and `at_most`, which keep
the derivative at the bound itself, where `jnp.maximum` would halve it. They also keep
the unused entries of a canvas finite.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents._types import Scalar


def _angle_coefficients(terms: int) -> np.ndarray:
    """`p_k` of the best polynomial with so many terms, to rounding."""

    def ratio(z: np.ndarray) -> np.ndarray:
        return 2 * np.arcsin(np.sqrt(z / 2)) / np.sqrt(z)

    series = np.polynomial.Chebyshev.interpolate(ratio, terms - 1, domain=[0, 1])
    return series.convert(
        kind=np.polynomial.Polynomial, domain=[0, 1], window=[0, 1]
    ).coef


# As many terms as bring the error to the rounding of the type.
_ANGLE_SINGLE, _ANGLE_DOUBLE = _angle_coefficients(8), _angle_coefficients(20)


def angle_polynomials(
    z: Float[Array, "*s"],
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    r"""$\sum_k p_k z^k$ and $\sum_k p_k z^k / (k + 3/2)$."""
    double = z.dtype == jnp.float64
    coefficients = _ANGLE_DOUBLE if double else _ANGLE_SINGLE
    integrals = coefficients / (np.arange(coefficients.size) + 1.5)
    return _horner(coefficients, z), _horner(integrals, z)


def _horner(coefficients: np.ndarray, z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    total = jnp.full_like(z, float(coefficients[-1]))
    for coefficient in coefficients[-2::-1]:
        total = total * z + float(coefficient)
    return total


@jax.custom_jvp
def safe_sqrt(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Square root, zero for negative input, whose derivative at zero counts as zero."""
    return jnp.sqrt(jnp.maximum(x, 0))


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    root = safe_sqrt(*primals)
    return root, tangents[0] * reciprocal(2 * root)


def reciprocal(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`1 / x` where `x` is positive, else zero."""
    positive = x > 0
    return jnp.where(positive, 1 / jnp.where(positive, x, 1), 0)


@jax.custom_jvp
def arcsin(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Inverse sine, vectorised on every device; its derivative at +-1 counts as 0."""
    size = jnp.minimum(jnp.abs(x), 1)
    small = size < 0.7
    z = jnp.where(small, 2 * x * x, 1 - size)
    polynomial, _ = angle_polynomials(z)
    angle = jnp.where(
        small,
        size * polynomial * (1 / math.sqrt(2)),
        math.pi / 2 - safe_sqrt(z) * polynomial,
    )
    return jnp.where(x < 0, -angle, angle)


@arcsin.defjvp
def _arcsin_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,) = primals
    return arcsin(x), tangents[0] * reciprocal(safe_sqrt((1 - x) * (1 + x)))


def at_least(x: Float[Array, "*s"], bound: float) -> Float[Array, "*s"]:
    """`x`, or a bound where it is below."""
    return jnp.where(x < bound, jnp.asarray(bound, x.dtype), x)


def at_most(x: Float[Array, "*s"], bound: float) -> Float[Array, "*s"]:
    """`x`, or a bound where it is above."""
    return jnp.where(x > bound, jnp.asarray(bound, x.dtype), x)


def constants(like: Float[Array, "..."], *values: Scalar) -> list[Float[Array, ""]]:
    """Hyperparameters in the type of an array."""
    return [jnp.asarray(value, like.dtype) for value in values]
