r"""The sums over the terms of a Hermite expansion, for pairs, and their derivatives.

A sum has dozens of coefficients for either end of a pair. Differentiated backwards,
each of them would have a derivative at each pair, to be summed over all pairs. But all
of them change with one number, the variance $v$ of that end. So the changes of the
coefficients with the variance are prepared as the coefficients are, and at each pair

$$\partial_v \sum_l w_l r_l(v)\, r_l(v')\, \rho^l
= \sum_l w_l \frac{d r_l}{d v}\, r_l(v')\, \rho^l$$

at constant correlation: a sum like the first, and one number for each end. The next
derivatives are those of these sums, term by term.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._buffers import buffered
from eqtangents.duals._dual import Stacked
from eqtangents.duals._elementary import may_be_differentiated
from eqtangents.duals._expansion import Expansion
from eqtangents.duals._hermite_coefficients import exponents_of
from eqtangents.duals._pair import Deviation, deviation
from eqtangents.duals._polynomial import power_series


class TermCoefficients(NamedTuple):
    """The coefficients of a function and of its slope, or how they change."""

    value: Stacked | Sequence[Float[Array, "..."]]
    slope: Stacked | Sequence[Float[Array, "..."]]


class HermiteCoefficients(NamedTuple):
    """What the sums need of one variance.

    `changes` is the derivative of `rows` in the variance, or `None` if the rows depend
    on anything else.
    """

    rows: TermCoefficients
    deviation: Deviation
    variance: Float[Array, "..."]
    changes: TermCoefficients | None


def coefficients_of(
    rows_of: Callable[[Float[Array, "n *size"]], list[Float[Array, "_ n *size"]]],
    variance: Float[Array, "n *size"],
    *,
    fixed: bool,
) -> HermiteCoefficients:
    """The coefficients of a function and of its slope, as rows that follow from it.

    `fixed`: whether the rows depend on the variance alone.
    """
    changes = None
    if fixed and may_be_differentiated.value:
        one = jnp.ones_like(variance)
        rows, changes = jax.jvp(rows_of, (variance,), (one,))
        rows = _along_variance(rows, changes, variance)
        changes = TermCoefficients(*map(Stacked, changes))
    else:
        rows = rows_of(variance)
    rows = TermCoefficients(*map(Stacked, rows))
    return HermiteCoefficients(rows, deviation(variance), variance, changes)


@jax.custom_jvp
def _along_variance(
    rows: list[Float[Array, "_ n *size"]],
    changes: list[Float[Array, "_ n *size"]],
    variance: Float[Array, "n *size"],
) -> list[Float[Array, "_ n *size"]]:
    """The rows, differentiated by what is known of their changes with the variance."""
    return rows


@_along_variance.defjvp
def _along_variance_jvp(primals: tuple, tangents: tuple) -> tuple[list, list]:
    rows, changes, variance = primals
    moved = [change * tangents[2][None] for change in changes]
    return _along_variance(rows, changes, variance), moved


# The exponents of the terms of a function, and of those of its slope.
_Exponents: TypeAlias = tuple[Sequence[int], Sequence[int]]
_TwoSums: TypeAlias = tuple[Float[Array, "*s"], Float[Array, "*s"]]


def hermite_sums(
    expansion: Expansion,
    correlation: Float[Array, "*s"],
    left: HermiteCoefficients,
    right: HermiteCoefficients,
) -> _TwoSums:
    """The sums over the terms of a function, and over those of its slope."""
    exponents = exponents_of(expansion.value), exponents_of(expansion.slope)
    if left.changes is None or right.changes is None:
        return _sums(exponents, correlation, left.rows, right.rows)
    # Compilers would compute a sum again, entry by entry, in the loop that adds it up.
    variances = [
        buffered(jnp.broadcast_to(one.variance, correlation.shape))
        for one in (left, right)
    ]
    rows, changes = [left.rows, right.rows], [left.changes, right.changes]
    return _sums_by_variance(exponents, correlation, rows, changes, variances)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sums_by_variance(
    exponents: _Exponents,
    correlation: Float[Array, "*s"],
    rows: list[TermCoefficients],
    changes: list[TermCoefficients],
    variances: list[Float[Array, "*s"]],
) -> _TwoSums:
    """Both sums, differentiated in the correlation and in both variances alone."""
    return _sums(exponents, correlation, *rows)


@_sums_by_variance.defjvp
def _sums_by_variance_jvp(
    exponents: _Exponents, primals: tuple, tangents: tuple
) -> tuple[_TwoSums, _TwoSums]:
    correlation, (left, right), (left_change, right_change), _ = primals
    of_value, of_slope = ([max(l - 1, 0) for l in powers] for powers in exponents)
    partial = (
        _sums((of_value, of_slope), correlation, _scaled_rows(exponents, left), right),
        _sums(exponents, correlation, left_change, right),
        _sums(exponents, correlation, left, right_change),
    )
    moved = tangents[0], *tangents[3]
    value, slope = (
        functools.reduce(operator.add, map(operator.mul, parts, moved))
        for parts in zip(*partial, strict=True)
    )
    return _sums_by_variance(exponents, *primals), (value, slope)


def _scaled_rows(factors: _Exponents, rows: TermCoefficients) -> TermCoefficients:
    value, slope = (
        [factor * row for factor, row in zip(*both, strict=True)]
        for both in zip(factors, rows, strict=True)
    )
    return TermCoefficients(value, slope)


def _sums(
    exponents: _Exponents,
    correlation: Float[Array, "*s"],
    left: TermCoefficients,
    right: TermCoefficients,
) -> _TwoSums:
    """The sums of products of coefficients times powers of the correlation."""
    value, slope = (
        power_series(powers, [a * b for a, b in zip(x, y, strict=True)], correlation)
        for powers, x, y in zip(exponents, left, right, strict=True)
    )
    return value, slope
