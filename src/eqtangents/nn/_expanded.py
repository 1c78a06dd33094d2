"""Nonlinearities whose kernels are Hermite expansions, or may be."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.duals import AbstractDual, FittedDual, GeluDual
from eqtangents.nn._activations import AbstractActivation


class Tanh(AbstractActivation):
    """The hyperbolic tangent. Its kernel is an expansion, as that of `Elementwise`."""

    @property
    def dual(self) -> FittedDual:
        """A Hermite expansion."""
        return FittedDual(jnp.tanh)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The hyperbolic tangent."""
        return jnp.tanh(x)


class Sigmoid(AbstractActivation):
    """The logistic sigmoid. Its kernel is an expansion, as that of `Elementwise`."""

    @property
    def dual(self) -> FittedDual:
        """A Hermite expansion."""
        return FittedDual(jax.nn.sigmoid)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The logistic sigmoid."""
        return jax.nn.sigmoid(x)


class Softplus(AbstractActivation):
    r"""$\log(1 + e^x)$. Its kernel is an expansion, as that of `Elementwise`."""

    @property
    def dual(self) -> FittedDual:
        """A Hermite expansion."""
        return FittedDual(jax.nn.softplus)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """A smooth rectifier."""
        return jax.nn.softplus(x)


class Silu(AbstractActivation):
    r"""$x / (1 + e^{-x})$. Its kernel is an expansion, as that of `Elementwise`.

    **Source:** Elfwing et al. 2018, arXiv:1702.03118; also known as swish.
    """

    @property
    def dual(self) -> FittedDual:
        """A Hermite expansion."""
        return FittedDual(jax.nn.silu)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The input times its sigmoid."""
        return jax.nn.silu(x)


class Selu(AbstractActivation):
    r"""An `Elu` scaled to keep mean 0 and variance 1. Its kernel is an expansion.

    **Source:** Klambauer et al. 2017, arXiv:1706.02515.
    """

    @property
    def dual(self) -> FittedDual:
        """A Hermite expansion."""
        return FittedDual(jax.nn.selu)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The scaled exponential linear unit."""
        return jax.nn.selu(x)


class Elu(AbstractActivation):
    r"""$x$ for $x > 0$, else $\alpha (e^x - 1)$. Its kernel is an expansion.

    **Source:** Clevert et al. 2016, arXiv:1511.07289.
    """

    alpha: Scalar

    def __init__(self, alpha: Scalar = 1.0):
        r"""Set $-\alpha$, the limit for very negative inputs."""
        self.alpha = alpha

    @property
    def dual(self) -> FittedDual:
        """A Hermite expansion."""
        return FittedDual(self.function)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The exponential linear unit."""
        return jax.nn.elu(x, jnp.asarray(self.alpha, x.dtype))


class Gelu(AbstractActivation):
    r"""$x\, \Phi(x)$ with the normal distribution function $\Phi$.

    Its kernel is a closed form. With `approximate`, the function is
    $\frac{x}{2} (1 + \tanh(\sqrt{2 / \pi}\, (x + 0.044715\, x^3)))$, whose kernel is
    another one, an expansion as that of `Elementwise`.

    **Source:** Hendrycks & Gimpel 2016, arXiv:1606.08415; kernel: Tsuchida et al. 2021,
    arXiv:2002.08517.
    """

    approximate: bool = eqx.field(static=True)

    def __init__(self, approximate: bool = False):
        """Choose the function itself, or its approximation by a hyperbolic tangent."""
        self.approximate = approximate

    @property
    def dual(self) -> AbstractDual:
        """The closed form, or the expansion."""
        return FittedDual(_gelu_by_tanh) if self.approximate else GeluDual()

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The input times its probability to be above a standard normal variable."""
        return jax.nn.gelu(x, approximate=self.approximate)


def _gelu_by_tanh(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return jax.nn.gelu(x, approximate=True)
