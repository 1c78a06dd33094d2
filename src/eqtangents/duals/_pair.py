r"""What a dual activation is told of two Gaussians, and what it tells of their images.

Between the inputs of deep networks $s s' - k$ becomes as small as $k$ times the inverse
square of the depth, and formed from rounded numbers it is lost. Where positions play no
part, rules therefore pass on this **gap** beside the covariance: it obeys rules of its
own that subtract nothing. It is a value alone. Whatever is computed from it is
differentiated as a function of the covariance and the variances (`valued`), so that
derivatives of any order are those of the obvious formula.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents.duals._elementary import reciprocal, safe_sqrt, valued


class Deviation(NamedTuple):
    """Standard deviations, and their reciprocals; both zero where an input is."""

    std: Float[Array, "..."]
    reciprocal: Float[Array, "..."]


def deviation(variance: Float[Array, "*s"]) -> Deviation:
    """The standard deviation and its reciprocal.

    A variance that overflowed counts as the largest there is: products with zero angles
    stay zero.
    """
    largest = jnp.full_like(variance, jnp.finfo(variance.dtype).max)
    std = safe_sqrt(lax.min(variance, largest))
    return Deviation(std, reciprocal(std))


class Pair(NamedTuple):
    """The covariance of two Gaussians, and what is known of it besides.

    `gap`: `s s' - cov`, where it is known better than by subtracting. `tolerance`: how
    small `1 - |correlation|` may be and still be rounding; infinite where the two are
    one, a few units of rounding if not given.
    """

    cov: Float[Array, "..."]
    gap: Float[Array, "..."] | None = None
    tolerance: Float[Array, "..."] | None = None

    def deficit(self, left: Deviation, right: Deviation) -> Float[Array, "..."]:
        """`1 - |correlation|`, and exactly zero where it may be rounding alone.

        An angle goes like its root: without this, rounding would turn an input away
        from itself by an angle of `sqrt(eps)`. Zero makes a right angle with
        everything.
        """
        formula = 1 - lax.abs(self.cov) * left.reciprocal * right.reciprocal
        if self.gap is None:
            return above(formula, self.tolerance)
        value = self.gap * left.reciprocal * right.reciprocal
        smaller = lax.min(*jnp.broadcast_arrays(left.reciprocal, right.reciprocal))
        value = jnp.where(smaller == 0, jnp.ones_like(value), value)
        value = lax.max(lax.min(value, 2 - value), jnp.zeros_like(value))
        return valued(lax.stop_gradient(value), above(formula, None))

    def correlation(self, left: Deviation, right: Deviation) -> Float[Array, "..."]:
        """The correlation, never beyond +-1, and zero where an input is."""
        size = 1 - self.deficit(left, right)
        value = jnp.where(self.cov < 0, -size, size)
        formula = self.cov * left.reciprocal * right.reciprocal
        return valued(lax.stop_gradient(value), formula)


class Moments(NamedTuple):
    """What a dual activation gives of a pair: `E f(u) f(v)` and `E f'(u) f'(v)`.

    Where the pair's gap is known, and that of the first follows without subtracting,
    one of `gap` and `distance`, half of the mean square of `f(u) - f(v)`.
    """

    value: Float[Array, "..."]
    derivative: Float[Array, "..."]
    gap: Float[Array, "..."] | None = None
    distance: Float[Array, "..."] | None = None

    def gap_between(
        self, left: Float[Array, "..."], right: Float[Array, "..."]
    ) -> Float[Array, "..."] | None:
        """The gap, given the standard deviations of the images."""
        if self.distance is None:
            return self.gap
        # Images of very different size have a gap that is hardly less than their size.
        size = left * right
        near = self.distance - 0.5 * (left - right) ** 2
        gap = jnp.where(self.distance < 0.5 * size, near, size - self.value)
        return lax.stop_gradient(jnp.where(gap > 0, gap, jnp.zeros_like(gap)))


def above(
    deficit: Float[Array, "*s"], tolerance: Float[Array, "..."] | None
) -> Float[Array, "*s"]:
    """A deficit of correlation, or zero where it is within the rounding."""
    if tolerance is None:
        tolerance = rounding(deficit.dtype)
    return jnp.where(deficit > tolerance, deficit, jnp.zeros_like(deficit))


def rounding(dtype: jnp.dtype) -> Float[Array, ""]:
    """What a correlation that was computed by a few operations may be off by."""
    return jnp.asarray(8 * jnp.finfo(dtype).eps, dtype)


def measured_gap(
    cov: Float[Array, "*s"],
    left: Float[Array, "..."],
    right: Float[Array, "..."],
    tolerance: Float[Array, "..."] | None,
) -> Float[Array, "*s"]:
    """`s s' - cov` by subtracting, for want of a better way."""
    size = left * right
    gap = size - cov
    limit = rounding(gap.dtype) if tolerance is None else tolerance
    return lax.stop_gradient(jnp.where(gap > limit * size, gap, jnp.zeros_like(gap)))


def summed_gap(
    gaps: list[Float[Array, "*s"]],
    stds: list[tuple[Float[Array, "..."], Float[Array, "..."]]],
    total: tuple[Float[Array, "..."], Float[Array, "..."]],
) -> Float[Array, "*s"]:
    r"""The gap of a sum of uncorrelated terms, from theirs and from all deviations.

    By Lagrange's identity, with $S$ the deviation of the sum, it is
    $\sum_a g_a + \sum_{a<b} (s_a s'_b - s_b s'_a)^2 / (S S' + \sum_a s_a s'_a)$.
    """
    gap = sum(gaps[1:], gaps[0])
    straight = total[0] * total[1] + sum(left * right for left, right in stds)
    # Nothing is there to divide by where an input and the bias are zero.
    straight = jnp.where(straight > 0, straight, jnp.ones_like(straight))
    for a, (left, right) in enumerate(stds):
        for other_left, other_right in stds[:a]:
            cross = left * other_right - other_left * right
            gap = gap + cross * (cross / straight)
    return lax.stop_gradient(gap)
