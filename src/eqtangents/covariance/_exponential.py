"""Duals of functions made of exponentials, sines and cosines."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.covariance._elementary import (
    at_least,
    at_most,
    constants,
    reciprocal,
    safe_sqrt,
)
from eqtangents.covariance._pointwise import AbstractDual


def _sine_and_cosine(
    cov: Float[Array, "..."], mean_variance: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""$E \sin u \sin v$ and $E \cos u \cos v$; the mixed expectations are zero.

    They are $e^{-m} \sinh k$ and $e^{-m} \cosh k$ with $m$ the mean of the two
    variances, written such that nothing overflows and no digits of small $k$ are lost.
    """
    size = jnp.where(cov < 0, -cov, cov)
    peak = jnp.exp(at_most(size - mean_variance, 1e-3))
    odd = -0.5 * peak * jnp.expm1(-2 * size)
    return jnp.where(cov < 0, -odd, odd), peak - odd


class SineDual(AbstractDual):
    r"""Dual of $f(x) = a \sin(b x + c)$.

    $E f f = a^2 (\cos^2 c\, S + \sin^2 c\, C)$ with $S = e^{-m} \sinh(b^2 k)$ and
    $C = e^{-m} \cosh(b^2 k)$, where $m$ is $b^2$ times the mean of the two variances;
    $E f' f' = a^2 b^2 (\cos^2 c\, C + \sin^2 c\, S)$ (Louart et al. 2018,
    arXiv:1702.05419, table 1).
    """

    a: Scalar
    b: Scalar
    c: Scalar

    def ends(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        r"""$b^2 v / 2$."""
        (b,) = constants(variance, self.b)
        return 0.5 * b * b * variance

    def __call__(
        self,
        cov: Float[Array, "*s"],
        left: Float[Array, "..."],
        right: Float[Array, "..."],
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        """Products of sines and of cosines, weighted."""
        a, b, c = constants(cov, self.a, self.b, self.c)
        sine, cosine = _sine_and_cosine(b * b * cov, left + right)
        straight, turned = (a * jnp.cos(c)) ** 2, (a * jnp.sin(c)) ** 2
        derivative = b * b * (straight * cosine + turned * sine)
        return straight * sine + turned * cosine, derivative

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The same at equal inputs."""
        ends = self.ends(variance)
        return self(variance, ends, ends)[0]


class RbfDual(AbstractDual):
    r"""Dual of $f(x) = \sqrt{2} \sin(\sqrt{2\gamma}\, x + \pi / 4)$.

    $E f f = e^{-\gamma (v + v' - 2k)}$: of the squared distance between the inputs.
    """

    gamma: Scalar

    def ends(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Half of the variance."""
        return 0.5 * variance

    def __call__(
        self,
        cov: Float[Array, "*s"],
        left: Float[Array, "..."],
        right: Float[Array, "..."],
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        r"""The kernel, and $2 \gamma$ times it."""
        (gamma,) = constants(cov, self.gamma)
        value = jnp.exp(2 * gamma * at_most(cov - (left + right), 1e-3))
        return value, 2 * gamma * value

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """One."""
        return jnp.ones_like(variance)


class ExpDual(AbstractDual):
    r"""Dual of $f(x) = a\, e^{b x}$: $E f f = a^2 e^{b^2 (k + (v + v') / 2)}$."""

    a: Scalar
    b: Scalar

    def ends(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Half of the variance."""
        return 0.5 * variance

    def __call__(
        self,
        cov: Float[Array, "*s"],
        left: Float[Array, "..."],
        right: Float[Array, "..."],
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        """The kernel, and $b^2$ times it."""
        a, b = constants(cov, self.a, self.b)
        value = a * a * jnp.exp(b * b * (cov + left + right))
        return value, b * b * value

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The same at equal inputs."""
        a, b = constants(variance, self.a, self.b)
        return a * a * jnp.exp(2 * b * b * variance)


class ExpNormalizedDual(AbstractDual):
    r"""The kernel $K' = s s' e^{\gamma (\rho + h)}$ of the correlation $\rho$.

    It is that of $f(x) = \sum_l \sqrt{\gamma^l e^{\gamma h} / l!}\, h_l(x)$ with
    normalised Hermite polynomials $h_l$, made homogeneous (Shankar et al. 2020,
    arXiv:2003.02237, section 4). $\gamma e^{\gamma (\rho + h)}$ takes the place of
    $E f' f'$.
    """

    gamma: Scalar
    shift: Scalar

    def ends(
        self, variance: Float[Array, "*s"]
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        """The standard deviation and its reciprocal, which is zero for zero."""
        std = safe_sqrt(variance)
        return std, reciprocal(std)

    def __call__(
        self,
        cov: Float[Array, "*s"],
        left: tuple[Float[Array, "..."], Float[Array, "..."]],
        right: tuple[Float[Array, "..."], Float[Array, "..."]],
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        """The kernel, and its derivative in the covariance."""
        gamma, shift = constants(cov, self.gamma, self.shift)
        correlation = at_most(cov * (left[1] * right[1]), 1.001)
        exponential = jnp.exp(gamma * (correlation + shift))
        return left[0] * right[0] * exponential, gamma * exponential

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The variance, times a constant."""
        gamma, shift = constants(variance, self.gamma, self.shift)
        return variance * jnp.exp(gamma * (1 + shift))


class GaussianDual(AbstractDual):
    r"""Dual of $f(x) = a\, e^{b x^2}$.

    With $D = (1 - 2 b v)(1 - 2 b v') - 4 b^2 k^2$, $E f f = a^2 / \sqrt{D}$ and
    $E f' f' = 4 a^2 b^2 k / D^{3/2}$ (Williams 1997, eq. 13). For positive $b$ the
    expectations exist while $D$ and its factors are positive; beyond they are infinite.
    """

    a: Scalar
    b: Scalar

    def ends(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        r"""$\sqrt{1 - 2 b v}$."""
        (b,) = constants(variance, self.b)
        return safe_sqrt(1 - 2 * b * variance)

    def __call__(
        self,
        cov: Float[Array, "*s"],
        left: Float[Array, "..."],
        right: Float[Array, "..."],
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        """The two expectations."""
        a, b = constants(cov, self.a, self.b)
        size, twice = left * right, 2 * b * cov
        determinant = (size - twice) * (size + twice)
        # It is at least 1 unless `b` is positive.
        bound = jnp.where(b > 0, 0, jnp.asarray(0.5, cov.dtype))
        determinant = jnp.where(determinant < bound, bound, determinant)
        value = a * a / jnp.sqrt(determinant)
        return value, 2 * b * twice * value / determinant

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The same at equal inputs."""
        ends = self.ends(variance)
        return self(variance, ends, ends)[0]


class GaborDual(AbstractDual):
    r"""Dual of $f(x) = e^{-x^2} \sin x$.

    The factor $e^{-u^2 - v^2}$ turns the Gaussian into another one, with moments
    $V = (v + 2g) / D$, $V' = (v' + 2g) / D$ and $Q = k / D$, where $g = v v' - k^2$ and
    $D = (1 + 2v)(1 + 2v') - 4k^2$, times $1 / \sqrt{D}$. Under it, with $S$ and $C$ the
    expectations of $\sin u \sin v$ and $\cos u \cos v$,

    $$\sqrt{D}\, E f f = S, \qquad \sqrt{D}\, E f' f' =
    (1 - 2 (V + V') + 4 (V V' + Q^2))\, C + 4 Q (2 - V - V')\, S,$$

    the latter by Stein's lemma.
    """

    def ends(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The variance."""
        return variance

    def __call__(
        self,
        cov: Float[Array, "*s"],
        left: Float[Array, "..."],
        right: Float[Array, "..."],
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        """The two expectations."""
        gap = at_least(left * right - cov * cov, -0.01)
        determinant = 1 + 2 * (left + right) + 4 * gap
        scale = 1 / determinant
        q, v1, v2 = (scale * x for x in (cov, left + 2 * gap, right + 2 * gap))
        sine, cosine = _sine_and_cosine(q, 0.5 * (v1 + v2))
        norm = jnp.sqrt(scale)
        even = 1 - 2 * (v1 + v2) + 4 * (v1 * v2 + q * q)
        derivative = even * cosine + 4 * q * (2 - v1 - v2) * sine
        return norm * sine, norm * derivative

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The same at equal inputs."""
        return self(variance, variance, variance)[0]
