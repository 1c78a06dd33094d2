"""Duals of any function, by its Hermite expansion."""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents.duals._arc_cosine import arc_cosine
from eqtangents.duals._dual import AbstractDual, at_equal_inputs, in_terms
from eqtangents.duals._elementary import (
    may_be_differentiated,
    reciprocal,
    safe_sqrt,
)
from eqtangents.duals._expansion import (
    BEST_NODES,
    Expansion,
    SparseSeries,
    jumps_at_zero,
    projections,
    quadrature,
    slope,
)
from eqtangents.duals._hermite_coefficients import (
    NodeValues,
    by_parity,
    coefficients_by_slope,
    exponents_of,
    mean_of_squares,
    mean_square,
)
from eqtangents.duals._hermite_sums import (
    HermiteCoefficients,
    coefficients_of,
    hermite_sums,
)
from eqtangents.duals._interpolated import WORTHWHILE, from_few
from eqtangents.duals._near_zero import NearZero, as_if_one
from eqtangents.duals._pair import Moments, Pair
from eqtangents.duals._polynomial import gap_of_power_series, power_series


class Jumps(NamedTuple):
    """How far a function and its slope jump at zero; `None` if it does not matter."""

    value: Float[Array, ""] | None
    slope: Float[Array, ""] | None


class JumpKernels(NamedTuple):
    """Kernels of a step and a rectifier, and the geometric mean of the variances."""

    step: Float[Array, "..."]
    rectifier: Float[Array, "..."]
    size: Float[Array, "..."]

    @classmethod
    def at_equal_inputs(cls, std: Float[Array, "*s"]) -> "JumpKernels":
        """The three where both inputs are one."""
        square = std * std
        return cls(jnp.full_like(std, 0.5), 0.5 * square, square)


