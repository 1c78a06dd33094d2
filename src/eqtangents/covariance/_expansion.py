r"""Which terms of a Hermite expansion to add up, and with which weights.

With normalised Hermite polynomials $h_l$, correlation $\rho$ and $s = \sqrt{v}$,

$$E f(u) f(v) = \sum_l r_l(s)\, r_l(s')\, \rho^l, \qquad r_l(s) = E f(s z) h_l(z)$$

(Mehler's formula). Hundreds of terms may matter, but beyond the first few they vary
slowly with $l$, so that a sum over few of them, with weights, stands for the sum over
all, as quadrature does for an integral. For one function, exponents and weights are
found by nonnegative least squares: a dozen terms fit the sums at all correlations and
all variances up to a largest one. No weight is negative: they make a covariance.

A jump of the function or of its slope at zero makes $r_l$ decay like a power of $l$.
The step and the rectifier have such jumps, and their kernels are known: only what the
function has beyond them is fitted.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


LARGEST_EXPONENT = 2048  # of those to choose from
_ALL = 4096  # exponents, for the sums to be fitted
_FARTHEST = 10.0  # quadrature leaves out what is so many standard deviations away
_NODES = (48, 64, 96, 128, 192, 256)  # to choose from, on either side of zero
BEST_NODES = 400
_DECAYS = (0.0, *np.geomspace(1e-3, 5, 12))  # correlations to fit at, `exp(-decay)`
# Half of the exponents to choose from, of either parity.
_PLACES = np.unique(
    [*range(48), *np.geomspace(48, LARGEST_EXPONENT // 2 - 1, 120).astype(int)]
)
_DENSE = 128  # terms where none can be chosen


class Series(NamedTuple):
    """Exponents of the correlation, and the weights of their terms."""

    exponents: tuple[int, ...]
    weights: tuple[float, ...]


class Expansion(NamedTuple):
    """What of the Hermite expansion one function needs: all static.

    `nodes` of the quadrature on either side of zero, the terms for the function and for
    its slope, whether the function (`jumps`) and its slope (`kinks`) may jump at zero,
    and the largest relative error that is `allowed` at variances it was not made for.
    """

    nodes: int
    value: Series
    slope: Series
    jumps: bool
    kinks: bool
    allowed: float


def slope(fn: Callable) -> Callable:
    """The derivative of an elementwise function."""
    return lambda x: jax.jvp(fn, (x,), (jnp.ones_like(x),))[1]


def jumps(fn: Callable, dtype: np.dtype) -> list[Float[Array, ""]]:
    """Of a function and of its slope, at zero."""
    near = jnp.asarray([1e-30, -1e-30], dtype)
    differences = [jnp.subtract(*function(near)) for function in (fn, slope(fn))]
    return [jnp.where(jnp.isfinite(jump), jump, 0) for jump in differences]


@functools.cache
def quadrature(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes `z > 0`, and their weights under the normal density.

    Separate rules for both sides of zero are exact for functions that jump there, and
    their nodes cluster where functions of inputs with large variances vary.
    """
    x, weights = np.polynomial.legendre.leggauss(nodes)
    z = 0.5 * _FARTHEST * (x + 1)
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return z, 0.5 * _FARTHEST * weights * density


@functools.cache
def projections(nodes: int, largest: int = LARGEST_EXPONENT) -> np.ndarray:
    """`h_l` at the nodes, for every exponent, times their weights."""
    z, weights = quadrature(nodes)
    polynomials = np.zeros((largest + 1, nodes))
    polynomials[0], polynomials[1] = weights, weights * z
    for l in range(1, largest):
        raised = z * polynomials[l] - np.sqrt(l) * polynomials[l - 1]
        polynomials[l + 1] = raised / np.sqrt(l + 1)
    return polynomials


def dense_expansion() -> Expansion:
    """The first terms as they are, for functions that are not known in advance."""
    series = Series(tuple(range(_DENSE)), (1.0,) * _DENSE)
    return Expansion(_NODES[-1], series, series, True, True, allowed=0.1)


