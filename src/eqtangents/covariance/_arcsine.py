"""Duals of functions made of the error function."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.covariance._elementary import arcsin, at_least, constants
from eqtangents.covariance._pointwise import AbstractDual


class ErfDual(AbstractDual):
    r"""Dual of $f(x) = a\, \mathrm{erf}(b x) + c$ (Williams 1997, eq. 11)."""

    a: Scalar
    b: Scalar
    c: Scalar

    def ends(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        r"""$\sqrt{1 + 2 b^2 v}$."""
        (b,) = constants(variance, self.b)
        return jnp.sqrt(1 + 2 * b * b * variance)

    def __call__(
        self,
        cov: Float[Array, "*s"],
        left: Float[Array, "..."],
        right: Float[Array, "..."],
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        r"""$a^2 \frac{2}{\pi} \arcsin\rho + c^2$ with $\rho = 2 b^2 k / (e e')$."""
        a, b, c = constants(cov, self.a, self.b, self.c)
        size, twice = left * right, 2 * b * b * cov
        value = a * a * (2 / math.pi) * arcsin(twice / size) + c * c
        root = jnp.sqrt(_determinant(size, twice))
        return value, a * a * b * b * (4 / math.pi) / root

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The same at equal inputs."""
        ends = self.ends(variance)
        return self(variance, ends, ends)[0]


class GeluDual(AbstractDual):
    r"""Dual of $f(x) = x\, \Phi(x)$, with $\Phi$ the normal distribution function.

    With $e = \sqrt{1 + v}$, $D = e^2 e'^2 - k^2$ and $\phi = \arcsin(k / (e e'))$,

    $$E f f = \frac{k}{4} + \frac{1}{2\pi}
    \Big( k \phi + \frac{k^2 + v v' D}{e^2 e'^2 \sqrt{D}} \Big), \qquad
    E f' f' = \frac{1}{4} + \frac{1}{2\pi} \Big( \phi + \frac{k}{\sqrt{D}}
    \Big( 1 + \frac{1}{D} + \frac{1 - v v'}{e^2 e'^2} \Big) \Big)$$

    (Tsuchida et al. 2021, arXiv:2002.08517; the second is the derivative of the first).
    """

    def ends(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        r"""$\sqrt{1 + v}$."""
        return jnp.sqrt(1 + variance)

    def __call__(
        self,
        cov: Float[Array, "*s"],
        left: Float[Array, "..."],
        right: Float[Array, "..."],
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        """The two expectations."""
        size = left * right
        square, determinant = size * size, _determinant(size, cov)
        root = jnp.sqrt(determinant)
        angle = arcsin(cov / size)
        variances = (left - 1) * (left + 1) * ((right - 1) * (right + 1))
        value = cov * angle + (cov * cov / determinant + variances) * root / square
        bracket = 1 + 1 / determinant + (1 - variances) / square
        derivative = angle + cov / root * bracket
        return (
            0.25 * cov + value / (2 * math.pi),
            0.25 + derivative / (2 * math.pi),
        )

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The same at equal inputs."""
        ends = self.ends(variance)
        return self(variance, ends, ends)[0]


def _determinant(
    size: Float[Array, "..."], cov: Float[Array, "..."]
) -> Float[Array, "..."]:
    """`size**2 - cov**2`, which is at least 1 for covariances."""
    return at_least((size - cov) * (size + cov), 0.5)