class ExpandedDual(AbstractDual):
    r"""Dual of any elementwise function: $E f f = \sum_l w_l r_l(s) r_l(s') \rho^l$.

    `_expansion` says which terms there are; $E f' f'$ is the same sum for the slope of
    the pieces between jumps. Gradients in finite networks do not see jumps either.

    At variances so large that the terms no longer add up to $E f^2$, which is known by
    quadrature, the result is not a number.
    """

    fn: Callable
    expansion: Expansion = eqx.field(static=True)

    def prepare(self, variance: Float[Array, "n *size"]) -> HermiteCoefficients:
        # A function that is being traced may change as well as the variance.
        fixed = self.expansion.near_zero is not None
        return coefficients_of(self._rows, variance, fixed=fixed)

    def _rows(self, variance: Float[Array, "n *size"]) -> list[Array]:
        """The coefficients of the function and of its slope."""
        many = not may_be_differentiated.value and variance.size >= WORTHWHILE
        found = self._interpolated if many else self._coefficients
        value, sloped = found(variance)
        near = NearZero.of(self.fn, self.expansion, variance.dtype)
        value = near.at_zero(self.expansion.value, value, variance)
        sloped = near.slope().at_zero(self.expansion.slope, sloped, variance)
        return [value, sloped]

    def _interpolated(self, variance: Float[Array, "n *size"]) -> list[Array]:
        """The coefficients of many variances from those of few, where that is right."""
        of_zero = self._coefficients(jnp.zeros(1, variance.dtype))

        def smooth(variance: Float[Array, " m"]) -> list[Float[Array, "terms m"]]:
            # Near zero, the function less its value there is as small as its input.
            value, sloped = self._coefficients(variance)
            return [(value - of_zero[0]) / jnp.sqrt(variance)[None], sloped]

        (value, sloped), right = from_few(smooth, variance)
        std = safe_sqrt(variance)[None]
        at_zero = [row.reshape(-1, *(1,) * variance.ndim) for row in of_zero]
        value = value * std + at_zero[0]
        sloped = jnp.where(std > 0, sloped, at_zero[1])
        exact = lambda: self._coefficients(variance)
        return lax.cond(right, lambda: [value, sloped], exact)

    def _coefficients(self, variance: Float[Array, "n *size"]) -> list[Array]:
        """The coefficients of the function and of its slope, by quadrature."""
        std, nodes = safe_sqrt(variance), self.expansion.nodes
        values, slopes = (
            NodeValues.of(fn, std, nodes) for fn in (self.fn, slope(self.fn))
        )
        jumps_of_value, jumps_of_slope = self._jumps(std.dtype)
        of_value, of_slope = self.expansion.value, self.expansion.slope
        smooth = self.expansion.derived and not self.expansion.jumps
        if smooth and nodes < BEST_NODES:
            # The slope jumps at most at zero: its quadrature is accurate as well.
            value = coefficients_by_slope(of_value, values, slopes, std)
        else:
            value = values.projected(by_parity(of_value))
        sloped = slopes.projected(by_parity(of_slope))
        value = self._known(of_value, value, values, std, jumps_of_value)
        sloped = self._known(of_slope, sloped, slopes, std, jumps_of_slope)
        return [value, sloped]

    def _jumps(self, dtype: np.dtype) -> tuple[Jumps, Jumps]:
        """The jumps for the terms of the function, and for the terms of its slope."""
        jump, kink = jumps_at_zero(self.fn, dtype)
        jump = jump if self.expansion.jumps else None
        kink = kink if self.expansion.kinks else None
        return Jumps(jump, kink if self.expansion.derived else None), Jumps(kink, None)

    def _known(
        self,
        series: SparseSeries,
        coefficients: Float[Array, "terms n *size"],
        samples: NodeValues,
        std: Float[Array, "n *size"],
        at_zero: Jumps,
    ) -> Float[Array, "terms n *size"]:
        """The coefficients; they are not numbers where their squares miss `E f^2`.

        Nor where the variance is none, whatever the function says of that.
        """
        wrong = self._wrong(series, coefficients, samples.squares, std, at_zero)
        return jnp.where((wrong | jnp.isnan(std))[None], jnp.nan, coefficients)

    def _wrong(
        self,
        series: SparseSeries,
        coefficients: Float[Array, "terms n *size"],
        squares: Float[Array, "n *size nodes"],
        std: Float[Array, "n *size"],
        at_zero: Jumps,
    ) -> Bool[Array, "n *size"]:
        """Whether the sum at equal inputs differs from the mean of the squares."""
        coefficients, squares, std, at_zero = lax.stop_gradient(
            (coefficients, squares, std, at_zero)
        )
        whole = mean_of_squares(squares, self.expansion.nodes)
        terms = jnp.sum(coefficients**2, 0)
        equal = JumpKernels.at_equal_inputs(std)
        left_out = self._left_out(series, at_zero, None, equal)
        gap = jnp.abs(terms + left_out - whole)
        # Inputs of zero see one side of a jump alone.
        return (gap > self.expansion.allowed * whole) & (std > 0)

    def moments(
        self, pair: Pair, left: HermiteCoefficients, right: HermiteCoefficients
    ) -> Moments:
        ends = as_if_one(left.deviation), as_if_one(right.deviation)
        correlation = pair.correlation(*ends)
        value, derivative = hermite_sums(self.expansion, correlation, left, right)
        if not self.expansion.jumps and not self.expansion.kinks:
            distance = self._distance(pair, left, right)
            return Moments(value, derivative, distance=distance)

        rectifier, step = arc_cosine(pair, left.deviation, right.deviation)
        size = left.deviation.std * right.deviation.std
        kernels = JumpKernels(step, rectifier, size)
        of_value, of_slope = self._jumps(pair.cov.dtype)
        series = self.expansion.value, self.expansion.slope
        return Moments(
            value + self._left_out(series[0], of_value, correlation, kernels),
            derivative + self._left_out(series[1], of_slope, correlation, kernels),
        )

    def _distance(
        self, pair: Pair, left: HermiteCoefficients, right: HermiteCoefficients
    ) -> Float[Array, "..."] | None:
        r"""$\sum_l \frac{1}{2} (a_l - b_l)^2 + a_l b_l (1 - \rho^l)$ over all terms."""
        if pair.gap is None:
            return None
        z = pair.deficit(left.deviation, right.deviation)
        deficit = jnp.where(pair.cov < 0, 2 - z, z)
        exponents = exponents_of(self.expansion.value)
        both = [self._random_terms(one) for one in (left, right)]
        terms = list(zip(*both, strict=True))
        apart = [0.5 * (a - b) * (a - b) for a, b in terms]
        lost = gap_of_power_series(exponents, [a * b for a, b in terms], deficit)
        return lax.stop_gradient(sum(apart, lost))

    def _random_terms(self, one: HermiteCoefficients) -> list[Float[Array, "..."]]:
        """The coefficients of the function; those of zero end with the constant."""
        exponents = exponents_of(self.expansion.value)
        known = one.deviation.std > 0
        return [
            jnp.where(known, row, jnp.zeros_like(row)) if l else row
            for l, row in zip(exponents, one.rows.value, strict=True)
        ]

    def _left_out(
        self,
        series: SparseSeries,
        at_zero: Jumps,
        correlation: Float[Array, "..."] | None,
        kernels: JumpKernels,
    ) -> Float[Array, "..."]:
        """The part of jumps that the terms leave out; at equal inputs by default."""
        left_out = jnp.zeros_like(kernels.size)
        if at_zero.value is None and at_zero.slope is None:
            return left_out
        of_step, of_rectifier = self._included(series, correlation)
        if at_zero.value is not None:
            left_out += at_zero.value**2 * (kernels.step - of_step)
        if at_zero.slope is not None:
            rest = kernels.rectifier - kernels.size * of_rectifier
            left_out += at_zero.slope**2 * rest
        return left_out

    def _included(
        self, series: SparseSeries, correlation: Float[Array, "*s"] | None
    ) -> list[Float[Array, "*s"] | float]:
        """The sums of terms of a unit step and of the rectifier, at variances of 1."""
        z, _ = quadrature(self.expansion.nodes)
        matrix = projections(self.expansion.nodes)
        sums = []
        for function in (np.ones_like(z), z):
            products = [
                float(weight * np.sum(matrix[l] * function) ** 2)
                for terms in by_parity(series)
                for l, weight in terms
            ]
            if correlation is None:
                sums.append(sum(products))
            else:
                sums.append(power_series(exponents_of(series), products, correlation))
        return sums

    def diagonal(self, variance: Float[Array, "n *size"]) -> Float[Array, "n *size"]:
        # At equal inputs every power of the correlation is one.
        coefficients = in_terms(self.prepare(variance))
        of_value, _ = self._jumps(variance.dtype)
        kernels = JumpKernels.at_equal_inputs(coefficients.deviation.std)
        left_out = self._left_out(self.expansion.value, of_value, None, kernels)
        # Not by `sum` along an axis: so it is joined with what comes next.
        total = functools.reduce(
            operator.add, (c * c for c in coefficients.rows.value), left_out
        )
        near = NearZero.of(self.fn, self.expansion, variance.dtype)
        total = near.diagonal_at_zero(total, variance)
        if not self.expansion.jumps:
            return total
        # An input of zero is on one side of a jump, which the terms know both of.
        at_zero = self.fn(jnp.zeros((), variance.dtype)) ** 2
        known = (variance <= 0) & jnp.isfinite(at_zero)
        return jnp.where(known, at_zero, total)

    def errors(
        self, variance: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Relative errors of both expectations at equal inputs.

        They are estimated by a finer quadrature that expands nothing.
        """
        value, derivative, *_ = at_equal_inputs(self, variance)
        std = safe_sqrt(variance)
        exact, slope_exact = (
            mean_square(fn, std, BEST_NODES) for fn in (self.fn, slope(self.fn))
        )
        return (
            jnp.abs(value - exact) * reciprocal(exact),
            jnp.abs(derivative - slope_exact) * reciprocal(slope_exact),
        )
