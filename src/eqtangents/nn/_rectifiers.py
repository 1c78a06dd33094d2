"""Nonlinearities that are linear, or powers, on either side of zero."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import CountOrZero, Scalar, plain
from eqtangents.duals import LinearDual, RectifiedMonomialDual, ReluDual, SignDual
from eqtangents.nn._activations import AbstractActivation


class Relu(AbstractActivation):
    r"""The rectifier, $f(x) = \max(x, 0)$.

    $$K' = \frac{s s'}{2\pi} \big(\sin\theta + (\pi - \theta) \cos\theta\big), \qquad
    T' = \frac{\pi - \theta}{2\pi}\, T$$

    with the angle $\theta = \arccos(k / (s s'))$ and $s = \sqrt{v}$, $s' = \sqrt{v'}$.

    **Source:** Cho & Saul 2009, eq. 1 to 6 (arc-cosine kernels of order 1 and 0).
    """

    @property
    def dual(self) -> ReluDual:
        return ReluDual(0.0, 1.0)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jax.nn.relu(x)


class LeakyRelu(AbstractActivation):
    r"""$f(x) = \max(x, 0) + \alpha \min(x, 0)$.

    $K' = (1 - \alpha)^2 K'_\text{Relu} + \alpha k$ and
    $T' = (1 - \alpha)^2\, T'_\text{Relu} + \alpha T$, with the kernels of a `Relu`.
    """

    negative_slope: Scalar

    def __init__(self, negative_slope: Scalar = 0.01):
        r"""Set the slope $\alpha$ for negative inputs."""
        self.negative_slope = negative_slope

    @property
    def dual(self) -> LinearDual | ReluDual:
        return _dual_of_two_slopes(self.negative_slope, 1.0)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return _two_slopes(x, self.negative_slope, 1.0)


class ABRelu(AbstractActivation):
    r"""$f(x) = \alpha \min(x, 0) + \beta \max(x, 0)$.

    $K' = (\beta - \alpha)^2 K'_\text{Relu} + \alpha \beta\, k$ and
    $T' = (\beta - \alpha)^2\, T'_\text{Relu} + \alpha \beta\, T$, with the kernels of a
    `Relu`. With slopes that are equal Python numbers, it is a `Scale`.
    """

    negative_slope: Scalar
    positive_slope: Scalar

    def __init__(self, negative_slope: Scalar, positive_slope: Scalar):
        r"""Set the slopes $\alpha$ for negative and $\beta$ for positive inputs."""
        self.negative_slope, self.positive_slope = negative_slope, positive_slope

    @property
    def dual(self) -> LinearDual | ReluDual:
        return _dual_of_two_slopes(self.negative_slope, self.positive_slope)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return _two_slopes(x, self.negative_slope, self.positive_slope)


class Abs(AbstractActivation):
    r"""The absolute value, $f(x) = |x|$.

    $K' = 4 K'_\text{Relu} - k$ and $T' = 4\, T'_\text{Relu} - T$, with the kernels of a
    `Relu`: $K' = \frac{2 s s'}{\pi} \big(\sin\theta + (\frac{\pi}{2} - \theta)
    \cos\theta\big)$.
    """

    @property
    def dual(self) -> ReluDual:
        return ReluDual(-1.0, 1.0)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jnp.abs(x)


class RectifiedMonomial(AbstractActivation):
    r"""$f(x) = x^n$ for $x > 0$, else 0; for $n = 0$ a step, which is one half at zero.

    $$K' = \frac{(s s')^n}{2\pi} J_n(\theta), \qquad
    T' = \frac{n^2 (s s')^{n-1}}{2\pi} J_{n-1}(\theta)\, T$$

    with $J_n(\theta) = (-1)^n (\sin\theta)^{2n+1} \big(\frac{1}{\sin\theta}
    \frac{\partial}{\partial\theta}\big)^n \frac{\pi - \theta}{\sin\theta}$ and
    $\theta = \arccos(k / (s s'))$. No gradient passes a step: $T' = 0$ for $n = 0$.

    **Source:** Cho & Saul 2009, eq. 3 and 4 (arc-cosine kernels of order $n$).
    """

    degree: CountOrZero = eqx.field(static=True)

    def __init__(self, degree: CountOrZero):
        """Set the degree, 0 or more."""
        self.degree = plain(degree)

    @property
    def dual(self) -> RectifiedMonomialDual:
        return RectifiedMonomialDual(self.degree)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        if self.degree == 0:
            return 0.5 * (jnp.sign(x) + 1)
        return jax.nn.relu(x) ** self.degree


class Sign(AbstractActivation):
    r"""The sign, $f(x) = -1$, $0$ or $1$.

    $K' = \frac{2}{\pi} \arcsin \frac{k}{s s'}$. No gradient passes it: $T' = 0$.

    **Source:** Williams 1997, eq. 11, in the limit of steep error functions.
    """

    @property
    def dual(self) -> SignDual:
        return SignDual()

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jnp.sign(x)


def _dual_of_two_slopes(below: Scalar, above: Scalar) -> LinearDual | ReluDual:
    """The dual of a function with two slopes, which are one if they are equal numbers.

    Arrays may be traced: whether they are equal is not known.
    """
    are_numbers = isinstance(below, float | int) and isinstance(above, float | int)
    if are_numbers and below == above:
        return LinearDual(float(below))
    return ReluDual(below, above)


def _two_slopes(
    x: Float[Array, "*s"], negative_slope: Scalar, positive_slope: Scalar
) -> Float[Array, "*s"]:
    below, above = (jnp.asarray(s, x.dtype) for s in (negative_slope, positive_slope))
    return x * jnp.where(x < 0, below, above)
