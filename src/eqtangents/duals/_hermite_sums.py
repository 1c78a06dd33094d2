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
        # Where each coefficient has a derivative, compilers would compute it again for
        # each term.
        rows = rows if fixed else buffered(rows)
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
        in_steps = may_be_differentiated.value and all(map(_has_steps, exponents))
        sums = _sums_in_steps if in_steps else _sums
        return sums(exponents, correlation, left.rows, right.rows)
    # Compilers would compute a sum again, entry by entry, in the loop that adds it up,
    # and in each sum what all of them read: the correlation, and, backwards, the
    # derivatives of what comes next.
    variances = [
        buffered(jnp.broadcast_to(one.variance, correlation.shape))
        for one in (left, right)
    ]
    rows, changes = [left.rows, right.rows], [left.changes, right.changes]
    correlation = buffered(correlation)
    return buffered(_sums_by_variance(exponents, correlation, rows, changes, variances))


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


_AT_A_STEP = 16  # terms


def _has_steps(exponents: Sequence[int]) -> bool:
    """Whether they are all exponents up to one, as for functions not known before."""
    every = sorted(exponents) == [*range(len(exponents))]
    return every and len(exponents) % _AT_A_STEP == 0


def _sums_in_steps(
    exponents: _Exponents,
    correlation: Float[Array, "*s"],
    left: TermCoefficients,
    right: TermCoefficients,
) -> _TwoSums:
    """Both sums, of all exponents up to one, where each coefficient has a derivative.

    Compilers write out the powers of the correlation for the derivative of each. In a
    loop over some terms at a time they are as many in all as in one step.
    """
    value, slope = (
        _sum_in_steps(powers, correlation, x, y)
        for powers, x, y in zip(exponents, left, right, strict=True)
    )
    return value, slope


def _sum_in_steps(
    exponents: Sequence[int],
    correlation: Float[Array, "*s"],
    left: Sequence[Float[Array, "..."]],
    right: Sequence[Float[Array, "..."]],
) -> Float[Array, "*s"]:
    order = sorted(range(len(exponents)), key=exponents.__getitem__)

    def in_steps(rows: Sequence[Float[Array, "..."]]) -> Float[Array, "..."]:
        stacked = jnp.stack([rows[i] for i in order])
        return stacked.reshape(-1, _AT_A_STEP, *stacked.shape[1:])

    @jax.checkpoint
    def step(
        carried: _TwoSums, rows: tuple[Float[Array, "..."], Float[Array, "..."]]
    ) -> tuple[_TwoSums, None]:
        power, total = carried
        products = [a * b for a, b in zip(*rows, strict=True)]
        part = power_series(range(_AT_A_STEP), products, correlation)
        return (power * beyond, total + power * part), None

    beyond = power_series([_AT_A_STEP], [1.0], correlation)
    none = correlation - correlation  # which varies over a mesh as correlations do
    steps = in_steps(left), in_steps(right)
    (_, total), _ = jax.lax.scan(step, (none + 1, none), steps)
    return total


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
