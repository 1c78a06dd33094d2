"""Duals of functions made of exponentials, sines and cosines."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.duals._determinant import Spread, mixed, mixed_terms, spread
from eqtangents.duals._dual import AbstractDual, at_equal_inputs
from eqtangents.duals._elementary import constants, inverse_root, valued
from eqtangents.duals._pair import Deviation, Moments, Pair, deviation


def _distance(
    pair: Pair, left: "HalfVariance", right: "HalfVariance"
) -> Float[Array, "..."]:
    r"""$\frac{v + v'}{2} - |k|$, half of the mean square of $u - v$ or of $u + v$."""
    stds = left.deviation.std, right.deviation.std
    difference = stds[0] - stds[1]
    z = pair.deficit(left.deviation, right.deviation)
    value = stds[0] * stds[1] * z + 0.5 * difference * difference
    formula = left.half + right.half - _absolute(pair.cov)
    return valued(lax.stop_gradient(value), formula)


def _absolute(cov: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`|cov|`, with one slope at zero wherever it is added and subtracted again."""
    return jnp.where(cov < 0, -cov, cov)


def _sine_and_cosine(
    cov: Float[Array, "..."], distance: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""$E \sin u \sin v$ and $E \cos u \cos v$; the mixed expectations are zero.

    They are $e^{-m} \sinh k$ and $e^{-m} \cosh k$ with $m$ the mean of the two
    variances, written such that nothing overflows and no digits of small $k$ are lost:
    the distance is $m - |k|$.
    """
    peak = jnp.exp(-distance)
    odd = -0.5 * peak * jnp.expm1(-2 * _absolute(cov))
    return jnp.where(cov < 0, -odd, odd), peak - odd


class HalfVariance(NamedTuple):
    """Half of a variance, and the standard deviation."""

    half: Float[Array, "..."]
    deviation: Deviation

    @classmethod
    def of(cls, variance: Float[Array, "*s"]) -> "HalfVariance":
        """The two of one variance."""
        return cls(0.5 * variance, deviation(variance))


class SineDual(AbstractDual):
    r"""Dual of $f(x) = a \sin(b x + c)$.

    $E f f = a^2 (\cos^2 c\, S + \sin^2 c\, C)$ with $S = e^{-m} \sinh(b^2 k)$ and
    $C = e^{-m} \cosh(b^2 k)$, where $m$ is $b^2$ times the mean of the two variances;
    $E f' f' = a^2 b^2 (\cos^2 c\, C + \sin^2 c\, S)$ (Louart et al. 2018,
    arXiv:1702.05419, table 1).
    """

    a: Scalar = 1.0
    b: Scalar = 1.0
    c: Scalar = 0.0

    def prepare(self, variance: Float[Array, "*s"]) -> HalfVariance:
        return HalfVariance.of(variance)

    def moments(self, pair: Pair, left: HalfVariance, right: HalfVariance) -> Moments:
        a, b, c = constants(pair.cov, self.a, self.b, self.c)
        distance = b * b * _distance(pair, left, right)
        sine, cosine = _sine_and_cosine(b * b * pair.cov, distance)
        straight, turned = (a * jnp.cos(c)) ** 2, (a * jnp.sin(c)) ** 2
        derivative = b * b * (straight * cosine + turned * sine)
        return Moments(straight * sine + turned * cosine, derivative)

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return at_equal_inputs(self, variance).value


class RbfDual(AbstractDual):
    r"""Dual of $f(x) = \sqrt{2} \sin(\sqrt{2\gamma}\, x + \pi / 4)$.

    $E f f = e^{-\gamma (v + v' - 2k)}$, the squared exponential of the distance between
    the inputs, and $E f' f' = 2 \gamma\, E f f$ (Rahimi & Recht 2007).
    """

    gamma: Scalar = 1.0

    def prepare(self, variance: Float[Array, "*s"]) -> HalfVariance:
        return HalfVariance.of(variance)

    def moments(self, pair: Pair, left: HalfVariance, right: HalfVariance) -> Moments:
        (gamma,) = constants(pair.cov, self.gamma)
        # `_distance` is from `u` to `v`, or to `-v` for a negative covariance.
        opposite = jnp.where(pair.cov < 0, -2 * pair.cov, 0)
        distance = _distance(pair, left, right) + opposite
        value = jnp.exp(-2 * gamma * distance)
        return Moments(value, 2 * gamma * value)

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jnp.where(jnp.isnan(variance), variance, 1)


class ExpDual(AbstractDual):
    r"""Dual of $f(x) = a\, e^{b x}$.

    $E f f = a^2 e^{b^2 (k + (v + v') / 2)}$, the mean of a log-normal variable, and
    $E f' f' = b^2\, E f f$.
    """

    a: Scalar = 1.0
    b: Scalar = 1.0

    def prepare(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return 0.5 * variance

    def moments(
        self, pair: Pair, left: Float[Array, "..."], right: Float[Array, "..."]
    ) -> Moments:
        a, b = constants(pair.cov, self.a, self.b)
        value = a * a * jnp.exp(b * b * (pair.cov + left + right))
        return Moments(value, b * b * value)

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        a, b = constants(variance, self.a, self.b)
        return a * a * jnp.exp(2 * b * b * variance)


class ExpNormalizedDual(AbstractDual):
    r"""The kernel $K' = s s' e^{\gamma (\rho + h)}$ of the correlation $\rho$.

    It is the kernel of $f(x) = \sum_l \sqrt{\gamma^l e^{\gamma h} / l!}\, h_l(x)$ with
    normalised Hermite polynomials $h_l$, made homogeneous (Shankar et al. 2020,
    arXiv:2003.02237, section 4). $\gamma e^{\gamma (\rho + h)}$ takes the place of
    $E f' f'$.
    """

    gamma: Scalar = 1.0
    shift: Scalar = -1.0

    def prepare(self, variance: Float[Array, "*s"]) -> Deviation:
        return deviation(variance)

    def moments(self, pair: Pair, left: Deviation, right: Deviation) -> Moments:
        gamma, shift = constants(pair.cov, self.gamma, self.shift)
        exponential = jnp.exp(gamma * (pair.correlation(left, right) + shift))
        return Moments(left.std * right.std * exponential, gamma * exponential)

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        gamma, shift = constants(variance, self.gamma, self.shift)
        return variance * jnp.exp(gamma * (1 + shift))


class GaussianDual(AbstractDual):
    r"""Dual of $f(x) = a\, e^{b x^2}$.

    With $D = (1 - 2 b v)(1 - 2 b v') - 4 b^2 k^2$, $E f f = a^2 / \sqrt{D}$ and
    $E f' f' = 4 a^2 b^2 k / D^{3/2}$ (Williams 1997, eq. 13). For positive $b$ the
    expectations exist while $D$ and its factors are positive; beyond they are infinite.
    """

    a: Scalar = 1.0
    b: Scalar = -1.0

    def prepare(self, variance: Float[Array, "*s"]) -> Spread:
        (b,) = constants(variance, self.b)
        return spread(variance, -2 * b)

    def moments(self, pair: Pair, left: Spread, right: Spread) -> Moments:
        a, b = constants(pair.cov, self.a, self.b)
        rho, determinant, inverse = mixed(pair, left, right, -2 * b)
        exists = (determinant > 0) & (inverse > 0)
        per_root = inverse_root(jnp.where(exists, determinant, 1))
        lost = jnp.isnan(determinant)
        infinity = jnp.where(lost, determinant, jnp.asarray(jnp.inf, per_root.dtype))
        value = jnp.where(exists, a * a * inverse * per_root, infinity)
        # `4 b**2 k / D` is `-2 b rho / (e e')`, divided by `D / (e e')**2`.
        derivative = -2 * b * rho * inverse * value * per_root**2
        return Moments(value, jnp.where(exists, derivative, infinity))

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return at_equal_inputs(self, variance).value


class GaborDual(AbstractDual):
    r"""Dual of $f(x) = e^{-x^2} \sin x$.

    The factor $e^{-u^2 - v^2}$ turns the Gaussian into another one, with moments
    $V = (v + 2g) / D$, $V' = (v' + 2g) / D$ and $Q = k / D$, where $g = v v' - k^2$ and
    $D = (1 + 2v)(1 + 2v') - 4k^2$, times $1 / \sqrt{D}$. Under it, with $S$ and $C$ the
    expectations of $\sin u \sin v$ and $\cos u \cos v$,

    $$\sqrt{D}\, E f f = S, \qquad \sqrt{D}\, E f' f' =
    ((1 - 2 V)(1 - 2 V') + 4 Q^2)\, C + 4 Q (2 - V - V')\, S,$$

    the latter by Stein's lemma, where $1 - 2V = (1 + 2 v') / D$.
    """

    def prepare(self, variance: Float[Array, "*s"]) -> Spread:
        return spread(variance, 2.0)

    def moments(self, pair: Pair, left: Spread, right: Spread) -> Moments:
        rho, minor, determinant = mixed_terms(pair, left, right, 2.0)
        scale, inverse = 0.5 / determinant, left.reciprocal * right.reciprocal
        narrowed = scale * inverse  # 4 its square is (1 - 2V)(1 - 2V'), both near zero
        q = narrowed * rho
        v1, v2 = (
            scale * (one.share * other.rest + minor)
            for one, other in ((left, right), (right, left))
        )
        sine, cosine = _sine_and_cosine(q, 0.5 * (v1 + v2) - _absolute(q))
        norm = inverse * inverse_root(determinant)
        even = 4 * (narrowed * narrowed + q * q)
        derivative = even * cosine + 4 * q * (2 - v1 - v2) * sine
        return Moments(norm * sine, norm * derivative)

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return at_equal_inputs(self, variance).value
