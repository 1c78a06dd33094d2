r"""A pair of Gaussians, as a dual activation is given it, and the moments it returns.

Between the inputs of deep networks $s s' - k$ becomes as small as $k$ times the inverse
square of the depth, and formed from rounded numbers it is lost. Where positions play no
part, rules therefore pass on this **gap** beside the covariance: it obeys rules of its
own that subtract nothing. The gap carries no derivatives. Whatever is computed from it
is differentiated as a function of the covariance and the variances (`valued`), so that
derivatives of any order follow from the obvious formula.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents.duals._elementary import product_of_ends, reciprocal, safe_sqrt, valued


class Deviation(NamedTuple):
    """Standard deviations and their reciprocals; both zero for a variance of zero."""

    std: Float[Array, "..."]
    reciprocal: Float[Array, "..."]


def deviation(variance: Float[Array, "*s"]) -> Deviation:
    """The standard deviation and its reciprocal.

    A variance that overflowed counts as the largest finite number: its product with an
    angle of zero stays zero.
    """
    largest = jnp.full_like(variance, jnp.finfo(variance.dtype).max)
    std = safe_sqrt(lax.min(variance, largest))
    return Deviation(std, reciprocal(std))


# More than rounding, and less than the `1 - |correlation|` of zero with itself, whose
# right angle with everything is no rounding.
OF_ONE = 0.5


class Pair(NamedTuple):
    """The covariance of two Gaussians, and what is known of it besides.

    `gap` is `s s' - cov`, if it is known to more digits than subtracting gives.
    `tolerance` says up to which size `1 - |correlation|` may be rounding alone: it is
    `OF_ONE` where the two Gaussians are one, and a few units of rounding if it is not
    given.
    """

    cov: Float[Array, "..."]
    gap: Float[Array, "..."] | None = None
    tolerance: Float[Array, "..."] | None = None

    def deficit(self, left: Deviation, right: Deviation) -> Float[Array, "..."]:
        """`1 - |correlation|`, and exactly zero where it may be rounding alone.

        An angle goes like the root of this deficit: without the cut, rounding would
        turn an input away from itself by an angle of `sqrt(eps)`. An input of zero
        counts as orthogonal to every other.
        """
        formula = 1 - lax.abs(self.cov) * left.reciprocal * right.reciprocal
        if self.gap is None:
            return above(formula, self.tolerance)
        value = self.gap * left.reciprocal * right.reciprocal
        smaller = lax.min(*jnp.broadcast_arrays(left.std, right.std))
        value = jnp.where(smaller == 0, jnp.ones_like(value), value)
        value = lax.max(lax.min(value, 2 - value), jnp.zeros_like(value))
        return valued(lax.stop_gradient(value), above(formula, None))

    def correlation(self, left: Deviation, right: Deviation) -> Float[Array, "..."]:
        """The correlation, never beyond +-1, and zero if either variance is zero."""
        size = 1 - self.deficit(left, right)
        not_above = jnp.where(self.cov < 0, -size, jnp.zeros_like(size))
        value = jnp.where(self.cov > 0, size, not_above)
        formula = self.cov * product_of_ends(left.reciprocal, right.reciprocal)
        return valued(lax.stop_gradient(value), formula)


class Moments(NamedTuple):
    """The expectations that a dual activation gives: `E f(u) f(v)`, `E f'(u) f'(v)`.

    The other two are for inputs that nearly coincide, and may be left out. If the gap
    of the pair is known, and the gap of `value` follows from it without subtracting
    numbers that are nearly equal, one of three is given: the `gap` itself, `short_gap`,
    which need only be right where the gap is less than half of the product of
    deviations, and is infinite elsewhere, or `distance`, half of `E (f(u) - f(v))**2`.
    """

    value: Float[Array, "..."]
    derivative: Float[Array, "..."]
    gap: Float[Array, "..."] | None = None
    distance: Float[Array, "..."] | None = None
    short_gap: Float[Array, "..."] | None = None

    def gap_between(
        self, left: Float[Array, "..."], right: Float[Array, "..."]
    ) -> Float[Array, "..."] | None:
        """The gap of `value`, given the roots of `E f(u)**2` and of `E f(v)**2`."""
        # If f(u) and f(v) are of very different size, or opposite, their gap is hardly
        # less than the product of their sizes, or more.
        size = left * right
        if self.short_gap is not None:
            bound = near = self.short_gap
        elif self.distance is not None:
            bound, near = self.distance, self.distance - 0.5 * (left - right) ** 2
        else:
            return self.gap
        gap = jnp.where(bound < 0.5 * size, near, size - self.value)
        return lax.stop_gradient(jnp.where(gap > 0, gap, jnp.zeros_like(gap)))


def above(
    deficit: Float[Array, "*s"], tolerance: Float[Array, "..."] | None
) -> Float[Array, "*s"]:
    """A deficit of the correlation, or zero where it is within the tolerance."""
    if tolerance is None:
        tolerance = rounding(deficit.dtype)
    return jnp.where(deficit > tolerance, deficit, jnp.zeros_like(deficit))


def rounding(dtype: jnp.dtype) -> Float[Array, ""]:
    """The rounding error of a correlation that was computed by a few operations."""
    return jnp.asarray(8 * jnp.finfo(dtype).eps, dtype)


def measured_gap(
    cov: Float[Array, "*s"],
    left: Float[Array, "..."],
    right: Float[Array, "..."],
    tolerance: Float[Array, "..."] | None,
) -> Float[Array, "*s"]:
    """The gap `s s' - cov` by subtracting, where it is not known better."""
    size = left * right
    gap = size - cov
    limit = rounding(gap.dtype) if tolerance is None else tolerance
    return lax.stop_gradient(jnp.where(gap > limit * size, gap, jnp.zeros_like(gap)))


def summed_gap(
    gaps: list[Float[Array, "*s"]],
    stds: list[tuple[Float[Array, "..."], Float[Array, "..."]]],
    total: tuple[Float[Array, "..."], Float[Array, "..."]],
) -> Float[Array, "*s"]:
    r"""The gap of a sum of uncorrelated terms, from their gaps and all deviations.

    By Lagrange's identity, with $S$ the deviation of the sum, it is
    $\sum_a g_a + \sum_{a<b} (s_a s'_b - s_b s'_a)^2 / (S S' + \sum_a s_a s'_a)$.
    """
    gap = sum(gaps[1:], gaps[0])
    straight = total[0] * total[1] + sum(left * right for left, right in stds)
    # The sum is zero where an input is zero and there is no bias.
    straight = jnp.where(straight > 0, straight, jnp.ones_like(straight))
    for a, (left, right) in enumerate(stds):
        for other_left, other_right in stds[:a]:
            cross = left * other_right - other_left * right
            gap = gap + cross * (cross / straight)
    return lax.stop_gradient(gap)
