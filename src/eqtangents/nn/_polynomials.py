"""Nonlinearities that are polynomials."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents._types import CountOrZero, Rule, Scalar, is_real, plain
from eqtangents.duals import HermiteDual, PolynomialDual
from eqtangents.nn._activations import AbstractActivation


def _are_numbers(x: Any) -> bool:
    if isinstance(x, Sequence) and not isinstance(x, str):
        return all(is_real(one) and not np.ndim(one) for one in x)
    return is_real(x) and np.ndim(x) == 1


_COEFFICIENTS = "be a sequence of numbers, from the constant upwards"
Coefficients: TypeAlias = Annotated[
    Sequence[Scalar] | Float[Array, " terms"],
    Rule(
        _COEFFICIENTS,
        lambda x: isinstance(x, Sequence | jax.Array | np.ndarray),
        f"{_COEFFICIENTS}, each of shape `()`",
        _are_numbers,
    ),
]


class Polynomial(AbstractActivation):
    r"""$f(x) = \sum_m c_m x^m$.

    $K' = \sum_l p_l(v)\, p_l(v')\, k^l$ with
    $p_l(v) = \sum_i c_{l + 2i} \frac{(l + 2i)!}{2^i\, i!\, \sqrt{l!}} v^i$.

    **Source:** Mehler's formula; Daniely et al. 2016, arXiv:1602.05897, section 4.2.
    """

    coefficients: tuple[Scalar, ...] | Float[Array, " terms"]

    def __init__(self, coefficients: Coefficients):
        """Set the coefficients, from the constant upwards."""
        is_array = isinstance(coefficients, jax.Array)
        self.coefficients = coefficients if is_array else tuple(coefficients)

    @property
    def dual(self) -> PolynomialDual:
        return PolynomialDual(self.coefficients)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        total = jnp.zeros_like(x)
        for coefficient in self.coefficients[::-1]:
            total = total * x + jnp.asarray(coefficient, x.dtype)
        return total


class Monomial(AbstractActivation):
    r"""$f(x) = x^n$, a `Polynomial` of one term.

    $$K' = \sum_i \frac{(n!)^2\, (v v')^i\, k^{n - 2i}}{4^i\, (i!)^2\, (n - 2i)!},
    \qquad T' = T\, \frac{\partial K'}{\partial k}$$

    **Source:** Mehler's formula; Daniely et al. 2016, arXiv:1602.05897, section 4.2.
    """

    degree: CountOrZero = eqx.field(static=True)

    def __init__(self, degree: CountOrZero):
        """Set the degree, 0 or more."""
        self.degree = plain(degree)

    @property
    def dual(self) -> PolynomialDual:
        return PolynomialDual((0.0,) * self.degree + (1.0,))

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return x**self.degree


class Hermite(AbstractActivation):
    r"""$h_n = \mathrm{He}_n / \sqrt{n!}$, a normalised Hermite polynomial.

    $$K' = \sum_i \frac{n!}{(n - 2i)!} \frac{((v - 1)(v' - 1))^i}{4^i\, (i!)^2}\,
    k^{n - 2i}, \qquad T' = T\, \frac{\partial K'}{\partial k}$$

    At variances of 1 it is $K' = k^n$.

    **Source:** Mehler's formula, and the derivatives of Hermite polynomials.
    """

    degree: CountOrZero = eqx.field(static=True)

    def __init__(self, degree: CountOrZero):
        """Set the degree, 0 or more."""
        self.degree = plain(degree)

    @property
    def dual(self) -> HermiteDual:
        return HermiteDual(self.degree)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        below, value = jnp.zeros_like(x), jnp.ones_like(x)
        for n in range(self.degree):
            raised = x * value - math.sqrt(n) * below
            below, value = value, raised / math.sqrt(n + 1)
        return value
