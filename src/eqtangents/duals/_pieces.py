"""Functions that are polynomials between breakpoints, recognised by their values.

The search is greedy, from left to right: a piece reaches as far as one cubic polynomial
agrees with the function at the points of a grid. The breakpoint between two pieces is
then narrowed down by which of the two polynomials the function agrees with.
"""

import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.polynomial import Polynomial

from eqtangents.duals._piecewise import Break, PiecewisePolynomial


LARGEST_DEGREE = 3
_MOST_PIECES = 9
_FEWEST_POINTS = 12  # in a piece: with fewer, any smooth function would have pieces
_FIT_ROUNDING = 1e-11
# The grid is dense near zero, and reaches as far as inputs of the largest variances.
GRID = np.sinh(np.linspace(-9, 9, 2401)) * (60 / np.sinh(9))
# A breakpoint is narrowed down to one of `_SECTIONS` sections, `_ROUNDS` times.
_SECTIONS, _ROUNDS = 256, 7


def find_pieces(
    fn: Callable[[np.ndarray], np.ndarray],
    values: Float[np.ndarray, " points"],
    slopes: Float[np.ndarray, " points"],
) -> PiecewisePolynomial | None:
    """The pieces of an elementwise function in double precision, if it has few.

    `values` and `slopes` are the function and its derivative on `GRID`. A function
    whose derivative is defined otherwise than by its values has no such pieces.
    """
    scale = np.abs(values).max()
    if not np.isfinite(scale):
        return None
    pieces = _pieces(values)
    if pieces is None:
        return None
    polynomials = [_cubic(values, *bounds) for bounds in pieces]
    brackets = [GRID[stop - 1 : stop + 1] for _, stop in pieces[:-1]]
    breaks = [
        _breakpoint(fn, *pair, *bracket)
        for pair, bracket in zip(itertools.pairwise(polynomials), brackets, strict=True)
    ]
    assembled = _assembled(polynomials, breaks)
    between = 0.5 * (GRID[1:] + GRID[:-1])
    error = np.abs(values_at(assembled, between) - fn(between))
    near_break = np.isin(np.arange(between.size), [stop - 1 for _, stop in pieces])
    agrees = error <= 1e-9 * np.abs(fn(between)) + 1e-13 * scale
    at_break = np.isin(np.arange(GRID.size), [[stop - 1, stop] for _, stop in pieces])
    slope_error = np.abs(values_at(assembled.slope(), GRID) - slopes)
    same_slope = slope_error <= 1e-6 * (np.abs(slopes) + 1e-3 * np.abs(slopes).max())
    same = np.all(agrees | near_break) and np.all(same_slope | at_break)
    return assembled if same else None


def values_at(
    function: PiecewisePolynomial, x: Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    """The function at points other than its breakpoints."""
    total = np.polynomial.polynomial.polyval(x, function.coefficients or (0.0,))
    for one in function.breaks:
        beyond = one.side * (x - one.at)
        value = np.polynomial.polynomial.polyval(beyond, one.weights or (0.0,))
        total = total + np.where(beyond > 0, value, 0)
    return total


def _pieces(values: Float[np.ndarray, " points"]) -> list[tuple[int, int]] | None:
    """Bounds of the pieces, as indices of the grid, if there are few."""
    pieces, start = [], 0
    while start < GRID.size:
        if len(pieces) == _MOST_PIECES:
            return None
        stop = _longest(values, start)
        if stop - start < _FEWEST_POINTS:
            return None
        pieces.append((start, stop))
        start = stop
    return pieces


def _longest(values: Float[np.ndarray, " points"], start: int) -> int:
    """The index where the piece from `start` on stops, by doubling and bisection."""
    good, step = start + 4, 4
    while step >= 1:
        stop = min(good + step, GRID.size)
        if stop > good and _agrees(values, start, stop):
            good, step = stop, 2 * step
        else:
            step //= 2
    return good


def _agrees(values: Float[np.ndarray, " points"], start: int, stop: int) -> bool:
    piece = values[start:stop]
    fitted = _cubic(values, start, stop)(GRID[start:stop])
    return bool(np.abs(fitted - piece).max() <= _FIT_ROUNDING * np.abs(piece).max())


def _cubic(values: Float[np.ndarray, " points"], start: int, stop: int) -> Polynomial:
    """The cubic polynomial through a few points of a piece, on its own domain."""
    few = np.unique(np.linspace(start, stop - 1, 32).astype(int))
    domain = [GRID[start], GRID[stop - 1]]
    return Polynomial.fit(GRID[few], values[few], LARGEST_DEGREE, domain)


def _breakpoint(
    fn: Callable, before: Polynomial, after: Polynomial, low: float, high: float
) -> float:
    """The point where a function turns from one polynomial into the next."""
    for _ in range(_ROUNDS):
        x = np.linspace(low, high, _SECTIONS)
        y = fn(x)
        closer = np.abs(y - before(x)) <= np.abs(y - after(x))
        first = x.size - 1 if closer.all() else max(int(np.argmin(closer)), 1)
        low, high = x[first - 1], x[first]
    return _snapped(high)


def _assembled(
    polynomials: list[Polynomial], breaks: list[float]
) -> PiecewisePolynomial:
    """The piece around zero, and the change of the polynomial at each breakpoint."""
    middle = int(np.searchsorted(breaks, 0.0, side="left"))
    changes = []
    for i, at in enumerate(breaks):
        inner, outer = polynomials[i : i + 2]
        side = 1
        if at < 0:
            inner, outer, side = outer, inner, -1
        local = Polynomial([at, side])  # x, by the distance beyond the break
        changes.append(Break(at, _power_coefficients(outer(local) - inner(local))))
    around = polynomials[middle](Polynomial([0.0, 1.0]))
    return PiecewisePolynomial(_power_coefficients(around), tuple(changes))


def _power_coefficients(polynomial: Polynomial) -> tuple[float, ...]:
    coefficients = np.asarray([_snapped(float(c)) for c in polynomial.coef])
    scale = np.abs(coefficients).max()
    kept = np.where(np.abs(coefficients) > 1e-10 * scale, coefficients, 0.0)
    return tuple(map(float, np.trim_zeros(kept, "b"))) or (0.0,)


def _snapped(x: float) -> float:
    """A number of few digits, if the given one differs from it by rounding alone."""
    short = round(float(x), 9)
    return short if abs(short - x) <= 1e-12 * max(1.0, abs(x)) else float(x)
