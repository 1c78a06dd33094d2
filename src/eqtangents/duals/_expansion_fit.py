"""The expansion of one function, found by evaluating the function."""

from typing import NamedTuple

import numpy as np

from eqtangents.duals._expansion import (
    BEST_NODES,
    LARGEST_EXPONENT,
    NODE_COUNTS,
    Expansion,
    SparseSeries,
    projections,
    quadrature,
)
from eqtangents.duals._expansion_terms import (
    ALL,
    PLACES,
    ExpansionSums,
    TermChoice,
    norm_of,
)
from eqtangents.duals._near_zero import taylor_coefficients
from eqtangents.duals._sampled import SampledFunction


# Numbers of standard deviations to fit at; grids of fewer are parts of the finest.
_COUNTS, _FINEST, _SMALLEST_STD = (8, 29, 57), 57, 1e-3**0.5
_LARGEST = (128, 512, LARGEST_EXPONENT)
_HOPELESS = 1e-2  # an error that fitting at more standard deviations does not mend
_NEGLIGIBLE = 1e-10  # a size of terms, relative to the function


class Accuracy(NamedTuple):
    """The largest relative error, and the variance up to which the tolerance holds."""

    error: float
    variance: float


def expand(
    fn: SampledFunction, tolerance: float, largest_variance: float
) -> tuple[Expansion, Accuracy]:
    """An expansion of an elementwise function, and how accurate it is."""
    std = _std_grid(largest_variance)
    near = fn(np.array([1e-30, -1e-30]))
    jump, kink = (float(np.nan_to_num(at[0] - at[1])) for at in near)
    sides = [fn(sign * np.outer(std, quadrature(BEST_NODES)[0])) for sign in (1, -1)]
    values, slopes = (_halves(sides, i) for i in (0, 1))
    derived = _are_derivatives(slopes, values, std, jump, tolerance)
    fits = (
        _SeriesFit(values, std, jump, kink if derived else 0.0),
        _SeriesFit(slopes, std, kink, 0.0),
    )
    best = _expansion_fitted_to(fn, std, fits, tolerance, tolerance, derived)
    if not tolerance < best[1].error < _HOPELESS:
        return best
    # A closer fit may have smaller errors between the standard deviations of the fit.
    closer = _expansion_fitted_to(fn, std, fits, 0.25 * tolerance, tolerance, derived)
    return min(best, closer, key=lambda pair: pair[1].error)


def _are_derivatives(
    slopes: tuple[np.ndarray, np.ndarray],
    values: tuple[np.ndarray, np.ndarray],
    std: np.ndarray,
    jump: float,
    tolerance: float,
) -> bool:
    r"""Whether slopes are those of the values, which jump at zero alone.

    If so, $\sqrt{l}\, r_l(f; s) = s\, r_{l-1}(f'; s) + j\, h_{l-1}(0)\, \phi(0)$ with
    the jump $j$. They are not where a function defines a derivative of its own.
    """
    matrix, norm = projections(BEST_NODES, 2), norm_of(values)
    at_zero = jump / np.sqrt(2 * np.pi), 0.0
    for l in (1, 2):
        found = np.sqrt(l) * values[l % 2] @ matrix[l]
        expected = std * (slopes[1 - l % 2] @ matrix[l - 1]) + at_zero[l - 1]
        if np.any(np.abs(found - expected) > tolerance * norm):
            return False
    return True


