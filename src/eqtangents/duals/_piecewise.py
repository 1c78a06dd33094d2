r"""Duals of functions that are polynomials between breakpoints.

With breakpoints $t_i$ on both sides of zero, such a function is

$$f(x) = \sum_l a_l x^l + \sum_{i, m} w_{im} (\pm (x - t_i))_+^m$$

with the sign of $t_i$: the terms of a breakpoint vanish on the side where zero is. For
inputs $u = s X$ and $v = s' Y$ the expectations of all products are the truncated
moments of `_truncated`.
"""

import itertools
import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents.duals._dual import AbstractDual
from eqtangents.duals._elementary import horner, reciprocal, safe_sqrt, valued
from eqtangents.duals._expansion import quadrature
from eqtangents.duals._pair import Deviation, Moments, Pair
from eqtangents.duals._truncated import (
    FARTHEST,
    JointMoments,
    density,
    joint_moments,
    power_factor,
    truncated_moments,
)


_MOST_ROUNDING = 1e-3  # relative to the mean square; beyond it there is no number
_CHECK_NODES = 64  # of the quadrature for the mean square


class Break(NamedTuple):
    """A breakpoint, and the weights of powers of the distance beyond it, from 0 on."""

    at: float
    weights: tuple[float, ...]

    @property
    def side(self) -> int:
        """The sign of the inputs beyond the breakpoint, away from zero."""
        return -1 if self.at < 0 else 1


