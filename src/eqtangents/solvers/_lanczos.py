"""Functions of an operator, by products with it alone.

Packages that have Lanczos' method take a fixed number of products; this one stops when
what is asked of it changes no more, as the number that is needed is not known before.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents._products import einsum
from eqtangents.solvers._backing import ColumnBlock
from eqtangents.solvers._block_cg import Product


# From the eigenvalues and eigenvectors of a small matrix.
Measure: TypeAlias = Callable[
    [Float[Array, " steps"], Float[Array, "steps steps"]], Float[Array, "..."]
]

# What is measured is compared after so many products, and then each time that there are
# so many times more.
FIRST, GROWTH = 8, 1.5


class Measured(NamedTuple):
    """What was measured on the spaces that products span."""

    value: Float[Array, "columns ..."]
    change: Float[Array, " columns"]  # from the check before
    basis: Float[Array, "steps rows columns"]
    sizes: Float[Array, " columns"]  # of the columns
    steps: Int[Array, ""]


class _Spaces(NamedTuple):
    basis: Float[Array, "more rows columns"]
    diagonal: Float[Array, "steps columns"]
    beside: Float[Array, "steps columns"]
    steps: Int[Array, ""]
    check: Int[Array, ""]  # after how many steps the next one is
    value: Float[Array, "columns ..."]
    change: Float[Array, " columns"]


def lanczos(
    product: Product,
    columns: ColumnBlock,
    measure: Measure,
    tolerance: float,
    max_steps: int,
    added_to: Float[Array, ""] | float = 0.0,
) -> Measured:
    r"""Reduce a symmetric operator to tridiagonal matrices, one for each column.

    $$A Q \approx Q T, \qquad Q^\top Q = I, \qquad Q e_1 = b / \lVert b \rVert$$

    **Arguments:**

    - `product`: with the operator.
    - `columns`: from each of which a space is built.
    - `measure`: what is to be known of $T$.
    - `tolerance`: how much that changes at last, relative to its norm.
    - `max_steps`: how many products to take at most.
    - `added_to`: what is added to it in the end, so that it need not be known any
        better than that.

    **Source:** Golub & Van Loan 2013, chapter 10, with full orthogonalisation.
    """
    rows = columns.shape[0]
    most = min(max_steps, rows)
    sizes = jnp.linalg.norm(columns, axis=0)
    first = columns / jnp.where(sizes > 0, sizes, 1)[None]

    def exact(state: _Spaces) -> Bool[Array, " columns"]:
        """Whether a space has all that products lead to."""
        return (state.beside[state.steps - 1] == 0) | (state.steps == rows)

    def measured(state: _Spaces) -> Float[Array, "columns ..."]:
        of_each = jax.vmap(lambda a, b: measure(*_eigen(a, b, state.steps)), (1, 1))
        return of_each(state.diagonal, state.beside)

    def compared(state: _Spaces) -> _Spaces:
        value = measured(state)
        change = jnp.where(exact(state), 0, _norms_of(value - state.value))
        check = jnp.ceil(GROWTH * state.steps.astype(float)).astype(jnp.int32)
        return state._replace(value=value, change=change, check=check)

    def step(state: _Spaces) -> _Spaces:
        state = _with_one_more(product, state)
        due = (state.steps >= state.check) | (state.steps == most)
        return lax.cond(due, compared, lambda s: s, state)

    def unfinished(state: _Spaces) -> Bool[Array, ""]:
        size = _norms_of(state.value) + jnp.abs(added_to)
        enough = jnp.all(state.change <= tolerance * size)
        return ~enough & (state.steps < most)

    start = _first_spaces(first, most)
    like = jax.eval_shape(measured, start)
    start = start._replace(value=jnp.zeros(like.shape, like.dtype))
    end = lax.while_loop(unfinished, step, start)
    return Measured(end.value, end.change, end.basis[:most], sizes, end.steps)


def _first_spaces(first: ColumnBlock, most: int) -> _Spaces:
    """Before all products."""
    rows, count = first.shape
    zeros = jnp.zeros((most, count), first.dtype)
    return _Spaces(
        basis=jnp.zeros((most + 1, rows, count), first.dtype).at[0].set(first),
        diagonal=zeros,
        beside=zeros,
        steps=jnp.zeros((), jnp.int32),
        check=jnp.full((), FIRST, jnp.int32),
        value=jnp.zeros(()),
        change=jnp.full(count, jnp.inf, first.dtype),
    )


def _with_one_more(product: Product, state: _Spaces) -> _Spaces:
    basis, at = state.basis, state.steps
    eps = float(jnp.finfo(basis.dtype).eps)
    current = basis[at]
    image = product(current)
    diagonal = jnp.sum(current * image, axis=0)
    size = jnp.linalg.norm(image, axis=0)
    for _ in range(2):  # once leaves rounding of the size of what was subtracted
        overlaps = einsum("snc,nc->sc", basis, image)
        image = image - einsum("snc,sc->nc", basis, overlaps)
    beside = jnp.linalg.norm(image, axis=0)
    # What is left of an exhausted space is rounding.
    beside = jnp.where(beside > 10 * eps * size, beside, 0)
    image = jnp.where(
        beside[None] > 0, image / jnp.where(beside > 0, beside, 1)[None], 0
    )
    return state._replace(
        basis=basis.at[at + 1].set(image),
        diagonal=state.diagonal.at[at].set(diagonal),
        beside=state.beside.at[at].set(beside),
        steps=at + 1,
    )


def _eigen(
    diagonal: Float[Array, " steps"],
    beside: Float[Array, " steps"],
    steps: Int[Array, ""],
) -> tuple[Float[Array, " steps"], Float[Array, "steps steps"]]:
    """Of the tridiagonal matrix so far, which is filled up apart from it.

    What fills it up is among its eigenvalues, where any function has a value.
    """
    place = jnp.arange(diagonal.shape[0], dtype=steps.dtype)
    # An exhausted space has zeros, too.
    there = (place < steps) & (diagonal > 0)
    diagonal = jnp.where(there, diagonal, diagonal[0])
    beside = jnp.where(there[:-1] & there[1:], beside[:-1], 0)
    return jnp.linalg.eigh(
        jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    )


def _norms_of(value: Float[Array, "columns ..."]) -> Float[Array, " columns"]:
    return jnp.linalg.norm(value.reshape(value.shape[0], -1), axis=1)


class Image(NamedTuple):
    """A function of an operator, applied to columns, and how good it is."""

    value: Float[Array, "times rows columns"]
    change: Float[Array, ""]  # the largest, relative, at the last check


def matrix_function_times(
    product: Product,
    columns: ColumnBlock,
    function: Callable[[Float[Array, " steps"]], Float[Array, "times steps"]],
    tolerance: float,
    max_steps: int,
) -> Image:
    r"""$f(A) v$ for each column $v$, where $f$ has an axis for times before its own."""

    def coefficients(
        values: Float[Array, " steps"], vectors: Float[Array, "steps steps"]
    ) -> Float[Array, "times steps"]:
        return einsum("sk,tk,k->ts", vectors, function(values), vectors[0])

    found = lanczos(product, columns, coefficients, tolerance, max_steps)
    value = einsum("cts,snc,c->tnc", found.value, found.basis, found.sizes)
    norms = _norms_of(found.value)
    change = found.change / jnp.where(norms > 0, norms, 1)
    return Image(value, jnp.max(change, initial=0))
