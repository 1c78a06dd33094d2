"""Duals of functions that are powers of the rectifier and of the input."""

import math
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.duals._arc_cosine import (
    Rectified,
    arc_cosine,
    arc_cosine_of_degree,
    arc_cosine_of_sum,
    rectified_gap,
)
from eqtangents.duals._dual import AbstractDual, AbstractDualOfSums
from eqtangents.duals._elementary import constants
from eqtangents.duals._pair import Deviation, Moments, Pair, deviation


class LinearDual(AbstractDual):
    r"""Dual of $f(x) = a x$.

    $$E f f = a^2 k, \qquad E f' f' = a^2.$$

    The slope is known when a network is composed: a linear function needs no Gaussian
    input, so that layers ask for this class.
    """

    homogeneous: ClassVar[bool] = True
    slope: float = eqx.field(static=True, default=1.0)

    def prepare(self, variance: Float[Array, "*s"]) -> tuple[()]:
        return ()

    def moments(self, pair: Pair, left: tuple[()], right: tuple[()]) -> Moments:
        square = self.slope * self.slope
        gap = None if pair.gap is None else square * pair.gap
        return Moments(square * pair.cov, jnp.full_like(pair.cov, square), gap)

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return self.slope * self.slope * variance


class ReluDual(AbstractDualOfSums):
    r"""Dual of $f(x) = \alpha \min(x, 0) + \beta \max(x, 0)$.

    $$E f f = (\beta - \alpha)^2 \frac{s s'}{2\pi} \big(\sin\theta +
    (\pi - \theta) \cos\theta\big) + \alpha \beta\, k, \qquad
    E f' f' = (\beta - \alpha)^2 \frac{\pi - \theta}{2\pi} + \alpha \beta$$

    with $\cos\theta = k / (s s')$. For the rectifier itself, $\alpha = 0$ and
    $\beta = 1$, they are arc-cosine kernels (Cho & Saul 2009, eq. 1 to 6). In general
    $f(x) = (\beta - \alpha) \max(x, 0) + \alpha x$, and all terms with the linear part
    add up to $\alpha \beta\, k$.
    """

    homogeneous: ClassVar[bool] = True
    negative_slope: Scalar = 0.0
    positive_slope: Scalar = 1.0

    def prepare(self, variance: Float[Array, "*s"]) -> Deviation:
        return deviation(variance)

    def moments(self, pair: Pair, left: Deviation, right: Deviation) -> Moments:
        value, derivative = arc_cosine(pair, left, right)
        gap = rectified_gap(pair, left, right)
        return self._bent(Moments(value, derivative, gap), pair)

    @property
    def nonnegative(self) -> bool:
        low, high = self.negative_slope, self.positive_slope
        if isinstance(low, int | float) and isinstance(high, int | float):
            return low <= 0 <= high
        return False

    def prepare_for_sum(self, variance: Float[Array, "*s"]) -> Rectified:
        return Rectified.of(variance)

    def moments_of_sum(
        self, pair: Pair, left: Rectified, right: Rectified, *, nonnegative: bool
    ) -> tuple[Moments, Float[Array, "..."]]:
        value, derivative, cov = arc_cosine_of_sum(
            pair, left, right, nonnegative=nonnegative
        )
        return self._bent(Moments(value, derivative), Pair(cov)), cov

    def _bent(self, found: Moments, pair: Pair) -> Moments:
        """The moments of this function, given those of the rectifier."""
        slopes = (self.negative_slope, self.positive_slope)
        if not any(map(eqx.is_array, slopes)) and slopes == (0.0, 1.0):
            return found
        a, b = constants(pair.cov, self.negative_slope, self.positive_slope)
        bend, line, gap = (b - a) * (b - a), a * b, found.gap
        return Moments(
            bend * found.value + line * pair.cov,
            bend * found.derivative + line,
            None if gap is None else lax.stop_gradient(bend * gap + line * pair.gap),
        )

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        a, b = constants(variance, self.negative_slope, self.positive_slope)
        return 0.5 * (a * a + b * b) * variance


