r"""Duals of functions made of the error function, and the determinant in them.

`GaussianDual` and `GaborDual` have the same determinant. With $u$ a multiple of the
variance and $e = \sqrt{1 + u}$, all are functions of $\rho = m / (e e')$, where $m$ is
the same multiple of the covariance, and of

$$1 - \rho^2 = \frac{1 + u + u' + (u u' - m^2)}{e^2 e'^2}.$$

If the fourth term is formed from its products, then at large variances its rounding
exceeds the first three; so it is formed as $z (2 - z)\, u u'$ with the deficit $z$ of
the correlation. The ratios $u / e^2$ and $1 / e^2$ keep all terms from overflowing.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.duals._dual import AbstractDual, at_equal_inputs
from eqtangents.duals._elementary import (
    arcsin,
    arcsin_less_sine,
    constants,
    reciprocal,
    safe_sqrt,
    valued,
)
from eqtangents.duals._pair import Deviation, Moments, Pair, deviation


class Spread(NamedTuple):
    """`u / e**2`, `1 / e**2` and `1 / e` for one variance, and its deviation."""

    share: Float[Array, "..."]
    rest: Float[Array, "..."]
    reciprocal: Float[Array, "..."]
    deviation: Deviation


class Mixture(NamedTuple):
    """`rho`, the part `(u u' - m**2) / (e e')**2` of `1 - rho**2`, and all of it."""

    correlation: Float[Array, "..."]
    minor: Float[Array, "..."]
    determinant: Float[Array, "..."]


def spread(variance: Float[Array, "*s"], factor: Float[Array, ""] | float) -> Spread:
    """The ratios for `u = factor * variance`; `1 / e` is zero unless `1 + u > 0`."""
    inverse = reciprocal(safe_sqrt(1 + factor * variance))
    rest = inverse * inverse
    # For an infinite variance `u / e**2` is one, and the others are zero.
    bounded = jnp.where(jnp.isinf(variance), 0, variance)
    share = jnp.where(jnp.isinf(variance), 1, bounded * rest * factor)
    return Spread(share, rest, inverse, deviation(variance))


def mixed(
    pair: Pair, left: Spread, right: Spread, factor: Float[Array, ""] | float
) -> Mixture:
    """The correlation `rho` and its determinant, from both variances of a pair."""
    correlation = factor * pair.cov * left.reciprocal * right.reciprocal
    shares = left.share * right.share
    z = lax.stop_gradient(pair.deficit(left.deviation, right.deviation))
    minor = valued(
        z * (2 - z) * lax.stop_gradient(shares), shares - correlation * correlation
    )
    rests = left.rest * right.rest
    crossed = left.share * right.rest + left.rest * right.share
    return Mixture(correlation, minor, rests + crossed + minor)


class ErfDual(AbstractDual):
    r"""Dual of $f(x) = a\, \mathrm{erf}(b x) + c$.

    $$E f f = \frac{2 a^2}{\pi} \arcsin\rho + c^2, \qquad
    E f' f' = \frac{4 a^2 b^2}{\pi} \frac{1}{e e' \sqrt{1 - \rho^2}}$$

    with $e = \sqrt{1 + 2 b^2 v}$ and $\rho = 2 b^2 k / (e e')$ (Williams 1997,
    eq. 11).
    """

    a: Scalar = 1.0
    b: Scalar = 1.0
    c: Scalar = 0.0

    def prepare(self, variance: Float[Array, "*s"]) -> Spread:
        (b,) = constants(variance, self.b)
        return spread(variance, 2 * b * b)

    def moments(self, pair: Pair, left: Spread, right: Spread) -> Moments:
        a, b, c = constants(pair.cov, self.a, self.b, self.c)
        mixture = mixed(pair, left, right, 2 * b * b)
        angle = arcsin(mixture.correlation, mixture.determinant)
        inverse = left.reciprocal / jnp.sqrt(mixture.determinant) * right.reciprocal
        distance = None
        if pair.gap is not None:
            distance = lax.stop_gradient(
                a * a * (2 / math.pi) * _mean_angle_less(angle, mixture, left, right)
            )
        return Moments(
            a * a * (2 / math.pi) * angle + c * c,
            a * a * b * b * (4 / math.pi) * inverse,
            distance=distance,
        )

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        r"""The first expectation at equal inputs, where $\rho = u / (1 + u)$.

        Thousands of layers add up their roundings. Where $u$ is small, they hardly
        change it: in $\arcsin\rho = u + (\arcsin\rho - \rho) - u \rho$ the first term
        is the variance times one number, which is rounded once.
        """
        a, b, c = constants(variance, self.a, self.b, self.c)
        u = 2 * b * b * variance
        rest = 1 / (1 + u)
        finite = jnp.isfinite(rest * u)
        rho = jnp.where(finite, jnp.where(finite, u, 0) / (1 + u), 1)
        angle = arcsin(rho, rest * (1 + rho))
        scale = a * a * (2 / math.pi)
        slope = scale * 2 * b * b
        near = slope * variance + scale * (arcsin_less_sine(rho) - u * rho)
        value = lax.stop_gradient(jnp.where(rho < 0.5, near, scale * angle))
        return valued(value, scale * angle) + c * c


def _mean_angle_less(
    angle: Float[Array, "..."], mixture: Mixture, left: Spread, right: Spread
) -> Float[Array, "..."]:
    r"""$M - \phi$, where $M$ is the mean of $A$ and $A'$, with $\sin A = u / e^2$.

    $\sin (M - \phi)$ is $\sin^2 M - \sin^2 \phi$ divided by $\sin (M + \phi)$, and
    $\sin^2 M - \sin^2 \phi$ is $\sin^2 \frac{A - A'}{2} + (u u' - m^2) / (e e')^2$: no
    two nearly equal numbers are subtracted. Where $\phi$ is negative, $M$ and $\phi$
    are not nearly equal, and are subtracted.
    """
    sines, cosines = zip(*map(_half_angle, (left, right)), strict=True)
    sine = sines[0] * cosines[1] + cosines[0] * sines[1]
    cosine = cosines[0] * cosines[1] - sines[0] * sines[1]
    difference = sines[0] * cosines[1] - cosines[0] * sines[1]
    numerator = difference * difference + mixture.minor
    rho, root = jnp.abs(mixture.correlation), jnp.sqrt(mixture.determinant)
    ratio = numerator * reciprocal(sine * root + cosine * rho)
    near = arcsin(ratio, (1 - ratio) * (1 + ratio))
    far = arcsin(sine, cosine * cosine) - angle
    # The squares of the tiniest angles are zero.
    return jnp.where((angle < 0) | (ratio > 0.7) | (sine < 1e-15), far, near)


def _half_angle(one: Spread) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The sine and the cosine of half of the angle whose sine is `u / e**2`."""
    cosine = jnp.sqrt(one.rest * (1 + one.share))
    half = jnp.sqrt(0.5 * (1 + cosine))
    return 0.5 * one.share / half, half


class GeluDual(AbstractDual):
    r"""Dual of $f(x) = x\, \Phi(x)$, with $\Phi$ the normal distribution function.

    With $e = \sqrt{1 + v}$, $\rho = k / (e e')$, $D = e^2 e'^2 (1 - \rho^2)$ and
    $\phi = \arcsin\rho$,

    $$E f f = \frac{k}{4} + \frac{1}{2\pi}
    \Big( k \phi + \frac{k^2 + v v' D}{e^2 e'^2 \sqrt{D}} \Big), \qquad
    E f' f' = \frac{1}{4} + \frac{1}{2\pi} \Big( \phi + \frac{k}{\sqrt{D}}
    \Big( 1 + \frac{1}{D} + \frac{1 - v v'}{e^2 e'^2} \Big) \Big)$$

    (Tsuchida et al. 2021, arXiv:2002.08517; the second is the derivative of the first).
    """

    def prepare(self, variance: Float[Array, "*s"]) -> Spread:
        return spread(variance, 1.0)

    def moments(self, pair: Pair, left: Spread, right: Spread) -> Moments:
        rho, _, determinant = mixed(pair, left, right, 1.0)
        angle, root = arcsin(rho, determinant), jnp.sqrt(determinant)
        shares = root * _deviation_share(left) * _deviation_share(right)
        inverse = left.reciprocal * right.reciprocal
        value = pair.cov * angle + rho * rho / root * inverse + shares
        rests = left.rest * right.rest
        bracket = rests / determinant + (left.rest + right.rest)
        derivative = angle + rho / root * bracket
        return Moments(
            0.25 * pair.cov + value / (2 * math.pi),
            0.25 + derivative / (2 * math.pi),
        )

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return at_equal_inputs(self, variance).value


def _deviation_share(one: Spread) -> Float[Array, "..."]:
    """`u / e`, which is `u / e**2` times `e`."""
    return one.share / one.reciprocal
