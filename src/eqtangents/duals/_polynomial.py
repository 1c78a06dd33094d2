r"""Duals of polynomials: finite power series in the covariance.

$\frac{\partial^l}{\partial k^l} E f(u) f(v) = E f^{(l)}(u) f^{(l)}(v)$, which is a
product at $k = 0$. So for every $f$ that is smooth enough,

$$E f(u) f(v) = \sum_l p_l(v)\, p_l(v')\, k^l, \qquad
p_l(v) = \frac{1}{\sqrt{l!}} E f^{(l)}(\sqrt{v} z),$$

and $E f' f'$ is the derivative of this series in $k$. If $f$ is a polynomial, so are
all $p_l$.
"""

import abc
import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.duals._dual import AbstractDual, Stacked, at_equal_inputs
from eqtangents.duals._elementary import constants
from eqtangents.duals._pair import Moments, Pair


def power_series(
    exponents: Sequence[int],
    coefficients: Sequence[Float[Array, "..."] | float],
    x: Float[Array, "*s"],
) -> Float[Array, "*s"]:
    """The sum of coefficients times powers of `x`, by Horner's rule with gaps."""
    powers = {1: x}

    def power(n: int) -> Float[Array, "*s"]:
        if n not in powers:
            powers[n] = power(n // 2) * power(n - n // 2)
        return powers[n]

    total, above = jnp.zeros_like(x), None
    for exponent, coefficient in sorted(
        zip(exponents, coefficients, strict=True), key=lambda term: -term[0]
    ):
        if above is not None and above > exponent:
            total = total * power(above - exponent)
        total, above = total + coefficient, exponent
    return total * power(above) if above else total


def _series_and_derivative(
    exponents: Sequence[int],
    products: Sequence[Float[Array, "..."]],
    cov: Float[Array, "*s"],
) -> Moments:
    """A power series in the covariance, and its derivative."""
    terms = [(l - 1, l * c) for l, c in zip(exponents, products, strict=True) if l > 0]
    lowered, multiplied = zip(*terms, strict=True) if terms else ((), ())
    return Moments(
        power_series(exponents, products, cov),
        power_series(lowered, multiplied, cov),
    )


def gap_of_power_series(
    exponents: Sequence[int],
    coefficients: Sequence[Float[Array, "..."] | float],
    deficit: Float[Array, "*s"],
) -> Float[Array, "*s"]:
    r"""$\sum_l c_l (1 - x^l)$ at $x = 1 - d$ for a deficit $d$, without subtracting.

    Horner's rule builds $\sum_l c_l x^l$ by factors $x^n$. With $u_n = 1 - x^n$, which
    obey $u_{m+n} = u_m + x^m u_n$, each factor takes the loss $L$ of the total $S$ so
    far to $x^n L + u_n S$.
    """
    powers = {1: (1 - deficit, deficit)}

    def power(n: int) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        if n not in powers:
            (x1, u1), (x2, u2) = power(n // 2), power(n - n // 2)
            powers[n] = x1 * x2, u1 + x1 * u2
        return powers[n]

    lost, total, highest = jnp.zeros_like(deficit), 0.0, None
    terms = sorted(zip(exponents, coefficients, strict=True), key=lambda t: -t[0])
    for exponent, coefficient in (*terms, (0, 0.0)):
        if highest is not None and highest > exponent:
            x, u = power(highest - exponent)
            lost = lost * x + total * u
        total, highest = total + coefficient, exponent
    return lost


class AbstractPowerSeriesDual(AbstractDual):
    r"""$E f f = \sum_l p_l(v)\, p_l(v')\, k^l$ over a few $l$, $p_l$ as prepared."""

    @property
    @abc.abstractmethod
    def exponents(self) -> list[int]:
        """The powers of the covariance that occur."""

    def moments(
        self,
        pair: Pair,
        left: Sequence[Float[Array, "..."]],
        right: Sequence[Float[Array, "..."]],
    ) -> Moments:
        products = [a * b for a, b in zip(left, right, strict=True)]
        return _series_and_derivative(self.exponents, products, pair.cov)

    def diagonal(self, variance: Float[Array, "n *size"]) -> Float[Array, "n *size"]:
        return at_equal_inputs(self, variance).value


class PolynomialDual(AbstractPowerSeriesDual):
    r"""Dual of $f(x) = \sum_m c_m x^m$.

    $E f f = \sum_l p_l(v)\, p_l(v')\, k^l$ and
    $E f' f' = \sum_l l\, p_l(v)\, p_l(v')\, k^{l-1}$ with
    $p_l(v) = \sum_i c_{l + 2i} \frac{(l + 2i)!}{2^i\, i!\, \sqrt{l!}} v^i$, from the
    derivatives of $x^m$ and $E z^{2i} = (2i - 1)!!$ (Daniely et al. 2016,
    arXiv:1602.05897, section 4.2).
    """

    coefficients: Sequence[Scalar] | Float[Array, " terms"]

    @property
    def exponents(self) -> list[int]:
        # Coefficients that are the number 0 leave out powers.
        size = len(self.coefficients)
        return [l for l in range(size) if self._powers(l)]

    def _powers(self, l: int) -> list[int]:
        return [
            m
            for m in range(l, len(self.coefficients), 2)
            if not _is_zero(self.coefficients[m])
        ]

    def prepare(self, variance: Float[Array, "n *size"]) -> Stacked:
        terms = []
        for l in self.exponents:
            powers = self._powers(l)
            c = constants(variance, *(self.coefficients[m] for m in powers))
            scaled = [
                _coefficient_of(m, l) * c_m for m, c_m in zip(powers, c, strict=True)
            ]
            terms.append(power_series([(m - l) // 2 for m in powers], scaled, variance))
        none = jnp.zeros((0, *variance.shape), variance.dtype)
        return Stacked(jnp.stack(terms) if terms else none)


class HermiteDual(AbstractPowerSeriesDual):
    r"""Dual of $h_n = \mathrm{He}_n / \sqrt{n!}$, for inputs of any variance.

    $E f f = \sum_l p_l(v)\, p_l(v')\, k^l$ and
    $E f' f' = \sum_l l\, p_l(v)\, p_l(v')\, k^{l-1}$. With $n = l + 2i$,
    $p_l(v) = \sqrt{\frac{n!}{l!}} \frac{(v - 1)^i}{2^i\, i!}$: the derivatives of
    $\mathrm{He}_n$ are multiples of $\mathrm{He}_{n-l}$, and
    $E\, \mathrm{He}_{2i}(\sqrt{v} z) = (2i - 1)!!\, (v - 1)^i$. At variances of 1 all
    terms but the last vanish, and the kernel is $k^n$.
    """

    degree: int = eqx.field(static=True)

    @property
    def exponents(self) -> list[int]:
        return list(range(self.degree % 2, self.degree + 1, 2))

    def prepare(self, variance: Float[Array, "n *size"]) -> Stacked:
        terms = []
        for l in self.exponents:
            i = (self.degree - l) // 2
            scale = math.sqrt(math.factorial(self.degree) / math.factorial(l))
            terms.append(scale / (2**i * math.factorial(i)) * (variance - 1) ** i)
        return Stacked(jnp.stack(terms))


def _is_zero(coefficient: Scalar) -> bool:
    return isinstance(coefficient, int | float) and coefficient == 0


def _coefficient_of(m: int, l: int) -> float:
    """The factor of `v**i` in `p_l` for the function `x**m`, where `m = l + 2 i`."""
    i = (m - l) // 2
    ratio = math.factorial(m) / (2**i * math.factorial(i))
    return ratio / math.sqrt(math.factorial(l))
