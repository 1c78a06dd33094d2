r"""Duals of functions that are polynomials between breakpoints.

With breakpoints $t_i$, on whichever side of zero, such a function is

$$f(x) = \sum_l a_l x^l + \sum_{i, m} w_{im} (\pm (x - t_i))_+^m$$

with the sign of $t_i$: the terms of a breakpoint vanish on its side of zero. Of inputs
$u = s X$, $v = s' Y$ the expectations of all products are truncated moments of
`_truncated`.
"""

import itertools
import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents.duals._dual import AbstractDual
from eqtangents.duals._elementary import reciprocal, safe_sqrt
from eqtangents.duals._expansion import quadrature
from eqtangents.duals._pair import Deviation, Moments as DualMoments, Pair
from eqtangents.duals._truncated import (
    FARTHEST,
    Moments,
    density,
    factor,
    joint_moments,
    truncated_moments,
)


_ROUNDING = 1e-3  # of the mean square: what is subject to more is not a number
_NODES = 64


class Break(NamedTuple):
    """A breakpoint, and the weight of each power of what is beyond, from 0 on."""

    at: float
    weights: tuple[float, ...]

    @property
    def side(self) -> int:
        """The sign of all that is beyond."""
        return -1 if self.at < 0 else 1


class PiecewisePolynomial(NamedTuple):
    """The coefficients of the piece around zero, and where others begin."""

    coefficients: tuple[float, ...]
    breaks: tuple[Break, ...]

    @property
    def degree(self) -> int:
        """The largest power of any piece."""
        terms = [self.coefficients, *(one.weights for one in self.breaks)]
        return max(len(weights) for weights in terms) - 1

    def __call__(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The function."""
        total = _polynomial(self.coefficients, x)
        for one in self.breaks:
            beyond = one.side * (x - one.at)
            there = beyond > 0
            total += jnp.where(there, _polynomial(one.weights, beyond), 0)
        return total

    def slope(self) -> "PiecewisePolynomial":
        """The derivative of the pieces: jumps do not count."""
        breaks = [
            Break(one.at, tuple(one.side * w for w in _lowered(one.weights)))
            for one in self.breaks
        ]
        return PiecewisePolynomial(
            _lowered(self.coefficients), tuple(one for one in breaks if one.weights)
        )


def _polynomial(
    coefficients: tuple[float, ...], x: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    total = jnp.zeros_like(x)
    for coefficient in coefficients[::-1]:
        total = total * x + coefficient
    return total


def _lowered(weights: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(m * weight for m, weight in enumerate(weights) if m > 0)


class TruncatedEnds(NamedTuple):
    """What truncated moments know of one end of a pair.

    The standard deviation and its reciprocal; by the size of breakpoints, their
    distances from zero in these units; and moments beyond them.
    """

    std: Float[Array, "..."]
    reciprocal: Float[Array, "..."]
    bounds: dict[float, Float[Array, "..."]]
    moments: dict[float, dict[int, Float[Array, "..."]]]


class PiecewisePolynomialDual(AbstractDual):
    """Dual of a function that is a polynomial between breakpoints.

    Terms of the size of a power of the variance cancel if the function is bounded:
    where rounding could be more than 1/1000, the result is not a number.
    """

    function: PiecewisePolynomial = eqx.field(static=True)

    def prepare(self, variance: Float[Array, "*s"]) -> TruncatedEnds:
        """Moments of single inputs."""
        ends = self._ends(variance)
        fixed = lax.stop_gradient(ends)
        lost = self._rounding(fixed) > _ROUNDING * self._square(fixed.std)
        return ends._replace(std=jnp.where(lost, jnp.nan, ends.std))

    def _ends(self, variance: Float[Array, "*s"]) -> TruncatedEnds:
        std = safe_sqrt(variance)
        sizes = {abs(one.at) for one in self.function.breaks}
        bounds = {
            t: t / jnp.maximum(std, jnp.asarray(t / FARTHEST, std.dtype))
            if t
            else 0 * std
            for t in sizes
        }
        degree = 2 * self.function.degree
        moments = {t: truncated_moments(degree, h) for t, h in bounds.items()}
        return TruncatedEnds(std, reciprocal(std), bounds, moments)

    def _rounding(self, ends: TruncatedEnds) -> Float[Array, "*s"]:
        """A bound of the rounding of the square of the function."""
        total = jnp.zeros_like(ends.std)
        for l, a in enumerate(self.function.coefficients):
            total += (
                abs(a) * math.sqrt(math.prod(range(2 * l - 1, 0, -2))) * ends.std**l
            )
        for one in self.function.breaks:
            moments = ends.moments[abs(one.at)]
            for m, w in enumerate(one.weights):
                total += abs(w) * ends.std**m * safe_sqrt(moments[2 * m])
        return jnp.finfo(total.dtype).eps * total * total

    def moments(
        self, pair: Pair, left: TruncatedEnds, right: TruncatedEnds
    ) -> DualMoments:
        """The two expectations."""
        pairs = _Pairs(
            pair,
            left,
            right,
            max(len(one.weights) for one in self.function.breaks) - 1,
        )
        functions = self.function, self.function.slope()
        return DualMoments(*map(pairs.expectation, functions))

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The same at equal inputs."""
        ends = self.prepare(variance)
        return self.moments(Pair(variance), ends, ends).value

    def _square(self, std: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """About the mean square, by quadrature, of which no digits are lost."""
        z, weights = quadrature(_NODES)
        total = jnp.zeros_like(std)
        for sign in (1.0, -1.0):
            x = jnp.multiply.outer(std, jnp.asarray(sign * z, std.dtype))
            square = self.function(x) ** 2
            total += square @ jnp.asarray(weights, std.dtype)
        return total


class _Pairs:
    """Expectations over pairs of inputs, of which each is found once."""

    def __init__(
        self,
        pair: Pair,
        left: TruncatedEnds,
        right: TruncatedEnds,
        degree: int,
    ):
        self.left, self.right = left, right
        ends = [Deviation(end.std, end.reciprocal) for end in (left, right)]
        self.correlation, self.deficit = pair.correlation(*ends), pair.deficit(*ends)
        self.degree, self.known = degree, {}

    def expectation(self, f: PiecewisePolynomial) -> Float[Array, "*s"]:
        """Of the product of a function with itself."""
        total = self._of_polynomials(f.coefficients)
        for one in f.breaks:
            for end, other in ((self.left, self.right), (self.right, self.left)):
                total += self._of_mixed(f.coefficients, one, end, other)
        for one, other in itertools.product(f.breaks, repeat=2):
            total += self._of_breaks(one, other)
        return total

    def _of_polynomials(self, coefficients: tuple[float, ...]) -> Float[Array, "*s"]:
        """By Stein's lemma, as all of these."""
        total = jnp.zeros_like(self.correlation)
        for l, a in enumerate(coefficients):
            for m, b in enumerate(coefficients):
                if a and b and (l + m) % 2 == 0:
                    powers = self.left.std**l * self.right.std**m
                    total += a * b * powers * self._power_moment(l, m)
        return total

    def _power_moment(self, l: int, m: int) -> Float[Array, "*s"]:
        r"""$E X^l Y^m$, of even degree."""
        if min(l, m) < 0:
            return jnp.zeros_like(self.correlation)
        if l == 0:
            odd = math.prod(range(m - 1, 0, -2))
            return jnp.full_like(self.correlation, odd)
        mixed = m * self.correlation * self._power_moment(l - 1, m - 1)
        return (l - 1) * self._power_moment(l - 2, m) + mixed

    def _of_mixed(
        self,
        coefficients: tuple[float, ...],
        one: Break,
        end: TruncatedEnds,
        other: TruncatedEnds,
    ) -> Float[Array, "*s"]:
        """Of the polynomial at one end, and what is beyond a break at the other."""
        size, correlation = abs(one.at), one.side * self.correlation
        bound, moments = other.bounds[size], other.moments[size]
        conditional = [density(bound), correlation * bound * density(bound)]

        def moment(l: int, n: int) -> Float[Array, "*s"]:
            """Of `X**l` and so many powers beyond the break."""
            if n >= 0 and l == 0:
                return moments[n]
            if n >= 0:
                mixed = factor(n) * correlation * moment(l - 1, n - 1)
                return mixed + ((l - 1) * moment(l - 2, n) if l > 1 else 0)
            while len(conditional) <= l:
                square = (1 - correlation) * (1 + correlation)
                last, before = conditional[-1], conditional[-2]
                spread = (len(conditional) - 1) * square * before
                conditional.append(correlation * bound * last + spread)
            return conditional[l]

        total = jnp.zeros_like(correlation)
        for l, a in enumerate(coefficients):
            for n, w in enumerate(one.weights):
                if a and w:
                    total += a * w * end.std**l * other.std**n * moment(l, n)
        return total

    def _of_breaks(self, one: Break, other: Break) -> Float[Array, "*s"]:
        moments = self._joint(abs(one.at), abs(other.at), one.side * other.side)
        total = jnp.zeros_like(self.correlation)
        for m, a in enumerate(one.weights):
            for n, b in enumerate(other.weights):
                if a and b:
                    powers = self.left.std**m * self.right.std**n
                    total += a * b * powers * moments[m, n]
        return total

    def _joint(self, t: float, t_other: float, side: int) -> Moments:
        key = t, t_other, side
        if key not in self.known:
            bounds = self.left.bounds[t], self.right.bounds[t_other]
            bounds = (jnp.broadcast_to(h, self.correlation.shape) for h in bounds)
            correlation = side * self.correlation
            self.known[key] = joint_moments(
                self.degree, *bounds, correlation, self.deficit
            )
        return self.known[key]
