"""Nonlinearities that are linear, or powers, on either side of zero."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import CountOrZero, Scalar, plain
from eqtangents.duals import RectifiedMonomialDual, ReluDual, SignDual
from eqtangents.nn._activations import AbstractActivation


class Relu(AbstractActivation):
    r"""The rectifier, $\max(x, 0)$.

    **Source:** Cho & Saul 2009, eq. 1 to 6 (arc-cosine kernels of order 1 and 0).
    """

    @property
    def dual(self) -> ReluDual:
        """Arc-cosine kernels."""
        return ReluDual(0.0, 1.0)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The positive part."""
        return jax.nn.relu(x)


class LeakyRelu(AbstractActivation):
    r"""$\max(x, 0) + \alpha \min(x, 0)$."""

    negative_slope: Scalar

    def __init__(self, negative_slope: Scalar = 0.01):
        r"""Set the slope $\alpha$ for negative inputs."""
        self.negative_slope = negative_slope

    @property
    def dual(self) -> ReluDual:
        """A rectifier and a linear function."""
        return ReluDual(self.negative_slope, 1.0)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Two slopes."""
        return _bent(x, self.negative_slope, 1.0)


class ABRelu(AbstractActivation):
    r"""$\alpha \min(x, 0) + \beta \max(x, 0)$."""

    negative_slope: Scalar
    positive_slope: Scalar

    def __init__(self, negative_slope: Scalar, positive_slope: Scalar):
        r"""Set the slopes $\alpha$ for negative and $\beta$ for positive inputs."""
        self.negative_slope, self.positive_slope = negative_slope, positive_slope

    @property
    def dual(self) -> ReluDual:
        """A rectifier and a linear function."""
        return ReluDual(self.negative_slope, self.positive_slope)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Two slopes."""
        return _bent(x, self.negative_slope, self.positive_slope)


class Abs(AbstractActivation):
    """The absolute value."""

    @property
    def dual(self) -> ReluDual:
        """A rectifier and a linear function."""
        return ReluDual(-1.0, 1.0)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The size of the input."""
        return jnp.abs(x)


class RectifiedMonomial(AbstractActivation):
    r"""$x^n$ for $x > 0$, else 0; for $n = 0$ a step, which is one half at zero.

    **Source:** Cho & Saul 2009, eq. 3 and 4 (arc-cosine kernels of order $n$).
    """

    degree: CountOrZero = eqx.field(static=True)

    def __init__(self, degree: CountOrZero):
        """Set the degree, 0 or more."""
        self.degree = plain(degree)

    @property
    def dual(self) -> RectifiedMonomialDual:
        """Arc-cosine kernels."""
        return RectifiedMonomialDual(self.degree)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """A power of the positive part."""
        if self.degree == 0:
            return 0.5 * (jnp.sign(x) + 1)
        return jax.nn.relu(x) ** self.degree


class Sign(AbstractActivation):
    r"""The sign, $-1$, $0$ or $1$. No gradient passes it: $T' = 0$.

    **Source:** Williams 1997, eq. 11, in the limit of steep error functions.
    """

    @property
    def dual(self) -> SignDual:
        """Arcsine kernel."""
        return SignDual()

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The sign."""
        return jnp.sign(x)


def _bent(
    x: Float[Array, "*s"], negative_slope: Scalar, positive_slope: Scalar
) -> Float[Array, "*s"]:
    below, above = (jnp.asarray(s, x.dtype) for s in (negative_slope, positive_slope))
    return x * jnp.where(x < 0, below, above)
