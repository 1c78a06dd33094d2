r"""Dual activations in closed form.

Angles are computed from one polynomial, because `arccos` and `arctan2` are calls of a
scalar library on CPUs and would cost more than the rest of a layer. For
$\theta = \arccos(1 - z)$ with $0 \le z \le 1$,

$$\theta = \sqrt{z} \sum_k p_k z^k, \qquad
\sin\theta - \theta\cos\theta = \int_0^z \theta\, dz
= z^{3/2} \sum_k \frac{p_k}{k + 3/2} z^k.$$

The second is the integral of the first, so that it is not a difference of nearly equal
numbers where two inputs nearly coincide.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.covariance._pointwise import AbstractDual


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


def _angle_polynomials(
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
    return root, tangents[0] * _reciprocal(2 * root)


def _reciprocal(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`1 / x` where `x` is positive, else zero."""
    positive = x > 0
    return jnp.where(positive, 1 / jnp.where(positive, x, 1), 0)


@jax.custom_jvp
def arcsin(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Inverse sine, vectorised on every device; its derivative at +-1 counts as 0."""
    size = jnp.minimum(jnp.abs(x), 1)
    small = size < 0.7
    z = jnp.where(small, 2 * x * x, 1 - size)
    polynomial, _ = _angle_polynomials(z)
    angle = jnp.where(
        small,
        size * polynomial * (1 / math.sqrt(2)),
        math.pi / 2 - safe_sqrt(z) * polynomial,
    )
    return jnp.where(x < 0, -angle, angle)


@arcsin.defjvp
def _arcsin_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,) = primals
    return arcsin(x), tangents[0] * _reciprocal(safe_sqrt((1 - x) * (1 + x)))


class Deviation(NamedTuple):
    """Standard deviations, and their reciprocals; both zero where an input is."""

    std: Float[Array, "..."]
    reciprocal: Float[Array, "..."]


@jax.custom_jvp
def _relu(
    cov: Float[Array, "..."], left: Deviation, right: Deviation
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Arc-cosine kernels of order 1 and 0 (Cho & Saul 2009, eq. 3 to 6).

    With $\theta$ the angle between the inputs,
    $\frac{s s'}{2\pi} (\sin\theta + (\pi - \theta) \cos\theta)$ and
    $\frac{\pi - \theta}{2 \pi}$. Zero makes a right angle with everything.
    """
    z = _one_minus_correlation(cov, left, right)
    root = jnp.sqrt(z)
    angle, integral = _angle_polynomials(z)
    size = (0.5 / math.pi) * (left.std * right.std)
    value = 0.5 * lax.max(cov, jnp.zeros_like(cov)) + size * (z * root * integral)
    acute = (0.5 / math.pi) * (root * angle)
    return value, lax.select(cov > 0, 0.5 - acute, acute)


def _one_minus_correlation(
    cov: Float[Array, "..."], left: Deviation, right: Deviation
) -> Float[Array, "..."]:
    """$1 - |k| / (s s')$, and exactly zero where rounding cannot tell it from that.

    An angle goes like its root: without this, rounding would turn an input away from
    itself by an angle of `sqrt(eps)`.
    """
    z = 1 - lax.abs(cov) * (left.reciprocal * right.reciprocal)
    return lax.select(z > 8 * jnp.finfo(z.dtype).eps, z, jnp.zeros_like(z))


@_relu.defjvp
def _relu_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    cov, left, right = primals
    d_cov, (d_left, _), (d_right, _) = tangents
    value, derivative = _relu(cov, left, right)
    d_size = d_left * right.std + left.std * d_right
    reciprocal = left.reciprocal * right.reciprocal
    z = _one_minus_correlation(cov, left, right)
    sine = safe_sqrt(z * (2 - z))
    d_value = derivative * d_cov + (0.5 / math.pi) * sine * d_size
    d_angle = _reciprocal(sine) * reciprocal * (d_cov - cov * reciprocal * d_size)
    return (value, derivative), (d_value, (0.5 / math.pi) * d_angle)


class ReluDual(AbstractDual):
    r"""Dual of $f(x) = \alpha \min(x, 0) + \beta \max(x, 0)$.

    $f(x) = (\beta - \alpha) \max(x, 0) + \alpha x$, and the cross terms with the linear
    part are linear too: $E f f = (\beta - \alpha)^2 E_\text{relu} + \alpha \beta\, k$.
    """

    negative_slope: Scalar
    positive_slope: Scalar

    def ends(self, variance: Float[Array, "*s"]) -> Deviation:
        """The standard deviation and its reciprocal."""
        std = safe_sqrt(variance)
        return Deviation(std, lax.stop_gradient(_reciprocal(std)))

    def __call__(
        self, cov: Float[Array, "*s"], left: Deviation, right: Deviation
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        """Rectifier and linear part, weighted."""
        value, derivative = _relu(cov, left, right)
        if (self.negative_slope, self.positive_slope) == (0.0, 1.0):
            return value, derivative
        a, b = (
            jnp.asarray(s, cov.dtype)
            for s in (self.negative_slope, self.positive_slope)
        )
        bend, line = (b - a) * (b - a), a * b
        return bend * value + line * cov, bend * derivative + line

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        r"""$\frac{\alpha^2 + \beta^2}{2} v$."""
        a, b = (
            jnp.asarray(s, variance.dtype)
            for s in (self.negative_slope, self.positive_slope)
        )
        return 0.5 * (a * a + b * b) * variance


class ErfDual(AbstractDual):
    r"""Dual of $f(x) = a\, \mathrm{erf}(b x) + c$ (Williams 1997, eq. 11)."""

    a: Scalar
    b: Scalar
    c: Scalar

    def ends(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        r"""$\sqrt{1 + 2 b^2 v}$."""
        _, b, _ = self._constants(variance)
        return jnp.sqrt(1 + 2 * b * b * variance)

    def __call__(
        self,
        cov: Float[Array, "*s"],
        left: Float[Array, "..."],
        right: Float[Array, "..."],
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        r"""$a^2 \frac{2}{\pi} \arcsin\rho + c^2$ with $\rho = 2 b^2 k / (e e')$."""
        a, b, c = self._constants(cov)
        size, twice = left * right, 2 * b * b * cov
        value = a * a * (2 / math.pi) * arcsin(twice / size) + c * c
        # (size - twice)(size + twice) is at least 1 but for rounding.
        gap = jnp.maximum((size - twice) * (size + twice), 1)
        return value, a * a * b * b * (4 / math.pi) / jnp.sqrt(gap)

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The same at equal inputs."""
        ends = self.ends(variance)
        return self(variance, ends, ends)[0]

    def _constants(self, like: Float[Array, "*s"]) -> list[Float[Array, ""]]:
        return [jnp.asarray(s, like.dtype) for s in (self.a, self.b, self.c)]
