"""Nonlinearities that are linear between breakpoints away from zero."""

import jax
from jaxtyping import Array, Float

from eqtangents.duals import Break, PiecewisePolynomial, PiecewisePolynomialDual
from eqtangents.nn._activations import AbstractActivation


class HardTanh(AbstractActivation):
    r"""$f(x) = \max(-1, \min(x, 1))$.

    With $f(x) = x + (-1 - x)_+ - (x - 1)_+$, the kernel is a sum of truncated moments,
    which are bivariate normal probabilities and densities. $T'$ is the probability that
    neither input is cut off, times $T$.

    **Source:** truncated moments by Owen 1956; see `PiecewisePolynomialDual`.
    """

    @property
    def dual(self) -> PiecewisePolynomialDual:
        breaks = Break(-1.0, (0.0, 1.0)), Break(1.0, (0.0, -1.0))
        return PiecewisePolynomialDual(PiecewisePolynomial((0.0, 1.0), breaks))

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jax.nn.hard_tanh(x)


class Relu6(AbstractActivation):
    r"""$f(x) = \min(\max(x, 0), 6)$.

    With $f(x) = x_+ - (x - 6)_+$,
    $K' = \sum_{ij} w_i w_j\, \mathbb{E} (u - t_i)_+ (v - t_j)_+$ for $w = (1, -1)$ and
    $t = (0, 6)$, which are bivariate normal probabilities and densities. $T'$ is the
    probability that neither input is cut off, times $T$.

    **Source:** Krizhevsky 2010, Convolutional deep belief networks on CIFAR-10.
    """

    @property
    def dual(self) -> PiecewisePolynomialDual:
        breaks = Break(0.0, (0.0, 1.0)), Break(6.0, (0.0, -1.0))
        return PiecewisePolynomialDual(PiecewisePolynomial((0.0,), breaks))

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jax.nn.relu6(x)
