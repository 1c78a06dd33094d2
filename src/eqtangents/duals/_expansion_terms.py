"""Sums of many terms of a Hermite expansion, as weighted sums of few."""

import functools
from collections.abc import Sequence

import numpy as np

from eqtangents.duals._expansion import (
    BEST_NODES,
    LARGEST_EXPONENT,
    projections,
    quadrature,
)


ALL = 4096  # the largest exponent in the sums that are fitted
# Halves of the exponents to choose from, `2 p` or `2 p + 1` by parity.
PLACES = np.unique(
    [*range(84), *np.geomspace(84, LARGEST_EXPONENT // 2 - 1, 50).astype(int)]
)
_DECAYS = (0.0, *np.geomspace(1e-3, 5, 12))  # correlations to fit at, `exp(-decay)`
# Pairs of standard deviations to fit at, by their distance in the grid.
_STD_DISTANCES = (0, 1, 3, 7, 15)
_NOTHING = 1e-14  # a weight below which a term is left out
_MOST_STEPS = 160


class ExpansionSums:
    """The sums to be fitted, for one function at some standard deviations.

    The even and the odd terms are summed apart, relative to the norms of the function,
    after multiples of the step and the rectifier are subtracted.
    """

    def __init__(
        self,
        halves: tuple[np.ndarray, np.ndarray],
        r: Sequence[np.ndarray],
        std: np.ndarray,
        jump: float,
        kink: float,
    ):
        self.squares = jump**2, kink**2 * np.outer(std, std)
        self.halves, self.r = halves, r
        self.norm = norm_of(halves)
        self.scale = np.outer(self.norm, self.norm)
        i, j = np.triu_indices(self.norm.size)
        some = np.isin(j - i, _STD_DISTANCES)
        self.pairs = i[some], j[some]
        matrix, (z, _) = projections(BEST_NODES, ALL), quadrature(BEST_NODES)
        self.known = [
            (matrix[p::2].sum(1) ** 2, (matrix[p::2] @ z) ** 2) for p in (0, 1)
        ]

    @functools.cached_property
    def wholes(self) -> list[np.ndarray]:
        """All even and all odd terms, summed: `[parity][correlation, std1, std2]`."""
        return [self._whole(parity) for parity in (0, 1)]

    def _whole(self, parity: int) -> np.ndarray:
        half, (_, weights) = self.halves[parity], quadrature(BEST_NODES)
        # At correlation 1, the terms of either parity are a quarter of the step and a
        # quarter of the rectifier.
        at_one = 0.5 * (half * weights) @ half.T - 0.25 * sum(self.squares)
        parts = [self._all(parity, decay) for decay in _DECAYS[1:]]
        return np.stack([at_one, *parts]) / self.scale

    def _all(self, parity: int, decay: float) -> np.ndarray:
        weights = np.exp(-decay * np.arange(parity, ALL + 1, 2))
        known, (step, rectifier) = self.known[parity], self.squares
        left_out = step * (weights @ known[0]) + rectifier * (weights @ known[1])
        # Weights of large exponents are zero.
        r = self.r[parity][:, : int(np.sum(weights > _NOTHING))]
        return (r * weights[: r.shape[1]]) @ r.T - left_out

    def part(self, parity: int, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The weighted sum of some terms, by correlation and pair of variances."""
        parts = [self._part(parity, places, weights, decay) for decay in _DECAYS]
        return np.stack(parts) / self.scale

    def _part(
        self, parity: int, places: np.ndarray, weights: np.ndarray, decay: float
    ) -> np.ndarray:
        exponents = np.arange(parity, ALL + 1, 2)[places]
        weights = weights * np.exp(-decay * exponents)
        known = self.known[parity]
        of_step, of_rectifier = (np.sum(weights * terms[places]) for terms in known)
        step, rectifier = self.squares
        r = self.r[parity][:, places]
        return (r * weights) @ r.T - step * of_step - rectifier * of_rectifier

    def terms(self, parity: int) -> np.ndarray:
        """Each term, in a column; correlations and pairs of variances are the rows."""
        i, j = self.pairs
        r, known = self.r[parity][:, PLACES], self.known[parity]
        step, rectifier = self.squares[0], self.squares[1][i, j][:, None]
        terms = r[i] * r[j] - step * known[0][PLACES] - rectifier * known[1][PLACES]
        terms = terms / self.scale[i, j][:, None]
        exponents = np.arange(parity, ALL + 1, 2)[PLACES]
        return np.concatenate([terms * np.exp(-d * exponents) for d in _DECAYS])


def norm_of(halves: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The root of the mean square of a function, from its even and odd part."""
    _, weights = quadrature(BEST_NODES)
    norm = np.sqrt(0.5 * (halves[0] ** 2 + halves[1] ** 2) @ weights)
    return np.where(norm > 0, norm, np.inf)


class TermChoice:
    """Few columns, and nonnegative weights with which they add up to the sums.

    The algorithm is nonnegative least squares by Lawson & Hanson 1974, chapter 23,
    stopped as soon as no sum is off by more than the tolerance. The columns are in the
    order of their exponents: one factorisation serves for all largest exponents.
    """

    def __init__(self, sums: ExpansionSums, parity: int):
        self.sums = sums.wholes[parity][:, *sums.pairs].ravel()
        terms = sums.terms(parity)
        norms = np.linalg.norm(terms, axis=0)
        self.norms = np.where(norms > 0, norms, np.inf)
        self.peaks = np.abs(terms).max(0)
        self.columns = terms / self.norms
        both = np.column_stack([self.columns, self.sums])
        self.reduced = np.asarray(np.linalg.qr(both, mode="r"))

    def sparse(self, largest: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        """Places and weights of exponents below a largest one."""
        usable = (PLACES < largest // 2) & (self.peaks > 1e-5 * tolerance)
        few_columns, few_sums = self.reduced[:, :-1], self.reduced[:, -1]
        weights, chosen, refused = np.zeros(PLACES.size), [], set()
        for _ in range(_MOST_STEPS):
            support = np.flatnonzero(weights)
            at_support = weights[support]
            rest = few_sums - few_columns[:, support] @ at_support
            gain = np.where(usable, few_columns.T @ rest, 0)
            gain[[*chosen, *refused]] = 0
            best = int(gain.argmax())
            error = np.abs(self.sums - self.columns[:, support] @ at_support).max()
            if error <= tolerance or gain[best] <= 0:
                break
            chosen, weights = _with_column(few_columns, few_sums, weights, chosen, best)
            refused = set() if best in chosen else refused | {best}
        kept = np.flatnonzero(weights)
        return PLACES[kept], weights[kept] / self.norms[kept]


def _with_column(
    columns: np.ndarray,
    sums: np.ndarray,
    weights: np.ndarray,
    chosen: list[int],
    new: int,
) -> tuple[list[int], np.ndarray]:
    """A fit with another column, which may push some of the others out."""
    chosen = [*chosen, new]
    while chosen:
        fitted = np.linalg.lstsq(columns[:, chosen], sums, rcond=1e-14)[0]
        before, weights = weights[chosen], np.zeros_like(weights)
        if fitted.min() > 0:
            weights[chosen] = fitted
            break
        # Go towards the fit until the first weight vanishes, and drop its term.
        falling = fitted <= 0
        step = np.min(before[falling] / (before[falling] - fitted[falling]))
        weights[chosen] = before + step * (fitted - before)
        chosen = [c for c in chosen if weights[c] > 1e-13 * weights.max()]
    return chosen, weights
