"""Duals of functions made of the error function."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents._types import Scalar
from eqtangents.duals._determinant import Mixture, Spread, mixed, spread
from eqtangents.duals._dual import AbstractDual, at_equal_inputs
from eqtangents.duals._elementary import (
    arcsin,
    arcsin_less_sine,
    constants,
    excess_of_arcsin,
    inverse_root,
    reciprocal,
    root_and_inverse,
    valued,
)
from eqtangents.duals._pair import Moments, Pair, summed_gap


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
        inverse = mixture.inverse * inverse_root(mixture.determinant)
        scale = a * a * (2 / math.pi)
        value, gap = scale * angle, None
        if pair.gap is not None:
            changes = _LayerChanges(scale, 2 * b * b, pair, left, right, mixture)
            value = valued(lax.stop_gradient(changes.value(angle)), value)
            gap = changes.gap(pair.gap)
            if not (isinstance(c, float) and c == 0):
                gap = _gap_beside_constant(gap, c, scale, left, right)
            gap = lax.stop_gradient(gap)
        return Moments(
            value + c * c,
            a * a * b * b * (4 / math.pi) * inverse,
            short_gap=gap,
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


class _LayerChanges:
    r"""What one layer of error functions changes of a covariance and of its gap.

    Both are small beside what they change in deep networks. Rounding of the whole would
    be alike in all layers, and thousands of them add it up; that of the change is not.
    """

    def __init__(
        self,
        scale: Float[Array, ""] | float,
        factor: Float[Array, ""] | float,
        pair: Pair,
        left: Spread,
        right: Spread,
        mixture: Mixture,
    ):
        self.scale, self.factor, self.pair = scale, factor, pair
        self.ends, self.mixture = (left, right), mixture
        # `1 - 1 / (e e')`, where `1 / e**2` is `1 - u / e**2`.
        lost = left.share + right.share * left.rest
        self.shrinking = lost / (1 + self.mixture.inverse)

    def value(self, angle: Float[Array, "..."]) -> Float[Array, "..."]:
        """The covariance, by the angle where the change is not small."""
        rho = self.mixture.correlation
        line, bend = self.scale * self.factor * self.pair.cov, excess_of_arcsin(rho)
        near = line + line * (bend - self.shrinking * (1 + bend))
        small = (jnp.abs(rho) < 0.7) & (self.shrinking < 0.5)
        return jnp.where(small, near, self.scale * angle)

    def gap(self, before: Float[Array, "..."]) -> Float[Array, "..."]:
        r"""The gap $\sqrt{A A'} - \phi$ where it is not large, with $\sin A = u / e^2$.

        With $\sin\psi = \sqrt{u u'} / (e e')$, it is the sum of $\psi - \phi$, a
        multiple of the gap $g$ of the inputs near one, and of $\sqrt{A A'} - \psi$,
        which depends on the variances alone. $\sin(\psi - \phi)$ is $x = h (p + q) /
        (p \cos\phi + q \cos\psi)$ for sines $p$ and $q$ with $p - q = h$.
        """
        left, right = self.ends
        rho = self.mixture.correlation
        sine = jnp.sqrt(left.share * right.share)
        square = left.rest + left.share * right.rest  # `1 - sine**2`
        cosines = jnp.sqrt(square), jnp.sqrt(self.mixture.determinant)
        total = reciprocal(sine * cosines[1] + rho * cosines[0])
        x = self.factor * before * self.mixture.inverse * (sine + rho) * total
        # `(p + q) / (p cos + q cos) - 1`, without subtracting.
        above = (rho / (1 + cosines[1]) + sine / (1 + cosines[0])) * sine * rho * total
        bend = excess_of_arcsin(x)
        grown = above + bend + above * bend
        gap = self.scale * self.factor * before
        gap += gap * (grown - self.shrinking * (1 + grown))
        gap = jnp.where(self.shrinking < 0.5, gap, self.scale * (x + x * bend))
        apart, near = self._apart(sine, cosines[0])
        far = (rho < 0) | (x > 0.7) | ~near
        return jnp.where(far, jnp.inf, gap + self.scale * apart)

    def _apart(
        self, sine: Float[Array, "..."], cosine: Float[Array, "..."]
    ) -> tuple[Float[Array, "..."], Bool[Array, "..."]]:
        r"""$\sqrt{A A'} - \psi$, and where it is right.

        With the mean $M$ of $A$ and $A'$ and half their difference $d$, it is the
        difference of $M - \psi$, whose sine is $\sin^2 d / \sin (M + \psi)$, and of
        $M - \sqrt{M^2 - d^2}$.
        """
        (sine1, cosine1), (sine2, cosine2) = map(_half_angle, self.ends)
        angles = [_angle(one) for one in self.ends]
        half = 0.5 * (angles[0] - angles[1])
        of_half = sine1 * cosine2 - cosine1 * sine2
        of_sum = (sine1 * cosine2 + cosine1 * sine2) * cosine
        of_sum += (cosine1 * cosine2 - sine1 * sine2) * sine
        ratio = of_half * of_half * reciprocal(of_sum)
        mean, geometric = 0.5 * (angles[0] + angles[1]), jnp.sqrt(angles[0] * angles[1])
        less = half * half * reciprocal(mean + geometric)
        # The squares of the tiniest angles are zero.
        near = (ratio < 0.7) & (of_sum > 1e-15)
        return ratio + arcsin_less_sine(ratio) - less, near


def _gap_beside_constant(
    gap: Float[Array, "..."],
    constant: Float[Array, ""] | float,
    scale: Float[Array, ""] | float,
    left: Spread,
    right: Spread,
) -> Float[Array, "..."]:
    """The gap of a function plus a constant, which is uncorrelated with it."""
    squares = [scale * _angle(one) for one in (left, right)]
    stds = (jnp.sqrt(squares[0]), jnp.sqrt(squares[1]))
    size = abs(constant) * jnp.ones_like(stds[0])
    left_total, right_total = (jnp.sqrt(one + constant * constant) for one in squares)
    gaps = [gap, jnp.zeros_like(gap)]
    return summed_gap(gaps, [stds, (size, size)], (left_total, right_total))


def _angle(one: Spread) -> Float[Array, "..."]:
    """The angle whose sine is `u / e**2`."""
    return arcsin(one.share, one.rest * (1 + one.share))


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
        rho, determinant, inverse = mixed(pair, left, right, 1.0)
        angle = arcsin(rho, determinant)
        root, per_root = root_and_inverse(determinant)
        shares = _deviation_share(left) * _deviation_share(right)
        value = pair.cov * angle + rho * rho * inverse * per_root + root * shares
        rests = (inverse * per_root) ** 2 + (left.rest + right.rest)
        derivative = angle + rho * per_root * rests
        return Moments(
            0.25 * pair.cov + value / (2 * math.pi),
            0.25 + derivative / (2 * math.pi),
        )

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return at_equal_inputs(self, variance).value


def _deviation_share(one: Spread) -> Float[Array, "..."]:
    """`u / e`, which is `u / e**2` times `e`."""
    return one.share / one.reciprocal
