r"""Which terms of a Hermite expansion to add up, and with which weights.

With normalised Hermite polynomials $h_l$, correlation $\rho$ and $s = \sqrt{v}$,

$$E f(u) f(v) = \sum_l r_l(s)\, r_l(s')\, \rho^l, \qquad r_l(s) = E f(s z) h_l(z)$$

(Mehler's formula). Hundreds of terms may matter, but beyond the first few they vary
slowly with $l$, so that a sum over few of them, with weights, stands for the sum over
all, as quadrature does for an integral. For one function, `_expansion_fit` finds
exponents and weights by nonnegative least squares: a dozen terms fit the sums at all
correlations and all variances up to a largest one. No weight is negative: they make a
covariance.

A jump of the function or of its slope at zero makes $r_l$ decay like a power of $l$.
The step and the rectifier have such jumps, and their kernels are known: only what the
function has beyond them is fitted.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import roots_legendre

from eqtangents.duals._sampled import slope as slope


LARGEST_EXPONENT = 2048  # of those to choose from
NODES = (48, 64, 96, 128, 192, 256)  # to choose from, on either side of zero
BEST_NODES = 400
_FARTHEST = 10.0  # quadrature leaves out what is so many standard deviations away
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
    x, weights = roots_legendre(nodes)
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
    return Expansion(NODES[-1], series, series, True, True, allowed=0.1)
