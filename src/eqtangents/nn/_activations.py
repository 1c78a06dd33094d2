"""Nonlinearities."""

import abc

import jax
import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import Scalar
from eqtangents.covariance import (
    AbstractCovariance,
    AbstractDual,
    ErfDual,
    Nonlinear,
    ReluDual,
)
from eqtangents.nn._layer import AbstractParameterless, Covariances, LayerError, single


class AbstractActivation(AbstractParameterless):
    r"""A function of each channel at each position.

    $K' = \mathbb{E}\, f(u) f(v)$ and $T' = T\; \mathbb{E}\, f'(u) f'(v)$ for centred
    Gaussian $(u, v)$ whose covariances are those of the input.
    """

    @property
    @abc.abstractmethod
    def dual(self) -> AbstractDual:
        """The two Gaussian expectations."""

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Apply the dual, if the input is Gaussian."""
        covariance = single(self, covariance)
        if not covariance.outline.gaussian:
            raise LayerError(
                self,
                "needs a Gaussian input for its kernel, but nothing with weights "
                "stands between it and the input of the network, another "
                "nonlinearity, a `Flatten`, a product or a concatenation of "
                "channels. Put a `Linear` or `Conv` before it.",
            )
        return Nonlinear(covariance, self.dual)


class Relu(AbstractActivation):
    r"""The rectifier, $\max(x, 0)$.

    **Source:** Cho & Saul 2009, eq. 1 to 6 (arc-cosine kernels of order 1 and 0).
    """

    @property
    def dual(self) -> ReluDual:
        """Arc-cosine kernels."""
        return ReluDual(0.0, 1.0)

    def __call__(
        self, x: Float[Array, "*s"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*s"]:
        """Apply to one example."""
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

    def __call__(
        self, x: Float[Array, "*s"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*s"]:
        """Apply to one example."""
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

    def __call__(
        self, x: Float[Array, "*s"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*s"]:
        """Apply to one example."""
        return _bent(x, self.negative_slope, self.positive_slope)


class Abs(AbstractActivation):
    """The absolute value."""

    @property
    def dual(self) -> ReluDual:
        """A rectifier and a linear function."""
        return ReluDual(-1.0, 1.0)

    def __call__(
        self, x: Float[Array, "*s"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*s"]:
        """Apply to one example."""
        return jnp.abs(x)


class Erf(AbstractActivation):
    r"""The error function, $a\, \mathrm{erf}(b x) + c$.

    **Source:** Williams 1997, "Computing with infinite networks", eq. 11.
    """

    a: Scalar
    b: Scalar
    c: Scalar

    def __init__(self, a: Scalar = 1.0, b: Scalar = 1.0, c: Scalar = 0.0):
        """Set the height `a`, the steepness `b` and the offset `c`."""
        self.a, self.b, self.c = a, b, c

    @property
    def dual(self) -> ErfDual:
        """Arcsine kernel."""
        return ErfDual(self.a, self.b, self.c)

    def __call__(
        self, x: Float[Array, "*s"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*s"]:
        """Apply to one example."""
        a, b, c = (jnp.asarray(s, x.dtype) for s in (self.a, self.b, self.c))
        return a * erf(b * x) + c


def _bent(
    x: Float[Array, "*s"], negative_slope: Scalar, positive_slope: Scalar
) -> Float[Array, "*s"]:
    below, above = (jnp.asarray(s, x.dtype) for s in (negative_slope, positive_slope))
    return x * jnp.where(x < 0, below, above)
