"""Duals of functions that are powers of the rectifier and of the input."""

import functools
import math
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.duals._dual import AbstractDual
from eqtangents.duals._elementary import (
    angle_factors,
    constants,
    reciprocal,
    safe_sqrt,
    valued,
)
from eqtangents.duals._pair import (
    Deviation,
    Moments,
    Pair,
    above,
    deviation,
)


@jax.custom_jvp
def arc_cosine(
    pair: Pair, left: Deviation, right: Deviation
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Arc-cosine kernels of order 1 and 0 (Cho & Saul 2009, eq. 3 to 6).

    With $\theta$ the angle between the inputs,
    $\frac{s s'}{2\pi} (\sin\theta + (\pi - \theta) \cos\theta)$ and
    $\frac{\pi - \theta}{2 \pi}$. Zero makes a right angle with everything.
    """
    cov, root = pair.cov, _deficit_root(pair.deficit(left, right))
    z = root * root
    angle, integral = angle_factors(z)
    size = (0.5 / math.pi) * (left.std * right.std)
    value = 0.5 * lax.max(cov, jnp.zeros_like(cov)) + size * (z * root * integral)
    acute = (0.5 / math.pi) * (root * angle)
    return value, lax.select(cov > 0, 0.5 - acute, acute)


def _deficit_root(z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The root of a deficit, with a finite slope where that is zero."""
    return jnp.sqrt(z + 1e-30)


@arc_cosine.defjvp
def _arc_cosine_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """The rule is made of differentiable functions, so that it can be differentiated.

    Derivatives of the angle divide a difference by its sine. Where the angle itself
    could be rounding, the difference is nothing but rounding: there these derivatives
    count as zero, which is right where inputs coincide.
    """
    (pair, left, right), (d_pair, d_left, d_right) = primals, tangents
    value, derivative = arc_cosine(*primals)
    d_log = _growth(left, d_left) + _growth(right, d_right)
    z = pair.deficit(left, right)
    certain = above(z, None)
    certain_sine = safe_sqrt(certain * (2 - certain))
    sine = valued(lax.stop_gradient(safe_sqrt(z * (2 - z))), certain_sine)
    size = left.std * right.std
    d_value = derivative * d_pair.cov + (0.5 / math.pi) * sine * size * d_log
    per_size = left.reciprocal * right.reciprocal
    slope = (0.5 / math.pi) * reciprocal(certain_sine) * per_size
    d_derivative = slope * (d_pair.cov - pair.cov * d_log)
    return (value, derivative), (d_value, d_derivative)


def _growth(end: Deviation, d_end: Deviation) -> Float[Array, "..."]:
    """The derivative of the logarithm of a deviation, zero where that is zero.

    Backwards, those of all pairs of an example are added up before anything else.
    """
    return d_end.std * end.reciprocal


def rectified_gap(
    pair: Pair, left: Deviation, right: Deviation
) -> Float[Array, "..."] | None:
    r"""The gap of the arc-cosine kernel of order 1, if the gap $g$ of inputs is known.

    It is $\frac{g}{2} - \frac{s s'}{2\pi} (\sin\theta - \theta \cos\theta)$, whose
    second term is of higher order. Beyond right angles the first term is
    $\frac{s s'}{2}$, and $\pi - \theta$ takes the place of $\theta$ in the second.
    """
    if pair.gap is None:
        return None
    root = lax.stop_gradient(_deficit_root(pair.deficit(left, right)))
    z = root * root
    _, integral = angle_factors(z)
    size = left.std * right.std
    bent = (0.5 / math.pi) * size * (z * root * integral)
    return lax.stop_gradient(0.5 * lax.min(pair.gap, size) - bent)


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


class ReluDual(AbstractDual):
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
        slopes = (self.negative_slope, self.positive_slope)
        if not any(map(eqx.is_array, slopes)) and slopes == (0.0, 1.0):
            return Moments(value, derivative, gap)
        a, b = constants(pair.cov, self.negative_slope, self.positive_slope)
        bend, line = (b - a) * (b - a), a * b
        return Moments(
            bend * value + line * pair.cov,
            bend * derivative + line,
            None if gap is None else lax.stop_gradient(bend * gap + line * pair.gap),
        )

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        a, b = constants(variance, self.negative_slope, self.positive_slope)
        return 0.5 * (a * a + b * b) * variance


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def arc_cosine_of_degree(
    degree: int, pair: Pair, left: Deviation, right: Deviation
) -> Float[Array, "..."]:
    r"""$K_n = E u_+^n v_+^n$, a multiple of the arc-cosine kernel of order $n$.

    It is found by $K_{n+1} = (2n + 1)\, k K_n + n^2 (s^2 s'^2 - k^2)\, K_{n-1}$, which
    follows from eq. 4 of Cho & Saul 2009: with $c = \cos\theta$, the $n$-th derivative
    $F_n$ in $c$ of $F_0 = (\pi - \theta) / \sin\theta$ has
    $(1 - c^2) F_{n+1} = (2n + 1)\, c F_n + n^2 F_{n-1}$ for $n \ge 1$, and
    $2\pi K_n = (s s')^n \sin^{2n+1}\theta\, F_n$.
    """
    above, below = arc_cosine(pair, left, right)
    if degree == 0:
        return below
    minor = _minor(pair, left, right)
    for n in range(1, degree):
        above, below = (2 * n + 1) * pair.cov * above + n * n * minor * below, above
    return above


def _minor(pair: Pair, left: Deviation, right: Deviation) -> Float[Array, "..."]:
    r"""$s^2 s'^2 - k^2$."""
    size, z = left.std * right.std, lax.stop_gradient(pair.deficit(left, right))
    formula = (size - pair.cov) * (size + pair.cov)
    return valued(lax.stop_gradient(size * size) * (z * (2 - z)), formula)


@arc_cosine_of_degree.defjvp
def _arc_cosine_of_degree_jvp(
    degree: int, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    r"""$\partial_k K_n = n^2 K_{n-1}$; $K_n$ is homogeneous in $k$ and $s s'$."""
    if degree < 2:
        values, d_values = jax.jvp(arc_cosine, primals, tangents)
        return values[1 - degree], d_values[1 - degree]
    (pair, left, right), (d_pair, d_left, d_right) = primals, tangents
    n = degree
    below, lowest = (arc_cosine_of_degree(n - i, *primals) for i in (1, 2))
    d_log = _growth(left, d_left) + _growth(right, d_right)
    along_size = pair.cov * below + (n - 1) * _minor(*primals) * lowest
    tangent = n * n * below * d_pair.cov + n * (n - 1) * along_size * d_log
    return arc_cosine_of_degree(n, *primals), tangent


class KnownVariance(NamedTuple):
    """A variance, and the standard deviation, which has no slope at zero."""

    variance: Float[Array, "..."]
    deviation: Deviation


def _moment_of_degree(
    degree: int, pair: Pair, left: KnownVariance, right: KnownVariance
) -> Float[Array, "..."]:
    r"""$E u_+^n v_+^n$, with its slope in a variance of zero.

    There it is $E u_+^n E v_+^n$, for even $n$ a product of powers of the variances.
    """
    value = arc_cosine_of_degree(degree, pair, left.deviation, right.deviation)
    if degree == 0 or degree % 2:
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
            return jnp.where(variance > 0, 0.5, jnp.asarray(0.25, variance.dtype))
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
        _, step = arc_cosine(pair, left, right)
        return Moments(4 * step - 1, jnp.zeros_like(step))

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jnp.where(variance > 0, 1, jnp.asarray(0, variance.dtype))
