"""Duals of any function, by its Hermite expansion."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents.duals._dual import AbstractDual, Stacked, at_equal_inputs, in_terms
from eqtangents.duals._elementary import reciprocal, safe_sqrt
from eqtangents.duals._expansion import (
    BEST_NODES,
    Expansion,
    Series,
    jumps,
    projections,
    quadrature,
    slope,
)
from eqtangents.duals._pair import Deviation, Moments, Pair, deviation
from eqtangents.duals._polynomial import gap_of_power_series, power_series
from eqtangents.duals._rectified import arc_cosine


class HermiteEnds(NamedTuple):
    """What a Hermite expansion knows of one end of a pair."""

    value: Stacked | Sequence[Float[Array, "..."]]
    slope: Stacked | Sequence[Float[Array, "..."]]
    deviation: Deviation


class Jumps(NamedTuple):
    """How far a function and its slope jump at zero, as far as that matters."""

    value: Float[Array, ""] | None
    slope: Float[Array, ""] | None


class Known(NamedTuple):
    """Kernels of a step and a rectifier, and the geometric mean of the variances."""

    step: Float[Array, "..."]
    rectifier: Float[Array, "..."]
    size: Float[Array, "..."]


def _at_equal_inputs(std: Float[Array, "*s"]) -> Known:
    square = std * std
    return Known(jnp.full_like(std, 0.5), 0.5 * square, square)


class ExpandedDual(AbstractDual):
    r"""Dual of any elementwise function: $E f f = \sum_l w_l r_l(s) r_l(s') \rho^l$.

    `_expansion` says how; $E f' f'$ is the same of the slope. That is the slope of the
    pieces: jumps do not count, which gradients in finite networks do not see either.

    At variances so large that the terms no longer add up to $E f^2$, which is known by
    quadrature, the result is not a number.
    """

    fn: Callable
    expansion: Expansion = eqx.field(static=True)

    def prepare(self, variance: Float[Array, "n *size"]) -> HermiteEnds:
        """The coefficients of the function and of its slope."""
        std, nodes = safe_sqrt(variance), self.expansion.nodes
        values, slopes = (
            _Samples.of(fn, std, nodes) for fn in (self.fn, slope(self.fn))
        )
        jumps_of_value, jumps_of_slope = self._jumps(std.dtype)
        if self.expansion.jumps or nodes == BEST_NODES:
            value = values.projected(_parities(self.expansion.value))
        else:  # The slope has no jumps but at zero: its quadrature is accurate, too.
            value = _by_slope(self.expansion.value, values, slopes, std)
        of_slope = slopes.projected(_parities(self.expansion.slope))
        return HermiteEnds(
            self._checked(self.expansion.value, value, values, std, jumps_of_value),
            self._checked(self.expansion.slope, of_slope, slopes, std, jumps_of_slope),
            deviation(variance),
        )

    def _jumps(self, dtype: np.dtype) -> tuple[Jumps, Jumps]:
        """Those of the function and those of its slope."""
        jump, kink = jumps(self.fn, dtype)
        kink = kink if self.expansion.kinks else None
        return Jumps(jump if self.expansion.jumps else None, kink), Jumps(kink, None)

    def _checked(
        self,
        series: Series,
        coefficients: Float[Array, "terms n *size"],
        samples: "_Samples",
        std: Float[Array, "n *size"],
        at_zero: Jumps,
    ) -> Stacked:
        """The coefficients; not numbers where the squares have another sum."""
        wrong = self._wrong(series, coefficients, samples.squares, std, at_zero)
        coefficients = jnp.where(wrong[None], jnp.nan, coefficients)
        # In memory terms come first, so that each lies in a row.
        return Stacked(jnp.moveaxis(coefficients, 0, 1))

    def _wrong(
        self,
        series: Series,
        coefficients: Float[Array, "terms n *size"],
        squares: Float[Array, "n *size nodes"],
        std: Float[Array, "n *size"],
        at_zero: Jumps,
    ) -> Bool[Array, "n *size"]:
        """Where the sum at equal inputs is not what the squares at the nodes say."""
        coefficients, squares, std, at_zero = lax.stop_gradient(
            (coefficients, squares, std, at_zero)
        )
        whole = _mean(squares, self.expansion.nodes)
        terms = jnp.sum(coefficients**2, 0)
        left_out = self._left_out(series, at_zero, None, _at_equal_inputs(std))
        gap = jnp.abs(terms + left_out - whole)
        # Inputs that are zero see one side of a jump alone.
        return (gap > self.expansion.allowed * whole) & (std > 0)

    def moments(self, pair: Pair, left: HermiteEnds, right: HermiteEnds) -> Moments:
        """The sum of the terms, and what they leave out of jumps."""
        correlation = pair.correlation(left.deviation, right.deviation)
        value, derivative = (
            _sum(series, [a * b for a, b in zip(x, y, strict=True)], correlation)
            for series, x, y in (
                (self.expansion.value, left.value, right.value),
                (self.expansion.slope, left.slope, right.slope),
            )
        )
        if not self.expansion.jumps and not self.expansion.kinks:
            distance = self._distance(pair, left, right)
            return Moments(value, derivative, distance=distance)

        rectifier, step = arc_cosine(pair, left.deviation, right.deviation)
        known = Known(step, rectifier, left.deviation.std * right.deviation.std)
        of_value, of_slope = self._jumps(pair.cov.dtype)
        series = self.expansion.value, self.expansion.slope
        return Moments(
            value + self._left_out(series[0], of_value, correlation, known),
            derivative + self._left_out(series[1], of_slope, correlation, known),
        )

    def _distance(
        self, pair: Pair, left: HermiteEnds, right: HermiteEnds
    ) -> Float[Array, "..."] | None:
        r"""$\sum_l \frac{1}{2} (a_l - b_l)^2 + a_l b_l (1 - \rho^l)$ over all terms."""
        if pair.gap is None:
            return None
        z = pair.deficit(left.deviation, right.deviation)
        deficit = jnp.where(pair.cov < 0, 2 - z, z)
        terms = list(zip(left.value, right.value, strict=True))
        apart = [0.5 * (a - b) * (a - b) for a, b in terms]
        exponents = [l for half in _parities(self.expansion.value) for l, _ in half]
        lost = gap_of_power_series(exponents, [a * b for a, b in terms], deficit)
        return lax.stop_gradient(sum(apart, lost))

    def _left_out(
        self,
        series: Series,
        at_zero: Jumps,
        correlation: Float[Array, "..."] | None,
        known: Known,
    ) -> Float[Array, "..."]:
        """What the terms leave out of jumps; at equal inputs if not told otherwise."""
        left_out = jnp.zeros_like(known.size)
        if at_zero.value is None and at_zero.slope is None:
            return left_out
        of_step, of_rectifier = self._known(series, correlation)
        if at_zero.value is not None:
            left_out += at_zero.value**2 * (known.step - of_step)
        if at_zero.slope is not None:
            rest = known.rectifier - known.size * of_rectifier
            left_out += at_zero.slope**2 * rest
        return left_out

    def _known(
        self, series: Series, correlation: Float[Array, "*s"] | None
    ) -> list[Float[Array, "*s"] | float]:
        """The terms of a unit step and of the rectifier, at unit variances."""
        z, _ = quadrature(self.expansion.nodes)
        matrix = projections(self.expansion.nodes)
        found = []
        for function in (np.ones_like(z), z):
            products = [
                float(weight * np.sum(matrix[l] * function) ** 2)
                for terms in _parities(series)
                for l, weight in terms
            ]
            if correlation is None:
                found.append(sum(products))
            else:
                found.append(_sum(series, products, correlation))
        return found

    def diagonal(self, variance: Float[Array, "n *size"]) -> Float[Array, "n *size"]:
        """The same at equal inputs, where every power is one."""
        ends = in_terms(self.prepare(variance), 1)
        of_value, _ = self._jumps(variance.dtype)
        known = _at_equal_inputs(ends.deviation.std)
        left_out = self._left_out(self.expansion.value, of_value, None, known)
        return jnp.sum(jnp.square(jnp.stack(ends.value)), 0) + left_out

    def errors(
        self, variance: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Relative errors of both expectations at equal inputs.

        By comparison with a finer quadrature that expands nothing.
        """
        value, derivative, *_ = at_equal_inputs(self, variance)
        std = safe_sqrt(variance)
        exact, slope_exact = (
            _mean_square(fn, std, BEST_NODES) for fn in (self.fn, slope(self.fn))
        )
        return (
            jnp.abs(value - exact) * reciprocal(exact),
            jnp.abs(derivative - slope_exact) * reciprocal(slope_exact),
        )


class _Samples(NamedTuple):
    """A function at the nodes of the quadrature, on either side of zero."""

    above: Float[Array, "n *size nodes"]
    below: Float[Array, "n *size nodes"]
    at_zero: Float[Array, ""]

    @classmethod
    def of(cls, fn: Callable, std: Float[Array, "n *size"], nodes: int) -> "_Samples":
        """Of `fn(s z)`."""
        z, _ = quadrature(nodes)
        x = jnp.multiply.outer(std, jnp.asarray(z, std.dtype))
        at_zero = fn(jnp.zeros((), std.dtype))
        finite = jnp.isfinite(at_zero)
        return cls(fn(x), fn(-x), jnp.where(finite, at_zero, jnp.zeros_like(at_zero)))

    @property
    def squares(self) -> Float[Array, "n *size nodes"]:
        """The sum of both squares."""
        return self.above * self.above + self.below * self.below

    def projected(
        self, halves: Sequence[Sequence[tuple[int, float]]]
    ) -> Float[Array, "terms n *size"]:
        r"""$\sqrt{w}\, \mathbb{E} f(s z) h_l(z)$ for lists of terms of one parity each.

        The value at zero is taken off first, and added to the mean: of inputs with a
        small variance nearly nothing else is left to be rounded.
        """
        matrix = projections(self.above.shape[-1])
        centred = self.above - self.at_zero, self.below - self.at_zero
        parts = []
        for terms in halves:
            odd = bool(terms) and terms[0][0] % 2
            half = centred[0] - centred[1] if odd else centred[0] + centred[1]
            rows = [matrix[l] * np.sqrt(weight) for l, weight in terms]
            rows = np.reshape(rows, (-1, matrix.shape[1]))
            mean = np.reshape([(l == 0) * np.sqrt(weight) for l, weight in terms], -1)
            rows, mean = (jnp.asarray(c, half.dtype) for c in (rows, mean))
            part = jnp.einsum("n...q,tq->tn...", half, rows, precision="highest")
            mean = mean.reshape(-1, *(1,) * (part.ndim - 1))
            parts.append(part + self.at_zero * mean)
        return jnp.concatenate(parts)


def _by_slope(
    series: Series, values: _Samples, slopes: _Samples, std: Float[Array, "n *size"]
) -> Float[Array, "terms n *size"]:
    r"""The coefficients of a function without jumps, by those of its slope.

    $r_l(s) = \frac{s}{\sqrt l}\, \mathbb{E} f'(s z) h_{l-1}(z)$ for $l > 0$ (Stein's
    lemma). Functions that are linear at zero are known there by their slopes to more
    digits than by their values, whose rounding depends on the machine: over thousands
    of layers it adds up.
    """
    constant = [[term for term in _parities(series)[0] if term[0] == 0]]
    lowered = [
        [(l - 1, weight / l) for l, weight in terms if l] for terms in _parities(series)
    ]
    return jnp.concatenate(
        [values.projected(constant), std[None] * slopes.projected(lowered)]
    )


def _parities(series: Series) -> list[list[tuple[int, float]]]:
    """Exponents and weights of even and of odd terms."""
    terms = list(zip(*series, strict=True))
    return [[term for term in terms if term[0] % 2 == parity] for parity in (0, 1)]


def _sum(
    series: Series,
    products: Sequence[Float[Array, "..."] | float],
    correlation: Float[Array, "*s"],
) -> Float[Array, "*s"]:
    exponents = [l for terms in _parities(series) for l, _ in terms]
    return power_series(exponents, products, correlation)


def _mean(
    squares: Float[Array, "n *size nodes"], nodes: int
) -> Float[Array, "n *size"]:
    """`E f(s z)**2`, from its sum over both signs at the nodes."""
    weights = jnp.asarray(quadrature(nodes)[1], squares.dtype)
    return jnp.einsum("...q,q->...", squares, weights)


def _mean_square(
    fn: Callable, std: Float[Array, "n *size"], nodes: int
) -> Float[Array, "n *size"]:
    """`E f(s z)**2`."""
    x = jnp.multiply.outer(std, jnp.asarray(quadrature(nodes)[0], std.dtype))
    return _mean(fn(x) ** 2 + fn(-x) ** 2, nodes)
