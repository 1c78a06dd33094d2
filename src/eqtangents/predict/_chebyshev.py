"""Functions of a symmetric matrix as polynomials, where few products are enough."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents._products import einsum, matmul
from eqtangents.predict._spectrum import SpectralFunction


# So many products take about half as long as eigenvectors: measured for 2,000 rows and
# ten columns. With few columns a product reads the matrix, and costs little else.
_PRODUCTS, _COLUMNS_READ, _MOST = 1.8, 8, 512
_FEWEST = 8
_SAMPLES = 64  # between the nodes, at which a polynomial is tried


class Approximation(eqx.Module):
    r"""A function on an interval that holds all eigenvalues, as it is best applied.

    At some times it is $1 / \lambda$ to rounding, so that a solve is enough. At others
    it is a polynomial, by its coefficients in Chebyshev's.
    """

    inverse: Bool[Array, " times"]
    coefficients: Float[Array, "times degrees"]
    degree: Int[Array, ""]  # of the largest coefficient that is no rounding
    enough: Bool[Array, ""]  # whether one of the two holds at each time
    low: Float[Array, ""]
    high: Float[Array, ""]


def products_allowed(rows: int, columns: int) -> int:
    """The largest number of products that take less time than eigenvectors."""
    products = int(_PRODUCTS * rows / (columns + _COLUMNS_READ))
    return 0 if products < _FEWEST else min(products, _MOST)


@eqx.filter_jit
def approximated(
    function: SpectralFunction,
    low: Float[Array, ""],
    high: Float[Array, ""],
    products: int,
) -> Approximation:
    """The approximation of a function between these eigenvalues, which are positive.

    The polynomial interpolates at Chebyshev nodes. That it is the function to rounding
    is told by its coefficients, which fall below that well before the last of them, and
    by samples on a logarithmic scale, as functions of time have features on all scales.
    """
    dtype, eps = low.dtype, float(jnp.finfo(low.dtype).eps)
    samples = jnp.exp(jnp.linspace(jnp.log(low), jnp.log(high), _SAMPLES, dtype=dtype))
    samples = jnp.clip(samples, low, high)
    expected = function(samples)
    inverse = jnp.all(jnp.abs(samples[None] * expected - 1) <= 8 * eps, axis=1)
    if not products:
        none = jnp.zeros((inverse.shape[0], 1), dtype)
        nothing = jnp.zeros((), int)
        return Approximation(inverse, none, nothing, jnp.all(inverse), low, high)
    k = jnp.arange(products)
    # The square is `(1 + cosine) / 2`, without cancellation at the least eigenvalue.
    halves = jnp.sin((2 * (products - k) - 1).astype(dtype) * (jnp.pi / 4 / products))
    values = function(low + (high - low) * halves**2)
    angles = k[:, None] * (2 * k + 1)[None] % (4 * products)
    cosines = jnp.cos(angles.astype(dtype) * (jnp.pi / (2 * products)))
    coefficients = einsum("tj,kj->tk", values, cosines) * (2 / products)
    coefficients = coefficients.at[:, 0].multiply(0.5)
    coefficients = jnp.where(inverse[:, None], 0, coefficients)
    size = jnp.max(jnp.abs(coefficients), axis=1, keepdims=True)
    degree = jnp.max(jnp.where(jnp.abs(coefficients) > 4 * eps * size, k[None], 0))
    angle = jnp.pi - 2 * jnp.arcsin(jnp.sqrt((samples - low) / (high - low)))
    found = matmul(coefficients, jnp.cos(k[:, None].astype(dtype) * angle[None]))
    error = jnp.max(jnp.abs(found - expected), axis=1)
    largest = jnp.max(jnp.abs(expected), axis=1)
    right = jnp.all(inverse | (error <= 8 * products * eps * largest))
    enough = (
        right
        & (degree <= products - products // 8)
        & jnp.all(jnp.isfinite(coefficients))
    )
    return Approximation(inverse, coefficients, degree, enough, low, high)


def chebyshev_sum(
    approximation: Approximation,
    matrix: Float[Array, "n n"],
    columns: Float[Array, "n columns"],
) -> Float[Array, "times n columns"]:
    r"""$\sum_k c_k T_k(X) v$, where $X$ is the matrix scaled to between -1 and 1."""
    count = approximation.coefficients.shape[1]
    low, high = approximation.low, approximation.high

    def scaled(v: Float[Array, "n columns"]) -> Float[Array, "n columns"]:
        return (2 * matmul(matrix, v) - (low + high) * v) / (high - low)

    def step(
        k: Int[Array, ""], terms: Float[Array, "degrees n columns"]
    ) -> Float[Array, "degrees n columns"]:
        return terms.at[k].set(2 * scaled(terms[k - 1]) - terms[k - 2])

    terms = jnp.zeros((count, *columns.shape), columns.dtype).at[0].set(columns)
    if count > 1:
        terms = terms.at[1].set(scaled(columns))
        terms = lax.fori_loop(2, approximation.degree + 1, step, terms)
    return einsum("tk,knc->tnc", approximation.coefficients, terms)
