"""Traces, diagonals and ranks of operators, from their products with vectors."""

from collections.abc import Callable
from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from eqtangents._arguments import check_key, checked_integer, described
from eqtangents._kernel_habits import FINITE_HABITS
from eqtangents._signatures import names_checked
from eqtangents._trees import Tree


Averaged = TypeVar("Averaged", covariant=True)


class Estimate(eqx.Module, Generic[Averaged]):
    """A mean over random samples, and its standard error, of the same form."""

    mean: Averaged
    standard_error: Averaged


@names_checked(FINITE_HABITS)
def estimate_trace(
    operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n_samples: int
) -> Estimate[Float[Array, ""]]:
    r"""The trace of a square operator, from products with random signs.

    $$\operatorname{tr} A = \mathbb{E}\, z^\top A z$$

    **Arguments:**

    - `operator`: any real one, an `eqtangents.NTKOperator` say.
    - `key`: draws the signs.
    - `n_samples`: how many products to take, at least 2.

    **Raises:** `ValueError` if there are fewer, or the operator is not square;
    `TypeError` if an argument is of another kind.

    **Source:** Hutchinson 1990.
    """

    def one(z: PyTree[Array], product: PyTree[Array]) -> Array:
        return _dot(z, product)

    return _estimate(one, operator, key, n_samples)


@names_checked(FINITE_HABITS)
def estimate_diagonal(
    operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n_samples: int
) -> Estimate[Tree[Array]]:
    r"""The diagonal of a square operator, from products with random signs.

    $$\operatorname{diag} A = \mathbb{E}\, z \odot A z$$

    Arguments and errors are as in `eqtangents.estimate_trace`.

    **Source:** Bekas et al. 2007.
    """

    def one(z: PyTree[Array], product: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(jnp.multiply, z, product)

    return _estimate(one, operator, key, n_samples)


@names_checked(FINITE_HABITS)
def estimate_effective_rank(
    operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n_samples: int
) -> Estimate[Float[Array, ""]]:
    r"""How many eigenvalues of a symmetric operator matter.

    $$(\operatorname{tr} A)^2 / \operatorname{tr} A^2$$

    from the same products for both traces; the error is propagated to first order.
    Arguments and errors are as in `eqtangents.estimate_trace`.
    """

    def one(z: PyTree[Array], product: PyTree[Array]) -> tuple[Array, Array]:
        return _dot(z, product), _dot(product, product)

    traces, squares = _sampled_products(one, operator, key, n_samples)
    trace, square = jnp.mean(traces), jnp.mean(squares)
    rank = trace**2 / square
    # The derivative of the ratio in both means, along each sample.
    spread = rank * (2 * (traces - trace) / trace - (squares - square) / square)
    return Estimate(rank, jnp.std(spread, ddof=1) / n_samples**0.5)


def _dot(a: PyTree[Array], b: PyTree[Array]) -> Array:
    return jnp.dot(ravel_pytree(a)[0], ravel_pytree(b)[0])


def _estimate(
    function: Callable, operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n: int
) -> Estimate[PyTree[Array]]:
    samples = _sampled_products(function, operator, key, n)
    return Estimate(
        jax.tree.map(lambda s: jnp.mean(s, axis=0), samples),
        jax.tree.map(lambda s: jnp.std(s, axis=0, ddof=1) / n**0.5, samples),
    )


def _sampled_products(
    function: Callable, operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n: int
) -> PyTree[Array]:
    """`function(z, operator z)` for vectors of random signs, checked."""
    if not isinstance(operator, lx.AbstractLinearOperator):
        raise TypeError(
            f"`operator` is {described(operator)}, but must be a linear operator of "
            "`lineax`: `eqtangents.NTKOperator(model, x)` for a network, "
            "`lx.MatrixLinearOperator(matrix)` for a matrix."
        )
    if operator.in_structure() != operator.out_structure():
        raise ValueError(
            f"`operator` maps {operator.in_size()} numbers to {operator.out_size()}, "
            "but must map what it takes to what has the same form: give an "
            "`NTKOperator` one batch."
        )
    check_key("`key`", key)
    n = checked_integer("n_samples", n, 2, "A standard error needs at least 2 samples.")
    return _mapped_over_signs(function, operator, key, n)


@eqx.filter_jit
def _mapped_over_signs(
    function: Callable, operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n: int
) -> PyTree[Array]:
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    flat, unravel = ravel_pytree(zeros)

    def one(key: PRNGKeyArray) -> PyTree[Array]:
        z = unravel(jr.rademacher(key, flat.shape, flat.dtype))
        return function(z, operator.mv(z))

    return jax.lax.map(one, jr.split(key, n))
