r"""Elementary functions that vectorise on every device, with finite derivatives.

Angles are computed from one polynomial, because `arccos` and `arctan2` are calls of a
scalar library on CPUs and would cost more than the rest of a layer. For
$\theta = \arccos(1 - z)$ with $0 \le z \le 1$,

$$\theta = \sqrt{z} \sum_k p_k z^k, \qquad
\sin\theta - \theta\cos\theta = \int_0^z \theta\, dz
= z^{3/2} \sum_k \frac{p_k}{k + 3/2} z^k.$$

The second is the integral of the first, so that it is not a difference of nearly equal
numbers where two inputs nearly coincide.

Where the obvious formula of a quantity loses digits, the value comes from another
formula and its derivatives, of every order, from the obvious one: `valued` joins the
two. Bounds that rounding alone violates are enforced in the same way.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from eqtangents._types import Scalar


def _angle_coefficients(terms: int) -> np.ndarray:
    r"""The numbers `p_k` of a good polynomial, for a number of terms.

    $p_0 = \sqrt{2}$ is exact, so that small angles keep their digits through thousands
    of layers.
    """

    def rest(z: np.ndarray) -> np.ndarray:
        return (2 * np.arcsin(np.sqrt(z / 2)) / np.sqrt(z) - 2**0.5) / z

    series = np.polynomial.Chebyshev.interpolate(rest, terms - 2, domain=[0, 1])
    power = series.convert(kind=np.polynomial.Polynomial, domain=[0, 1], window=[0, 1])
    return np.concatenate([[2**0.5], power.coef])


# So many terms make the errors of angles up to a right angle as small as rounding.
_ANGLE_SINGLE, _ANGLE_DOUBLE = _angle_coefficients(8), _angle_coefficients(20)


def angle_polynomials(
    z: Float[Array, "*s"],
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    r"""$\sum_k p_k z^k$ and $\sum_k p_k z^k / (k + 3/2)$."""
    coefficients = _angle_terms(z)
    integrals = coefficients / (np.arange(coefficients.size) + 1.5)
    return horner(coefficients, z), horner(integrals, z)


def _angle_terms(z: Float[Array, "..."]) -> np.ndarray:
    return _ANGLE_DOUBLE if z.dtype == jnp.float64 else _ANGLE_SINGLE


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
    return formula + lax.stop_gradient(value - formula)


def safe_sqrt(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Square root, zero for negative input, whose derivative at zero counts as zero.

    All operations after the root read the root alone: compilers repeat such cheap
    operations wherever the result is used, but never repeat a root.
    """
    tiny = jnp.finfo(x.dtype).tiny
    root = jnp.sqrt(lax.max(x, jnp.full_like(x, tiny)))
    return jnp.where(root < 1.5 * tiny**0.5, jnp.zeros_like(x), root)


def reciprocal(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`1 / x` where `x` is positive, else zero."""
    positive = x > 0
    return jnp.where(positive, 1 / jnp.where(positive, x, 1), 0)


@jax.custom_jvp
def arcsin(sine: Float[Array, "*s"], square: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Inverse sine, given the square of the cosine too, vectorised on every device.

    The angle keeps its digits near +-1 if `square` does. Where that is zero, the
    derivative counts as zero.
    """
    size = jnp.minimum(jnp.abs(sine), 1)
    small = size < 0.7
    z = jnp.where(small, 2 * size * size, jnp.maximum(square, 0) / (1 + size))
    # The first coefficient is exactly one: angles of deep networks are small, and their
    # layers would add up the rounding of any other number.
    ratio = horner(_angle_terms(z) / math.sqrt(2), z)
    angle = jnp.where(small, size * ratio, math.pi / 2 - safe_sqrt(2 * z) * ratio)
    return jnp.where(sine < 0, -angle, angle)


@arcsin.defjvp
def _arcsin_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The square of the cosine is a function of the sine: its tangent is not used."""
    return arcsin(*primals), tangents[0] * reciprocal(safe_sqrt(primals[1]))


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
