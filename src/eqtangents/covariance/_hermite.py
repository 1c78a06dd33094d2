"""Duals of any function, by its Hermite expansion."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents.covariance._elementary import at_most, reciprocal, safe_sqrt
from eqtangents.covariance._expansion import (
    BEST_NODES,
    Expansion,
    Series,
    jumps,
    projections,
    quadrature,
    slope,
)
from eqtangents.covariance._pointwise import AbstractDual, unstacked
from eqtangents.covariance._polynomial import power_series
from eqtangents.covariance._rectified import Deviation, arc_cosine


class HermiteEnds(NamedTuple):
    """What a Hermite expansion knows of one end of a pair."""

    value: Sequence[Float[Array, "..."]] | Float[Array, "..."]
    slope: Sequence[Float[Array, "..."]] | Float[Array, "..."]
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


class ExpandedDual(AbstractDual):
    r"""Dual of any elementwise function: $E f f = \sum_l w_l r_l(s) r_l(s') \rho^l$.

    `_expansion` says how; $E f' f'$ is the same of the slope. That is the slope of the
    pieces: jumps do not count, which gradients in finite networks do not see either.

    At variances so large that the terms no longer add up to $E f^2$, which is known by
    quadrature, the result is not a number.
    """

    fn: Callable
    expansion: Expansion = eqx.field(static=True)

    def ends(self, variance: Float[Array, "n *size"]) -> HermiteEnds:
        """The coefficients of the function and of its slope."""
        std = safe_sqrt(variance)
        jumps_of_value, jumps_of_slope = self._jumps(std.dtype)
        value, of_slope = self.expansion.value, self.expansion.slope
        return HermiteEnds(
            self._coefficients(self.fn, value, std, jumps_of_value),
            self._coefficients(slope(self.fn), of_slope, std, jumps_of_slope),
            Deviation(std, reciprocal(std)),
        )

    def _jumps(self, dtype: np.dtype) -> tuple[Jumps, Jumps]:
        """Those of the function and those of its slope."""
        jump, kink = jumps(self.fn, dtype)
        kink = kink if self.expansion.kinks else None
        return Jumps(jump if self.expansion.jumps else None, kink), Jumps(kink, None)

    def _coefficients(
        self,
        fn: Callable,
        series: Series,
        std: Float[Array, "n *size"],
        at_zero: Jumps,
    ) -> Float[Array, "n terms *size"]:
        """`sqrt(w_l) r_l`, not numbers where their squares add up to something else."""
        z, _ = quadrature(self.expansion.nodes)
        matrix = projections(self.expansion.nodes)
        x = jnp.multiply.outer(std, jnp.asarray(z, std.dtype))
        above, below = fn(x), fn(-x)
        parts = []
        for half, terms in zip(
            (above + below, above - below), _parities(series), strict=True
        ):
            rows = [matrix[l] * np.sqrt(weight) for l, weight in terms]
            weights = jnp.asarray(np.reshape(rows, (-1, z.size)), std.dtype)
            parts.append(
                jnp.einsum("n...q,tq->tn...", half, weights, precision="highest")
            )
        coefficients = jnp.concatenate(parts)
        squares = above * above + below * below
        wrong = self._wrong(series, coefficients, squares, std, at_zero)
        coefficients = jnp.where(wrong[None], jnp.nan, coefficients)
        # In memory terms come first, so that each lies in a row.
        return jnp.moveaxis(coefficients, 0, 1)

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
        one, half = jnp.ones((), std.dtype), jnp.full((), 0.5, std.dtype)
        known = Known(half, half * std**2, std**2)
        terms = jnp.sum(coefficients**2, 0)
        gap = jnp.abs(terms + self._left_out(series, at_zero, one, known) - whole)
        # Inputs that are zero see one side of a jump alone.
        return (gap > self.expansion.allowed * whole) & (std > 0)

    def __call__(
        self, cov: Float[Array, "*s"], left: HermiteEnds, right: HermiteEnds
    ) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        """The sum of the terms, and what they leave out of jumps."""
        per_size = left.deviation.reciprocal * right.deviation.reciprocal
        near_one = 1 + 1e-4
        correlation = -at_most(-at_most(cov * per_size, near_one), near_one)
        value, derivative = (
            _sum(series, [a * b for a, b in zip(x, y, strict=True)], correlation)
            for series, x, y in (
                (self.expansion.value, left.value, right.value),
                (self.expansion.slope, left.slope, right.slope),
            )
        )
        if not self.expansion.jumps and not self.expansion.kinks:
            return value, derivative

        rectifier, step = arc_cosine(cov, left.deviation, right.deviation)
        known = Known(step, rectifier, left.deviation.std * right.deviation.std)
        of_value, of_slope = self._jumps(cov.dtype)
        series = self.expansion.value, self.expansion.slope
        return (
            value + self._left_out(series[0], of_value, correlation, known),
            derivative + self._left_out(series[1], of_slope, correlation, known),
        )

    def _left_out(
        self,
        series: Series,
        at_zero: Jumps,
        correlation: Float[Array, "..."],
        known: Known,
    ) -> Float[Array, "..."]:
        """What the terms leave out of jumps."""
        left_out = jnp.zeros_like(correlation)
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
        self, series: Series, correlation: Float[Array, "*s"]
    ) -> list[Float[Array, "*s"]]:
        """The terms of a unit step and of the rectifier, at unit variances."""
        z, _ = quadrature(self.expansion.nodes)
        matrix = projections(self.expansion.nodes)
        return [
            _sum(
                series,
                [
                    float(weight * np.sum(matrix[l] * function) ** 2)
                    for terms in _parities(series)
                    for l, weight in terms
                ],
                correlation,
            )
            for function in (np.ones_like(z), z)
        ]

    def diagonal(self, variance: Float[Array, "n *size"]) -> Float[Array, "n *size"]:
        """The same at equal inputs, to rounding: that is where angles are zero."""
        return self._at_equal_inputs(variance)[0]

    def _at_equal_inputs(
        self, variance: Float[Array, "n *size"]
    ) -> tuple[Float[Array, "n *size"], Float[Array, "n *size"]]:
        ends = jax.tree.map(
            lambda end: end if end.ndim == variance.ndim else unstacked(end, 1),
            self.ends(variance),
        )
        return self(variance, ends, ends)

    def errors(
        self, variance: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Relative errors of both expectations at equal inputs.

        By comparison with a finer quadrature that expands nothing.
        """
        value, derivative = self._at_equal_inputs(variance)
        std = safe_sqrt(variance)
        exact, slope_exact = (
            _mean_square(fn, std, BEST_NODES) for fn in (self.fn, slope(self.fn))
        )
        return (
            jnp.abs(value - exact) * reciprocal(exact),
            jnp.abs(derivative - slope_exact) * reciprocal(slope_exact),
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
