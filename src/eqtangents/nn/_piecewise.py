"""Nonlinearities that are linear between breakpoints away from zero."""

import jax
from jaxtyping import Array, Float

from eqtangents.duals import Break, PiecewisePolynomial, PiecewisePolynomialDual
from eqtangents.nn._activations import AbstractActivation


class HardTanh(AbstractActivation):
    r"""$\max(-1, \min(x, 1))$.

    Its kernel is a closed form, by bivariate normal probabilities.
    """

    @property
    def dual(self) -> PiecewisePolynomialDual:
        """The line, less what is beyond its ends."""
        ends = Break(-1.0, (0.0, 1.0)), Break(1.0, (0.0, -1.0))
        return PiecewisePolynomialDual(PiecewisePolynomial((0.0, 1.0), ends))

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The input, cut off."""
        return jax.nn.hard_tanh(x)


class Relu6(AbstractActivation):
    r"""$\min(\max(x, 0), 6)$.

    Its kernel is a closed form, by bivariate normal probabilities.

    **Source:** Krizhevsky 2010, Convolutional deep belief networks on CIFAR-10.
    """

    @property
    def dual(self) -> PiecewisePolynomialDual:
        """A rectifier, less what is beyond 6."""
        ends = Break(0.0, (0.0, 1.0)), Break(6.0, (0.0, -1.0))
        return PiecewisePolynomialDual(PiecewisePolynomial((0.0,), ends))

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The positive part, cut off."""
        return jax.nn.relu6(x)
