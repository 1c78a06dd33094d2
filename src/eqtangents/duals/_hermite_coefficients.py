"""The coefficients of a Hermite expansion, by quadrature in one dimension."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents._products import einsum
from eqtangents.duals._expansion import SparseSeries, projections, quadrature


class NodeValues(NamedTuple):
    """A function at the nodes of the quadrature, on either side of zero."""

    above: Float[Array, "n *size nodes"]
    below: Float[Array, "n *size nodes"]
    at_zero: Float[Array, ""]

    @classmethod
    def of(cls, fn: Callable, std: Float[Array, "n *size"], nodes: int) -> "NodeValues":
        """The values `fn(s z)` and `fn(-s z)` at the nodes `z`."""
        z, _ = quadrature(nodes)
        x = jnp.multiply.outer(std, jnp.asarray(z, std.dtype))
        at_zero = fn(jnp.zeros((), std.dtype))
        finite = jnp.isfinite(at_zero)
        return cls(fn(x), fn(-x), jnp.where(finite, at_zero, jnp.zeros_like(at_zero)))

    @property
    def squares(self) -> Float[Array, "n *size nodes"]:
        """The sum of the squares on both sides."""
        return self.above * self.above + self.below * self.below

    def projected(
        self, halves: Sequence[Sequence[tuple[int, float]]]
    ) -> Float[Array, "terms n *size"]:
        r"""$\sqrt{w}\, \mathbb{E} f(s z) h_l(z)$ for lists of terms of one parity each.

        The value at zero is subtracted first, and added to the mean: for inputs with a
        small variance hardly anything else is left that rounding could affect.
        """
        matrix = projections(self.above.shape[-1])
        centred = self.above - self.at_zero, self.below - self.at_zero
        parts = []
        for terms in halves:
            odd = bool(terms) and terms[0][0] % 2
            half = centred[0] - centred[1] if odd else centred[0] + centred[1]
            rows = [matrix[l] * np.sqrt(weight) for l, weight in terms]
            rows = np.reshape(rows, (-1, matrix.shape[1]))
            mean = np.reshape([(l == 0) * np.sqrt(weight) for l, weight in terms], -1)
            rows, mean = (jnp.asarray(c, half.dtype) for c in (rows, mean))
            part = einsum("n...q,tq->tn...", half, rows)
            mean = mean.reshape(-1, *(1,) * (part.ndim - 1))
            parts.append(part + self.at_zero * mean)
        return jnp.concatenate(parts)


def coefficients_by_slope(
    series: SparseSeries,
    values: NodeValues,
    slopes: NodeValues,
    std: Float[Array, "n *size"],
) -> Float[Array, "terms n *size"]:
    r"""The coefficients of a function without jumps, from values of its slope.

    $r_l(s) = \frac{s}{\sqrt l}\, \mathbb{E} f'(s z) h_{l-1}(z)$ for $l > 0$ (Stein's
    lemma). Near zero, slopes of a function that is linear there have more digits than
    its values, whose rounding depends on the machine: thousands of layers add it up.
    """
    constant = [[term for term in by_parity(series)[0] if term[0] == 0]]
    lowered = [
        [(l - 1, weight / l) for l, weight in terms if l] for terms in by_parity(series)
    ]
    return jnp.concatenate(
        [values.projected(constant), std[None] * slopes.projected(lowered)]
    )


def by_parity(series: SparseSeries) -> list[list[tuple[int, float]]]:
    """The exponents and weights of the even terms, and of the odd ones."""
    terms = list(zip(*series, strict=True))
    return [[term for term in terms if term[0] % 2 == parity] for parity in (0, 1)]


def exponents_of(series: SparseSeries) -> tuple[int, ...]:
    """The exponents in the order of the coefficients."""
    return tuple(l for terms in by_parity(series) for l, _ in terms)


def mean_of_squares(
    squares: Float[Array, "n *size nodes"], nodes: int
) -> Float[Array, "n *size"]:
    """`E f(s z)**2`, from the squares at `z` and `-z` added up, for all nodes `z`."""
    weights = jnp.asarray(quadrature(nodes)[1], squares.dtype)
    return einsum("...q,q->...", squares, weights)


def mean_square(
    fn: Callable, std: Float[Array, "n *size"], nodes: int
) -> Float[Array, "n *size"]:
    """`E f(s z)**2` by quadrature."""
    x = jnp.multiply.outer(std, jnp.asarray(quadrature(nodes)[0], std.dtype))
    return mean_of_squares(fn(x) ** 2 + fn(-x) ** 2, nodes)
