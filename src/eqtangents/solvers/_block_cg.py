"""Conjugate gradients for several right-hand sides at once."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents.solvers._backing import ColumnBlock
from eqtangents.solvers._low_rank import LowRank


Product: TypeAlias = Callable[[ColumnBlock], ColumnBlock]
# From one check of the true residuals to the next these have to become so much less.
LESS_AT_LEAST_BY = 0.5


class BlockResult(NamedTuple):
    """Where conjugate gradients have got to."""

    solution: ColumnBlock
    residual: Float[
        Array, " columns"
    ]  # norms, relative to those of the right-hand side
    steps: Int[Array, ""]


class _Attempt(NamedTuple):
    solution: ColumnBlock
    residual: ColumnBlock  # the true one
    steps: Int[Array, ""]
    worst: Float[Array, ""]
    stalled: Bool[Array, ""]


class _Search(NamedTuple):
    r"""What a step needs. The residual is the product of two factors.

    The columns of one are orthonormal, and remain so where right-hand sides depend on
    each other or converge before others: that shows in the other factor alone.
    """

    solution: ColumnBlock
    basis: Float[Array, "rows rank"]
    coordinates: Float[Array, "rank columns"]
    directions: Float[Array, "rows rank"]
    steps: Int[Array, ""]


def solved_in_block(
    product: Product,
    preconditioner: LowRank | None,
    targets: ColumnBlock,
    tolerance: float,
    max_steps: int,
) -> BlockResult:
    """Solve for all columns at once, in the space that they span together.

    When the residuals of the recursion are small enough, the true ones are computed; if
    they are not, the search starts again from there, for as long as that gains
    something.

    **Source:** O'Leary 1980; Dubrulle 2001, for the factors of the residual.
    """
    sizes = _norms(targets)
    scale = jnp.where(sizes > 0, sizes, 1)[None]
    targets = targets / scale

    def attempt(state: _Attempt) -> _Attempt:
        found = _search(product, preconditioner, state, tolerance, max_steps)
        residual = targets - product(found.solution)
        worst = jnp.max(_norms(residual), initial=0)
        better = worst <= state.worst
        solution = jnp.where(better, found.solution, state.solution)
        residual = jnp.where(better, residual, state.residual)
        stalled = ~(worst <= LESS_AT_LEAST_BY * state.worst)
        worst = jnp.where(better, worst, state.worst)
        return _Attempt(solution, residual, found.steps, worst, stalled)

    def unfinished(state: _Attempt) -> Bool[Array, ""]:
        enough = state.worst <= tolerance
        return ~(enough | state.stalled) & (state.steps < max_steps)

    start = _Attempt(
        jnp.zeros_like(targets),
        targets,
        jnp.zeros((), jnp.int32),
        jnp.max(_norms(targets), initial=0),
        jnp.zeros((), bool),
    )
    end = lax.while_loop(unfinished, attempt, start)
    return BlockResult(end.solution * scale, _norms(end.residual), end.steps)


def _search(
    product: Product,
    preconditioner: LowRank | None,
    start: _Attempt,
    tolerance: float,
    max_steps: int,
) -> _Search:
    """Steps until the recursion says that it is enough.

    With a preconditioner $S S^T$ it searches for $S^T x$, by the operator
    $S^{-1} A S^{-T}$.
    """
    same: Product = lambda v: v
    there, back, root = same, same, same
    if preconditioner is not None:
        there = preconditioner.root_inverse_transposed
        back, root = preconditioner.root_inverse, preconditioner.root

    def step(state: _Search) -> _Search:
        moved = back(state.directions)
        image = product(moved)
        inverse = _inverse_on_range(moved.T @ image)
        solution = state.solution + moved @ (inverse @ state.coordinates)
        basis, change = jnp.linalg.qr(state.basis - there(image) @ inverse)
        directions = basis + state.directions @ change.T
        coordinates = change @ state.coordinates
        return _Search(solution, basis, coordinates, directions, state.steps + 1)

    def unfinished(state: _Search) -> Bool[Array, ""]:
        residual = root(state.basis) @ state.coordinates
        # Not a number is no reason to go on.
        worst = jnp.max(_norms(residual), initial=0)
        return (worst > tolerance) & (state.steps < max_steps)

    basis, coordinates = jnp.linalg.qr(there(start.residual))
    begun = _Search(start.solution, basis, coordinates, basis, start.steps)
    return lax.while_loop(unfinished, step, begun)


def _norms(columns: ColumnBlock) -> Float[Array, " columns"]:
    return jnp.linalg.norm(columns, axis=0)


def _inverse_on_range(matrix: Float[Array, "rank rank"]) -> Float[Array, "rank rank"]:
    """The inverse of a positive matrix, on the space where rounding leaves it that."""
    matrix = (matrix + matrix.T) / 2
    diagonal = jnp.diagonal(matrix)
    scale = jnp.where(diagonal > 0, lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1)), 0)
    values, vectors = jnp.linalg.eigh(scale[:, None] * matrix * scale[None])
    eps = float(jnp.finfo(matrix.dtype).eps)
    kept = values > 10 * matrix.shape[0] * eps * jnp.max(values, initial=0)
    inverted = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    vectors = scale[:, None] * vectors
    return (vectors * inverted[None]) @ vectors.T
