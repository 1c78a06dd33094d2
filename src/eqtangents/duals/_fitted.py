"""Duals by expansions that are as accurate as the precision of the inputs asks for."""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents.duals._dual import AbstractDual
from eqtangents.duals._expansion import Expansion, dense_expansion
from eqtangents.duals._expansion_fit import Accuracy, expand
from eqtangents.duals._hermite import ExpandedDual, HermiteEnds
from eqtangents.duals._pair import Moments, Pair
from eqtangents.duals._pieces import GRID, piecewise_polynomial
from eqtangents.duals._piecewise import PiecewisePolynomialDual
from eqtangents.duals._polynomial import PolynomialDual
from eqtangents.duals._rectified import ReluDual
from eqtangents.duals._sampled import Sampled


LARGEST_VARIANCE = 30.0


def default_tolerance(dtype: np.dtype) -> float:
    """As far as a type allows, in general."""
    return 1e-6 if dtype == jnp.float64 else 1e-5


def _remembered(function: Callable) -> Callable:
    """A function of one that is known by its identity, if that can be hashed."""
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
    """Whether it may change: in training, or within `jit`."""
    return any(map(eqx.is_array, jax.tree.leaves(fn)))


_sampled = _remembered(Sampled)


@_remembered
def _expanded(
    fn: Callable, tolerance: float, largest_variance: float
) -> tuple[Expansion, Accuracy]:
    return expand(_sampled(fn), tolerance, largest_variance)


@_remembered
def _closed_form(fn: Callable) -> AbstractDual | None:
    found = piecewise_polynomial(lambda x: _sampled(fn)(x)[0], *_sampled(fn)(GRID))
    if found is None:
        return None
    coefficients, breaks = found
    bend = (0.0, *coefficients[1:2])
    line = coefficients[:1] == (0.0,) and len(coefficients) <= 2
    if line and not breaks:
        return ReluDual(bend[-1], bend[-1])
    if line and len(breaks) == 1 and breaks[0].at == 0:
        jump, *slopes = breaks[0].weights
        if jump == 0 and len(slopes) == 1:
            return ReluDual(bend[-1], bend[-1] + slopes[0])
    return PiecewisePolynomialDual(found) if breaks else PolynomialDual(coefficients)


def closed_form(fn: Callable) -> AbstractDual | None:
    """The dual of an elementwise function that is a polynomial, or made of a few."""
    if _depends_on_arrays(fn):
        return None
    try:
        return _closed_form(fn)
    except jax.errors.TracerArrayConversionError:
        return None


class FittedDual(AbstractDual):
    """The dual of any elementwise function, as accurate as the precision needs it.

    A function of arrays that change, in training or within `jit`, gets the first terms
    of its expansion as they are: weights would hold for the present values alone.
    """

    fn: Callable
    tolerance: float | None = eqx.field(static=True, default=None)
    largest_variance: float = eqx.field(static=True, default=LARGEST_VARIANCE)

    def fit(self, dtype: np.dtype) -> tuple[Expansion, Accuracy]:
        """The expansion for inputs of a type, and how accurate that is."""
        if not _depends_on_arrays(self.fn):
            tolerance = self.tolerance
            if tolerance is None:
                tolerance = default_tolerance(dtype)
            try:
                return _expanded(self.fn, tolerance, self.largest_variance)
            except jax.errors.TracerArrayConversionError:
                pass
        return dense_expansion(), Accuracy(0.0, math.inf)

    def _at(self, dtype: np.dtype) -> ExpandedDual:
        return ExpandedDual(self.fn, self.fit(dtype)[0])

    def prepare(self, variance: Float[Array, "n *size"]) -> HermiteEnds:
        """Those of the expansion."""
        return self._at(variance.dtype).prepare(variance)

    def moments(self, pair: Pair, left: HermiteEnds, right: HermiteEnds) -> Moments:
        """The sums of the expansion."""
        return self._at(pair.cov.dtype).moments(pair, left, right)

    def diagonal(self, variance: Float[Array, "n *size"]) -> Float[Array, "n *size"]:
        """That of the expansion."""
        return self._at(variance.dtype).diagonal(variance)

    def errors(
        self, variance: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Relative errors of both expectations at equal inputs."""
        return eqx.filter_jit(ExpandedDual.errors)(self._at(variance.dtype), variance)