def expand(
    fn: Callable, tolerance: float, largest_variance: float
) -> tuple[Expansion, float]:
    """An expansion of an elementwise function, and its largest relative error.

    It is found by evaluating the function. Raises what NumPy raises if that depends on
    values that are being traced.
    """
    with jax.ensure_compile_time_eval():
        jump, kink = (float(j) for j in np.asarray(jumps(fn, jnp.zeros(()).dtype)))
        value = _Fit(fn, jump, kink, tolerance, largest_variance)
        sloped = _Fit(slope(fn), kink, 0.0, tolerance, largest_variance)
        accurate = (n for n in _NODES if value.holds(n) and sloped.holds(n))
        nodes = next(accurate, BEST_NODES)
    negligible = 1e-6 * max(value.size, sloped.size)
    expansion = Expansion(
        nodes,
        value.series,
        sloped.series,
        jumps=bool(abs(jump) > negligible),
        kinks=bool(abs(kink) > negligible),
        allowed=max(10 * tolerance, 0.01),
    )
    return expansion, max(value.error, sloped.error)


class _Sums:
    """The sums of one function at some variances, relative to its norms there.

    Of the even and of the odd terms, less those of a step and a rectifier.
    """

    def __init__(self, fn: Callable, jump: float, kink: float, std: np.ndarray):
        self.squares = jump**2, kink**2 * np.outer(std, std)
        self.halves = _halves(fn, std, BEST_NODES)
        self.norm = _norm(self.halves)
        matrix, (z, _) = projections(BEST_NODES, _ALL), quadrature(BEST_NODES)
        self.r = [half @ matrix[p::2].T for p, half in enumerate(self.halves)]
        self.known = [
            (matrix[p::2].sum(1) ** 2, (matrix[p::2] @ z) ** 2) for p in (0, 1)
        ]

    def whole(self, parity: int) -> np.ndarray:
        """All terms, for each correlation and pair of variances."""
        half, (_, weights) = self.halves[parity], quadrature(BEST_NODES)
        # At correlation 1 a quarter of the step and of the rectifier are of either
        # parity.
        at_one = 0.5 * (half * weights) @ half.T - 0.25 * sum(self.squares)
        one = np.ones(_ALL // 2 + 1 - parity)
        parts = [self._part(parity, slice(None), one, decay) for decay in _DECAYS[1:]]
        return np.stack([at_one, *parts]) / np.outer(self.norm, self.norm)

    def part(self, parity: int, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Some terms, with weights."""
        parts = [self._part(parity, places, weights, decay) for decay in _DECAYS]
        return np.stack(parts) / np.outer(self.norm, self.norm)

    def _part(
        self, parity: int, places: np.ndarray | slice, weights: np.ndarray, decay: float
    ) -> np.ndarray:
        exponents = np.arange(parity, _ALL + 1, 2)[places]
        weights = weights * np.exp(-decay * exponents)
        r, known = self.r[parity][:, places], self.known[parity]
        of_step, of_rectifier = (np.sum(weights * terms[places]) for terms in known)
        step, rectifier = self.squares
        return (r * weights) @ r.T - step * of_step - rectifier * of_rectifier

    def terms(self, parity: int, places: np.ndarray) -> np.ndarray:
        """Each term, in a column; correlations and pairs of variances are the rows."""
        i, j = np.triu_indices(self.norm.size)
        r, known = self.r[parity][:, places], self.known[parity]
        step, rectifier = self.squares[0], self.squares[1][i, j][:, None]
        terms = r[i] * r[j] - step * known[0][places] - rectifier * known[1][places]
        terms = terms / (self.norm[i] * self.norm[j])[:, None]
        exponents = np.arange(parity, _ALL + 1, 2)[places]
        return np.concatenate([terms * np.exp(-d * exponents) for d in _DECAYS])


class _Fit:
    """The terms for one function."""

    def __init__(
        self,
        fn: Callable,
        jump: float,
        kink: float,
        tolerance: float,
        largest_variance: float,
    ):
        self.fn, self.tolerance = fn, tolerance
        self.variances = 1e-3, largest_variance
        self.sums = functools.cache(
            lambda count: _Sums(fn, jump, kink, self._std(count))
        )
        self.size = self.sums(3).norm.max()
        self.series, self.error = Series((), ()), 0.0
        if self.size == 0:
            return
        for largest in (128, 512, LARGEST_EXPONENT):
            for count in (8, 15, 29, 57):
                self.series = self._fitted(largest, count)
                # Between the variances that were fitted, too.
                self.error = self._error(self.sums(2 * count - 1))
                if self.error <= 0.5 * tolerance:
                    return
                if self._error(self.sums(count)) > 0.5 * tolerance:
                    break  # It takes larger exponents.

    def _std(self, count: int) -> np.ndarray:
        return np.sqrt(np.geomspace(*self.variances, count))

    def _fitted(self, largest: int, count: int) -> Series:
        sums, places = self.sums(count), _PLACES[_PLACES < largest // 2]
        upper = np.triu_indices(count)
        exponents, weights = [], []
        for parity in (0, 1):
            terms = sums.terms(parity, places)
            whole = sums.whole(parity)[:, *upper].ravel()
            chosen, found = _sparse_weights(terms, whole, 0.125 * self.tolerance)
            exponents += [parity + 2 * int(places[i]) for i in chosen]
            weights += map(float, found)
        return Series(tuple(exponents), tuple(weights))

    def _error(self, sums: _Sums) -> float:
        error = 0.0
        for parity in (0, 1):
            exponents, weights = (np.array(part) for part in self.series)
            chosen = exponents % 2 == parity
            part = sums.part(parity, exponents[chosen] // 2, weights[chosen])
            error += float(np.abs(part - sums.whole(parity)).max())
        return error

    def holds(self, nodes: int) -> bool:
        """Whether so many nodes give the same terms, by Cauchy-Schwarz."""
        if not self.series.exponents:
            return True
        std, coefficients = self._std(9), []
        for n in (nodes, BEST_NODES):
            halves, matrix = _halves(self.fn, std, n), projections(n)
            r = np.array([halves[l % 2] @ matrix[l] for l in self.series.exponents])
            coefficients.append(r * np.sqrt(self.series.weights)[:, None])
        change = np.linalg.norm(np.subtract(*coefficients), axis=0)
        return bool(np.max(change / _norm(halves)) <= 0.1 * self.tolerance)


def _halves(fn: Callable, std: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Twice the even and the odd part of a function, at the nodes."""
    x = jnp.asarray(np.outer(std, quadrature(nodes)[0]), float)
    above, below = (np.asarray(fn(y), float) for y in (x, -x))
    return above + below, above - below


def _norm(halves: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The root of the mean square, from the halves at the best nodes."""
    _, weights = quadrature(BEST_NODES)
    return np.sqrt(0.5 * (halves[0] ** 2 + halves[1] ** 2) @ weights)


def _sparse_weights(
    terms: np.ndarray, sums: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Few columns, and nonnegative weights with which they add up to the sums.

    Lawson & Hanson 1974, chapter 23, stopped as soon as no sum is off by more than the
    tolerance.
    """
    norms = np.linalg.norm(terms, axis=0)
    norms = np.where(np.abs(terms).max(0) > 1e-5 * tolerance, norms, np.inf)
    columns = terms / norms
    reduced = np.asarray(np.linalg.qr(np.column_stack([columns, sums]), mode="r"))
    few_columns, few_sums = reduced[:, :-1], reduced[:, -1]
    weights, chosen, refused = np.zeros(norms.size), [], set()
    for _ in range(300):
        gain = few_columns.T @ (few_sums - few_columns @ weights)
        gain[[*chosen, *refused]] = 0
        best = int(gain.argmax())
        if np.abs(sums - columns @ weights).max() <= tolerance or gain[best] <= 0:
            break
        chosen.append(best)
        while chosen:
            fitted = np.linalg.lstsq(few_columns[:, chosen], few_sums, rcond=1e-14)[0]
            before = weights[chosen]
            weights[:] = 0
            if fitted.min() > 0:
                weights[chosen] = fitted
                break
            # Go towards the fit until the first weight vanishes, and drop that term.
            falling = fitted <= 0
            step = np.min(before[falling] / (before[falling] - fitted[falling]))
            weights[chosen] = before + step * (fitted - before)
            chosen = [c for c in chosen if weights[c] > 1e-13 * weights.max()]
        refused = set() if best in chosen else refused | {best}
    found = np.flatnonzero(weights)
    return found, weights[found] / norms[found]
