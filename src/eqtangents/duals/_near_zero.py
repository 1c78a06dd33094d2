r"""Expansions of inputs that are zero.

An input $u = 0$ has no correlation with others, but its kernel has derivatives in the
covariance and in the variance, and they are those of

$$E f(u) f(v) = \sum_l p_l(V)\, \frac{r_l(s)}{s^l}\, k^l, \qquad
p_l(V) = \frac{1}{\sqrt{l!}} E f^{(l)}(\sqrt{V} z)$$

at $V = 0$. So an input of zero takes part in the expansion as if its deviation were
one, with $p_l$ in the place of $r_l$; and $p_l$ is that of the Taylor polynomial of
$f$, as `PolynomialDual` prepares it.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from eqtangents._types import Scalar
from eqtangents.duals._elementary import safe_sqrt
from eqtangents.duals._expansion import Expansion, SparseSeries, jumps_at_zero
from eqtangents.duals._hermite_coefficients import by_parity
from eqtangents.duals._pair import Deviation
from eqtangents.duals._polynomial import PolynomialDual
from eqtangents.duals._sampled import SampledFunction, slope


_DEGREE = 5  # two derivatives of the slope in the variance need so many
_TRACED_DEGREE = 3  # the program for one more derivative is twice as long
_FARTHEST, _NEAREST = 1.0, 0.01  # how far from zero to interpolate
_NODES_BESIDE_ZERO = 14  # of each interpolation
_SMALL = 1e-10  # last coefficients, relative to the largest


def taylor_coefficients(fn: SampledFunction) -> tuple[float, ...]:
    """The coefficients at zero, means of those of both sides, by interpolation."""
    sides = _on_both_sides(fn, _FARTHEST)
    reach = _FARTHEST
    while not all(map(_is_resolved, sides)) and reach > _NEAREST:
        reach = 0.25 * reach
        sides = _on_both_sides(fn, reach)
    kind = np.polynomial.Polynomial
    both = [side.convert(kind=kind, domain=[-1, 1]).coef for side in sides]
    slopes = 0.5 * np.add(*(coefficients[:_DEGREE] for coefficients in both))
    value = fn(np.zeros(1))[0]
    found = [*value, *(slopes / np.arange(1, _DEGREE + 1))]
    return tuple(float(c) for c in np.nan_to_num(found, posinf=0, neginf=0))


def _on_both_sides(fn: SampledFunction, reach: float) -> list[np.polynomial.Chebyshev]:
    """Interpolations of the slope, on either side of zero."""
    return [
        np.polynomial.Chebyshev.interpolate(
            lambda x: fn(x)[1], _NODES_BESIDE_ZERO - 1, domain=domain
        )
        for domain in ([-reach, 0], [0, reach])
    ]


def _is_resolved(series: np.polynomial.Chebyshev) -> bool:
    size = np.abs(series.coef)
    return bool(size[-2:].max() <= _SMALL * size.max())


class NearZero(NamedTuple):
    """A function near zero: its Taylor coefficients there, if it is smooth.

    It is not if it or its slope jump at zero. Then the kernel has no derivatives. Nor
    does it count as smooth if the slope is none of the function's.
    """

    smooth: Bool[Array, ""] | bool
    coefficients: Sequence[Scalar]

    @classmethod
    def of(cls, fn: Callable, expansion: Expansion, dtype: np.dtype) -> "NearZero":
        """What is known of a function, or what evaluating it tells."""
        if expansion.near_zero is not None:
            bent = expansion.jumps or expansion.kinks
            return cls(expansion.derived and not bent, expansion.near_zero)
        jump, kink = jumps_at_zero(fn, dtype)
        return cls((jump == 0) & (kink == 0), _traced_coefficients(fn, dtype))

    def slope(self) -> "NearZero":
        """The derivative of the function."""
        lowered = [m * c for m, c in enumerate(self.coefficients)][1:]
        return self._replace(coefficients=lowered)

    def at_zero(
        self,
        series: SparseSeries,
        terms: Float[Array, "terms n *size"],
        variance: Float[Array, "n *size"],
    ) -> Float[Array, "terms n *size"]:
        """The coefficients of an expansion, with those of variances that are zero.

        The product of one of these with the other coefficient of a pair has no weight:
        each of the first terms, which alone are there, stands for itself.
        """
        if self.smooth is False:
            return terms
        polynomial = PolynomialDual(self.coefficients)
        found = polynomial.prepare(variance).terms()
        known = dict(zip(polynomial.exponents, found, strict=True))
        near = [
            known[l] / math.sqrt(weight) if l in known else jnp.zeros_like(variance)
            for half in by_parity(series)
            for l, weight in half
        ]
        zero = self.smooth & (safe_sqrt(variance) == 0)
        return jnp.where(zero[None], jnp.stack(near), terms) if near else terms

    def diagonal_at_zero(
        self, diagonal: Float[Array, "n *size"], variance: Float[Array, "n *size"]
    ) -> Float[Array, "n *size"]:
        """`E f(u)**2`, with the derivatives that it has at a variance of zero."""
        if self.smooth is False:
            return diagonal
        zero = self.smooth & (safe_sqrt(variance) == 0)
        near = PolynomialDual(self.coefficients).diagonal(variance)
        return jnp.where(zero, near, diagonal)


def _traced_coefficients(fn: Callable, dtype: np.dtype) -> list[Float[Array, ""]]:
    """The coefficients of a function that is being traced, and fewer of them."""
    near, found = jnp.asarray([1e-30, -1e-30], dtype), []
    for m in range(_TRACED_DEGREE + 1):
        coefficient = jnp.mean(fn(near)) / math.factorial(m)
        found.append(jnp.where(jnp.isfinite(coefficient), coefficient, 0))
        fn = slope(fn)
    return found


def as_if_one(deviation: Deviation) -> Deviation:
    """The same, but where the standard deviation is zero, its reciprocal is one."""
    reciprocal = deviation.reciprocal
    one = jnp.ones_like(reciprocal)
    return deviation._replace(reciprocal=jnp.where(deviation.std == 0, one, reciprocal))
