"""Duals by expansions that are as accurate as the precision of the inputs asks for."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents._closures import with_closures_told
from eqtangents.duals._dual import AbstractDual
from eqtangents.duals._expanded import ExpandedDual
from eqtangents.duals._expansion import Expansion, dense_expansion
from eqtangents.duals._expansion_fit import Accuracy, expand
from eqtangents.duals._hermite_sums import HermiteCoefficients
from eqtangents.duals._pair import Moments, Pair
from eqtangents.duals._pieces import GRID, find_pieces
from eqtangents.duals._piecewise import PiecewisePolynomialDual
from eqtangents.duals._polynomial import PolynomialDual
from eqtangents.duals._rectified import LinearDual, ReluDual
from eqtangents.duals._sampled import SampledFunction


LARGEST_VARIANCE = 30.0


def default_tolerance(dtype: np.dtype) -> float:
    """The relative error of an expansion that most functions reach in a type."""
    return 1e-6 if dtype == jnp.float64 else 1e-5


def _remembered(function: Callable) -> Callable:
    """Remember the results of a function of functions, as far as they have a hash."""
    cached = functools.lru_cache(64)(function)

    @functools.wraps(function)
    def remembering(fn: Callable, *arguments: float) -> object:
        try:
            hash(fn)
        except TypeError:
            return function(fn, *arguments)
        return cached(fn, *arguments)

    return remembering


def _depends_on_arrays(fn: Callable) -> bool:
    """Whether a function has arrays, which training or `jit` may change."""
    return any(map(eqx.is_array, jax.tree.leaves(with_closures_told(fn))))


_sampler_of = _remembered(SampledFunction)


@_remembered
def _expansion_of(
    fn: Callable, tolerance: float, largest_variance: float
) -> tuple[Expansion, Accuracy]:
    return expand(_sampler_of(fn), tolerance, largest_variance)


@_remembered
def _closed_form(fn: Callable) -> AbstractDual | None:
    pieces = find_pieces(lambda x: _sampler_of(fn)(x)[0], *_sampler_of(fn)(GRID))
    if pieces is None:
        return None
    coefficients, breaks = pieces
    bend = (0.0, *coefficients[1:2])
    line = coefficients[:1] == (0.0,) and len(coefficients) <= 2
    if line and not breaks:
        return LinearDual(bend[-1])
    if line and len(breaks) == 1 and breaks[0].at == 0:
        jump, *slopes = breaks[0].weights
        if jump == 0 and len(slopes) == 1:
            return ReluDual(bend[-1], bend[-1] + slopes[0])
    return PiecewisePolynomialDual(pieces) if breaks else PolynomialDual(coefficients)


def _if_fixed(of: Callable, fn: Callable) -> Any:
    """What is found by evaluating a function; `None` if its values may change."""
    if _depends_on_arrays(fn):
        return None
    try:
        return of(fn)
    except jax.errors.TracerArrayConversionError:
        return None


def values_on_grid(fn: Callable) -> Float[np.ndarray, " points"] | None:
    """The values of an elementwise function; `None` if they may change."""
    return _if_fixed(lambda fn: _sampler_of(fn)(GRID)[0], fn)


def closed_form(fn: Callable) -> AbstractDual | None:
    """The dual of an elementwise function that is a polynomial, or made of a few."""
    return _if_fixed(_closed_form, fn)


class TimesSlope(eqx.Module):
    """The function $u f'(u)$: how `f(g u)` changes with a gain `g` of one."""

    fn: Callable

    def __call__(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The derivative of `f` along its argument."""
        return jax.jvp(self.fn, (x,), (x,))[1]


def dual_of(fn: Callable) -> AbstractDual:
    """The dual of an elementwise function: a closed form, or an expansion."""
    return closed_form(fn) or FittedDual(fn)


class FittedDual(AbstractDual):
    r"""Dual of any elementwise function, as accurate as the type of inputs needs it.

    $$E f f = \sum_l r_l(s)\, r_l(s')\, \rho^l, \qquad r_l(s) = E f(s z)\, h_l(z)$$

    with the correlation $\rho$, standard normal $z$ and normalised Hermite polynomials
    $h_l$, and $E f' f'$ is the same of the slope (Mehler's formula; Daniely et al.
    2016, arXiv:1602.05897, section 4.1). The coefficients come from a quadrature in one
    dimension.

    `tolerance` is the largest relative error at variances up to `largest_variance`, by
    default 1e-6 in double precision and 1e-5 in others. A function of arrays that
    change, in training or within `jit`, gets the first terms of its expansion with
    weights of one: fitted weights would hold for the present values alone.
    """

    fn: Callable
    tolerance: float | None = eqx.field(static=True, default=None)
    largest_variance: float = eqx.field(static=True, default=LARGEST_VARIANCE)

    def fit(self, dtype: np.dtype) -> tuple[Expansion, Accuracy]:
        """The expansion for inputs of a type, and how accurate it is."""
        if not _depends_on_arrays(self.fn):
            tolerance = self.tolerance
            if tolerance is None:
                tolerance = default_tolerance(dtype)
            try:
                return _expansion_of(self.fn, tolerance, self.largest_variance)
            except jax.errors.TracerArrayConversionError:
                pass
        return dense_expansion(), Accuracy(0.0, math.inf)

    def _at(self, dtype: np.dtype) -> ExpandedDual:
        return ExpandedDual(self.fn, self.fit(dtype)[0])

    def prepare(self, variance: Float[Array, "n *size"]) -> HermiteCoefficients:
        return self._at(variance.dtype).prepare(variance)

    def moments(
        self, pair: Pair, left: HermiteCoefficients, right: HermiteCoefficients
    ) -> Moments:
        return self._at(pair.cov.dtype).moments(pair, left, right)

    def diagonal(self, variance: Float[Array, "n *size"]) -> Float[Array, "n *size"]:
        return self._at(variance.dtype).diagonal(variance)

    def errors(
        self, variance: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Relative errors of both expectations at equal inputs."""
        return eqx.filter_jit(ExpandedDual.errors)(self._at(variance.dtype), variance)