def _expansion_fitted_to(
    fn: SampledFunction,
    std: np.ndarray,
    fits: tuple["_SeriesFit", "_SeriesFit"],
    fitted: float,
    tolerance: float,
    derived: bool,
) -> tuple[Expansion, Accuracy]:
    """An expansion whose terms fit to one tolerance, and its accuracy by another."""
    value, sloped = fits
    jump, kink = value.jumps[0], sloped.jumps[0]
    sloped.to(fitted)
    # Slopes are harder to fit: if they have no usable expansion, the values need none.
    lost = sloped.errors.max() > max(_HOPELESS, 10 * tolerance)
    value.to(fitted, _COUNTS[:1] if lost else _COUNTS)
    nodes = _fewest_nodes(fn, std[:: std.size // 8], (value, sloped))
    negligible = 1e-6 * max(value.size, sloped.size)
    expansion = Expansion(
        nodes,
        value.series,
        sloped.series,
        jumps=bool(abs(jump) > negligible),
        kinks=bool(abs(kink) > negligible),
        derived=derived,
        allowed=max(10 * tolerance, 0.01),
        near_zero=taylor_coefficients(fn),
    )
    error = np.maximum(value.errors, sloped.errors)
    holds = std[error <= tolerance]
    variance = float(holds[-1] ** 2) if holds.size else 0.0
    return expansion, Accuracy(float(error[-1]), variance)


def _std_grid(largest_variance: float) -> np.ndarray:
    """Standard deviations, closer to each other where they are small."""
    scale = 0.25 * largest_variance**0.5
    low, high = np.arcsinh(np.array([_SMALLEST_STD, largest_variance**0.5]) / scale)
    return scale * np.sinh(np.linspace(low, high, _FINEST))


def _halves(sides: list, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Twice the even and the odd part of a function, from both sides of zero."""
    above, below = (side[i] for side in sides)
    return above + below, above - below


def _fewest_nodes(
    fn: SampledFunction, std: np.ndarray, fits: tuple["_SeriesFit", ...]
) -> int:
    """The fewest nodes that give the same sums as the finest quadrature."""
    for nodes in NODE_COUNTS:
        z, _ = quadrature(nodes)
        sides = [fn(sign * np.outer(std, z)) for sign in (1, -1)]
        if all(fit.holds(_halves(sides, i), nodes, std) for i, fit in enumerate(fits)):
            return nodes
    return BEST_NODES


class _SeriesFit:
    """The terms for one function, and their errors up to each standard deviation."""

    def __init__(
        self,
        halves: tuple[np.ndarray, np.ndarray],
        std: np.ndarray,
        jump: float,
        kink: float,
    ):
        self.halves, self.std, self.jumps = halves, std, (jump, kink)
        self.size, self.tolerance = _largest(halves), 0.0
        self.sums: dict[int, ExpansionSums] = {}
        self.choices: dict[int, list[TermChoice]] = {}
        self.series, self.errors = SparseSeries((), ()), np.zeros(std.size)
        if self.size == 0:
            return
        matrix, norm = projections(BEST_NODES, ALL), norm_of(halves)[:, None]
        self.r = []
        for parity, half in enumerate(halves):
            r = half @ matrix[parity::2].T
            matters = np.flatnonzero((np.abs(r / norm) > _NEGLIGIBLE).any(0))
            self.r.append(r[:, : max(matters.max(initial=0) + 1, PLACES[-1] + 1)])

    def to(self, tolerance: float, counts: tuple[int, ...] = _COUNTS) -> None:
        """Fit with more standard deviations and larger exponents until it is close."""
        self.tolerance = tolerance
        if self.size == 0:
            return
        accurate, largest = 0.5 * self.tolerance, list(_LARGEST)
        for count in counts:
            sums = self._sums(count)
            choices = self._choices(count)
            self.series = self._fitted(choices, largest[0])
            while self._errors(sums).max() > accurate and len(largest) > 1:
                largest.pop(0)
                self.series = self._fitted(choices, largest[0])
            # These are errors between the standard deviations of the fit as well.
            self.errors = np.maximum.accumulate(self._errors(self._sums(_FINEST)))
            if self.errors[-1] <= accurate or self._errors(sums).max() > _HOPELESS:
                return

    def _sums(self, count: int) -> ExpansionSums:
        if count not in self.sums:
            self.sums[count] = self._sums_of(count)
        return self.sums[count]

    def _choices(self, count: int) -> list[TermChoice]:
        if count not in self.choices:
            self.choices[count] = [TermChoice(self._sums(count), p) for p in (0, 1)]
        return self.choices[count]

    def _sums_of(self, count: int) -> ExpansionSums:
        some = slice(None, None, (self.std.size - 1) // (count - 1))
        halves = self.halves[0][some], self.halves[1][some]
        return ExpansionSums(
            halves, [r[some] for r in self.r], self.std[some], *self.jumps
        )

    def _fitted(self, choices: list[TermChoice], largest: int) -> SparseSeries:
        exponents, weights = [], []
        for parity, choice in enumerate(choices):
            places, chosen = choice.sparse(largest, 0.125 * self.tolerance)
            exponents += [parity + 2 * int(place) for place in places]
            weights += map(float, chosen)
        return SparseSeries(tuple(exponents), tuple(weights))

    def _errors(self, sums: ExpansionSums) -> np.ndarray:
        """The largest error of pairs of each standard deviation with smaller ones."""
        total = np.zeros(sums.norm.size)
        for parity in (0, 1):
            exponents, weights = (
                np.array(self.series.exponents, int),
                np.array(self.series.weights),
            )
            chosen = exponents % 2 == parity
            part = sums.part(parity, exponents[chosen] // 2, weights[chosen])
            error = np.abs(part - sums.wholes[parity]).max(0)
            total += np.tril(error).max(1)
        return total

    def holds(
        self, halves: tuple[np.ndarray, np.ndarray], nodes: int, std: np.ndarray
    ) -> bool:
        """Whether a number of nodes gives the same sums, by Cauchy-Schwarz."""
        if not self.series.exponents:
            return True
        same = np.isin(self.std, std)
        best = self.halves[0][same], self.halves[1][same]
        coefficients = []
        for half, n in ((halves, nodes), (best, BEST_NODES)):
            matrix = projections(n)
            r = np.array([half[l % 2] @ matrix[l] for l in self.series.exponents])
            coefficients.append(r * np.sqrt(self.series.weights)[:, None])
        change = np.linalg.norm(np.subtract(*coefficients), axis=0)
        return bool(np.max(change / norm_of(best)) <= 0.1 * self.tolerance)


def _largest(halves: tuple[np.ndarray, np.ndarray]) -> float:
    return float(np.abs(halves).max())