class KnownVariance(NamedTuple):
    """A variance, and the standard deviation, which has no slope at zero."""

    variance: Float[Array, "..."]
    deviation: Deviation


def _both_positive(
    pair: Pair, left: Deviation, right: Deviation
) -> Float[Array, "..."]:
    """That both are positive; of what is no number, neither is that."""
    _, step = arc_cosine(pair, left, right)
    return jnp.where(jnp.isnan(pair.cov), pair.cov, step)


def _is_positive(variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """One for a positive variance, else zero; of what is no number, none."""
    return jnp.sign(jnp.maximum(variance, 0))


def _moment_of_degree(
    degree: int, pair: Pair, left: KnownVariance, right: KnownVariance
) -> Float[Array, "..."]:
    r"""$E u_+^n v_+^n$, with its slope in a variance of zero.

    There it is $E u_+^n E v_+^n$, for even $n$ a product of powers of the variances.
    """
    if degree == 0:
        return _both_positive(pair, left.deviation, right.deviation)
    value = arc_cosine_of_degree(degree, pair, left.deviation, right.deviation)
    if degree % 2:
        return value
    one_sided = 0.5 * math.prod(range(1, degree, 2))
    apart = (one_sided * left.variance ** (degree // 2)) * (
        one_sided * right.variance ** (degree // 2)
    )
    zero = (left.deviation.std == 0) | (right.deviation.std == 0)
    return value + jnp.where(zero, apart - lax.stop_gradient(apart), 0)


class RectifiedMonomialDual(AbstractDual):
    r"""Dual of $f(x) = x^n$ for $x > 0$, else 0; a step of height 1 for $n = 0$.

    $$E f f = \frac{(s s')^n}{2\pi} J_n(\theta), \qquad
    E f' f' = n^2 \frac{(s s')^{n-1}}{2\pi} J_{n-1}(\theta)$$

    with $J_n(\theta) = (-1)^n (\sin\theta)^{2n+1} \big(\frac{1}{\sin\theta}
    \frac{\partial}{\partial\theta}\big)^n \frac{\pi - \theta}{\sin\theta}$ (Cho & Saul
    2009, eq. 3 and 4). A step is flat except for its jump, which gradients in finite
    networks do not see: $E f' f' = 0$ for $n = 0$.
    """

    degree: int = eqx.field(static=True)

    def prepare(self, variance: Float[Array, "*s"]) -> KnownVariance:
        return KnownVariance(variance, deviation(variance))

    def moments(self, pair: Pair, left: KnownVariance, right: KnownVariance) -> Moments:
        value = _moment_of_degree(self.degree, pair, left, right)
        if self.degree == 0:
            return Moments(value, jnp.zeros_like(value))
        below = _moment_of_degree(self.degree - 1, pair, left, right)
        return Moments(value, self.degree**2 * below)

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        if self.degree == 0:
            return 0.25 + 0.25 * _is_positive(variance)
        odd_factorial = math.prod(range(1, 2 * self.degree, 2))
        return 0.5 * odd_factorial * variance**self.degree


class SignDual(AbstractDual):
    r"""Dual of the sign.

    $E f f = \frac{2}{\pi} \arcsin\rho$ (Williams 1997, eq. 11, in the limit of steep
    error functions) and $E f' f' = 0$: gradients in finite networks do not see jumps.
    """

    def prepare(self, variance: Float[Array, "*s"]) -> Deviation:
        return deviation(variance)

    def moments(self, pair: Pair, left: Deviation, right: Deviation) -> Moments:
        # The sign is twice a step, minus one.
        step = _both_positive(pair, left, right)
        return Moments(4 * step - 1, jnp.zeros_like(step))

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return _is_positive(variance)
