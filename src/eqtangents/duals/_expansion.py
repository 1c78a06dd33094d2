r"""The terms of a Hermite expansion that are added up, and their weights.

With normalised Hermite polynomials $h_l$, correlation $\rho$ and $s = \sqrt{v}$,

$$E f(u) f(v) = \sum_l r_l(s)\, r_l(s')\, \rho^l, \qquad r_l(s) = E f(s z) h_l(z)$$

(Mehler's formula). Hundreds of terms may matter, but beyond the first few they vary
slowly with $l$, so that a sum over few of them, with weights, stands for the sum over
all, as quadrature does for an integral. For one function, `_expansion_fit` finds
exponents and weights by nonnegative least squares: a dozen terms fit the sums at all
correlations and all variances up to a largest one. No weight is negative: they make a
covariance.

A jump of the function or of its slope at zero makes $r_l$ decay like a power of $l$.
The step and the rectifier have such jumps, and their kernels are known: multiples of
them are subtracted, and the remainder is fitted.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import roots_legendre

from eqtangents.duals._sampled import slope


LARGEST_EXPONENT = 2048  # among the exponents that terms are chosen from
NODE_COUNTS = (48, 64, 96, 128, 192, 256)  # on either side of zero, to choose from
BEST_NODES = 400  # on either side of zero, by which the others are judged
_QUADRATURE_REACH = 10.0  # standard deviations
_DENSE_TERMS = 128  # for a function that is not known when terms would be chosen


class SparseSeries(NamedTuple):
    """Exponents of the correlation, and the weights of their terms."""

    exponents: tuple[int, ...]
    weights: tuple[float, ...]


class Expansion(NamedTuple):
    """The recipe by which the Hermite expansion of one function is computed.

    It has the number of `nodes` of the quadrature on either side of zero, the terms for
    the function and for its slope, whether the function (`jumps`) and its slope
    (`kinks`) may jump at zero, whether the slope is the derivative of the function
    elsewhere (`derived`) and not one that the function defines for itself, and the
    relative error that is `allowed`: where the estimated error exceeds it, the
    expectation is not a number. `near_zero` has the coefficients of the Taylor
    polynomial at zero, if the function is known.
    """

    nodes: int
    value: SparseSeries
    slope: SparseSeries
    jumps: bool
    kinks: bool
    derived: bool
    allowed: float
    near_zero: tuple[float, ...] | None


def jumps_at_zero(fn: Callable, dtype: np.dtype) -> list[Float[Array, ""]]:
    """The jump of a function at zero, and the jump of its derivative."""
    near = jnp.asarray([1e-30, -1e-30], dtype)
    differences = [jnp.subtract(*function(near)) for function in (fn, slope(fn))]
    return [jnp.where(jnp.isfinite(jump), jump, 0) for jump in differences]


@functools.cache
def quadrature(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes `z > 0`, and their weights under the normal density.

    Separate rules for both sides of zero are exact for functions that jump there, and
    their nodes cluster where functions of inputs with large variances vary.
    """
    x, weights = roots_legendre(nodes)
    z = 0.5 * _QUADRATURE_REACH * (x + 1)
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return z, 0.5 * _QUADRATURE_REACH * weights * density


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
    """The first terms with weights of one, for functions not known in advance."""
    series = SparseSeries(tuple(range(_DENSE_TERMS)), (1.0,) * _DENSE_TERMS)
    return Expansion(
        NODE_COUNTS[-1],
        series,
        series,
        jumps=True,
        kinks=True,
        derived=True,
        allowed=0.1,
        near_zero=None,
    )