class PiecewisePolynomial(NamedTuple):
    """A function: the coefficients of the piece around zero, and its breakpoints."""

    coefficients: tuple[float, ...]
    breaks: tuple[Break, ...]

    @property
    def degree(self) -> int:
        """The largest power of any piece."""
        terms = [self.coefficients, *(one.weights for one in self.breaks)]
        return max(len(weights) for weights in terms) - 1

    def __call__(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The function at some points."""
        total = horner(self.coefficients or (0.0,), x)
        for one in self.breaks:
            beyond = one.side * (x - one.at)
            there = beyond > 0
            total += jnp.where(there, horner(one.weights or (0.0,), beyond), 0)
        return total

    def slope(self) -> "PiecewisePolynomial":
        """The derivative of the pieces; jumps do not count."""
        breaks = [
            Break(one.at, tuple(one.side * w for w in _slope_weights(one.weights)))
            for one in self.breaks
        ]
        return PiecewisePolynomial(
            _slope_weights(self.coefficients),
            tuple(one for one in breaks if one.weights),
        )


def _slope_weights(weights: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(m * weight for m, weight in enumerate(weights) if m > 0)


class Truncations(NamedTuple):
    """Moments of one Gaussian beyond each breakpoint.

    Its variance, its standard deviation and the reciprocal of that come first. By the
    size of a breakpoint, `bounds` has its distance from zero in standard deviations,
    and `moments` the truncated moments beyond it.
    """

    variance: Float[Array, "..."]
    std: Float[Array, "..."]
    reciprocal: Float[Array, "..."]
    bounds: dict[float, Float[Array, "..."]]
    moments: dict[float, dict[int, Float[Array, "..."]]]


class PiecewisePolynomialDual(AbstractDual):
    r"""Dual of a function that is a polynomial between breakpoints.

    With $f(x) = \sum_l a_l x^l + \sum_{i, m} w_{im} (\pm (x - t_i))_+^m$, whose signs
    are the signs of the breakpoints $t_i$, the product $f(u) f(v)$ is a sum of products
    of such terms. So is $f'(u) f'(v)$, where jumps do not count. For two breakpoints on
    the positive side

    $$E (u - t)_+^m (v - t')_+^n = s^m s'^n M_{mn}(t / s, t' / s', \rho), \qquad
    M_{mn}(h, h', \rho) = E (X - h)_+^m (Y - h')_+^n,$$

    where $M_{00}$ is a bivariate normal probability (Owen 1956) and the others follow
    by Stein's lemma. Powers of inputs that are not cut off enter by variance and
    covariance alone: an input of zero is such a power, and no multiple of a unit.

    If the function is bounded, terms of the size of a power of the variance cancel:
    where rounding could exceed 1/1000, the result is not a number.
    """

    function: PiecewisePolynomial = eqx.field(static=True)

    def prepare(self, variance: Float[Array, "*s"]) -> Truncations:
        truncations = self._truncations(variance)
        fixed = lax.stop_gradient(truncations)
        lost = self._rounding(fixed) > _MOST_ROUNDING * self._square(fixed.std)
        known = [jnp.where(lost, jnp.nan, a) for a in truncations[:2]]
        return truncations._replace(variance=known[0], std=known[1])

    def _truncations(self, variance: Float[Array, "*s"]) -> Truncations:
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
        return Truncations(variance, std, reciprocal(std), bounds, moments)

    def _rounding(self, truncations: Truncations) -> Float[Array, "*s"]:
        """A bound on the rounding of the mean square of the function."""
        total = jnp.zeros_like(truncations.std)
        for l, a in enumerate(self.function.coefficients):
            total += (
                abs(a)
                * math.sqrt(math.prod(range(2 * l - 1, 0, -2)))
                * truncations.std**l
            )
        for one in self.function.breaks:
            moments = truncations.moments[abs(one.at)]
            for m, w in enumerate(one.weights):
                total += abs(w) * truncations.std**m * safe_sqrt(moments[2 * m])
        return jnp.finfo(total.dtype).eps * total * total

    def moments(self, pair: Pair, left: Truncations, right: Truncations) -> Moments:
        pairs = _PairProducts(
            pair,
            left,
            right,
            max(len(one.weights) for one in self.function.breaks) - 1,
        )
        functions = self.function, self.function.slope()
        return Moments(*map(pairs.expectation, functions))

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        truncations = self.prepare(variance)
        return self.moments(Pair(variance), truncations, truncations).value

    def _square(self, std: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The mean square by a coarse quadrature, which loses no digits."""
        z, weights = quadrature(_CHECK_NODES)
        total = jnp.zeros_like(std)
        for sign in (1.0, -1.0):
            x = jnp.multiply.outer(std, jnp.asarray(sign * z, std.dtype))
            square = self.function(x) ** 2
            total += square @ jnp.asarray(weights, std.dtype)
        return total


class _PairProducts:
    """Expectations over pairs of inputs, where each joint moment is computed once."""

    def __init__(
        self,
        pair: Pair,
        left: Truncations,
        right: Truncations,
        degree: int,
    ):
        self.pair, self.left, self.right = pair, left, right
        self.deviations = [Deviation(end.std, end.reciprocal) for end in (left, right)]
        self.correlation = pair.correlation(*self.deviations)
        self.deficit = pair.deficit(*self.deviations)
        self.degree, self.known = degree, {}

    def expectation(self, f: PiecewisePolynomial) -> Float[Array, "*s"]:
        """`E f(u) f(v)`."""
        total = self._of_polynomials(f.coefficients)
        for one in f.breaks:
            for plain, cut in ((self.left, self.right), (self.right, self.left)):
                total += self._of_mixed(f.coefficients, one, plain, cut)
        for one, other in itertools.product(f.breaks, repeat=2):
            total += self._of_breaks(one, other)
        return total

    def _of_polynomials(self, coefficients: tuple[float, ...]) -> Float[Array, "*s"]:
        """The products of two terms of the polynomial around zero."""
        total = jnp.zeros_like(self.correlation)
        for l, a in enumerate(coefficients):
            for m, b in enumerate(coefficients):
                if a and b and (l + m) % 2 == 0:
                    total += a * b * self._power_moment(l, m)
        return total

    def _power_moment(self, l: int, m: int) -> Float[Array, "*s"]:
        r"""$E u^l v^m$ for an even degree $l + m$, by Stein's lemma."""
        if min(l, m) < 0:
            return jnp.zeros_like(self.correlation)
        if l == 0:
            odd = jnp.full_like(self.correlation, math.prod(range(m - 1, 0, -2)))
            return odd * self.right.variance ** (m // 2)
        mixed = m * self.pair.cov * self._power_moment(l - 1, m - 1)
        return (l - 1) * self.left.variance * self._power_moment(l - 2, m) + mixed

    def _of_mixed(
        self,
        coefficients: tuple[float, ...],
        one: Break,
        plain: Truncations,
        cut: Truncations,
    ) -> Float[Array, "*s"]:
        """The polynomial of one input, times the terms of a break of the other."""
        size, rho = abs(one.at), one.side * self.correlation
        bound, moments = cut.bounds[size], cut.moments[size]
        to_unit = one.side * self.pair.cov * cut.reciprocal
        cov = valued(lax.stop_gradient(plain.std * rho), to_unit)
        rest = lax.stop_gradient(plain.variance * (1 - rho) * (1 + rho))
        rest = valued(rest, plain.variance - to_unit * to_unit)
        conditional = [density(bound), cov * bound * density(bound)]

        def moment(l: int, n: int) -> Float[Array, "*s"]:
            """`E u**l (Y - h)_+**n` with the bound `h` of the break."""
            if n >= 0 and l == 0:
                return moments[n]
            if n >= 0:
                mixed = power_factor(n) * cov * moment(l - 1, n - 1)
                others = (l - 1) * plain.variance * moment(l - 2, n) if l > 1 else 0
                return mixed + others
            while len(conditional) <= l:
                last, before = conditional[-1], conditional[-2]
                spread = (len(conditional) - 1) * rest * before
                conditional.append(cov * bound * last + spread)
            return conditional[l]

        total = jnp.zeros_like(cov)
        for l, a in enumerate(coefficients):
            for n, w in enumerate(one.weights):
                if a and w:
                    total += a * w * cut.std**n * moment(l, n)
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

    def _joint(self, t: float, t_other: float, side: int) -> JointMoments:
        key = t, t_other, side
        if key not in self.known:
            bounds = self.left.bounds[t], self.right.bounds[t_other]
            bounds = (jnp.broadcast_to(h, self.correlation.shape) for h in bounds)
            correlation = side * self.correlation
            self.known[key] = joint_moments(
                self.degree, *bounds, correlation, self.deficit
            )
        return self.known[key]
