"""Conjugate gradients for several right-hand sides at once."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents._products import matmul
from eqtangents.solvers._backing import ColumnBlock
from eqtangents.solvers._preconditioner import AbstractPreconditioner


Product: TypeAlias = Callable[[ColumnBlock], ColumnBlock]
# The true residuals are computed after at most so many steps.
UNSEEN = 30
# Rounding may be so much of them; and where it is more, they have to become so much
# less from one new start to the next.
LEFT_AT_MOST = 0.5
# Where it is so many times what is tolerated, more steps do not help: it grows with
# the solution, which grows from step to step.
TOO_MUCH = 10.0


class BlockResult(NamedTuple):
    """Where conjugate gradients have got to."""

    solution: ColumnBlock
    residual: Float[
        Array, " columns"
    ]  # norms, relative to those of the right-hand side
    steps: Int[Array, ""]


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


class _Attempt(NamedTuple):
    search: _Search
    solution: ColumnBlock  # the best one so far
    residual: ColumnBlock  # its true one
    goal: Float[Array, ""]  # of the next new start
    stalled: Bool[Array, ""]


def solved_in_block(
    product: Product,
    preconditioner: AbstractPreconditioner | None,
    targets: ColumnBlock,
    tolerance: float,
    max_steps: int,
    or_none: bool = False,
) -> BlockResult:
    r"""Solve for all columns at once, in the space that they span together.

    With a preconditioner $S S^T$ it searches for $S^T x$, by the operator
    $S^{-1} A S^{-T}$. Now and then the true residuals are computed. Where those of the
    recursion are no more like them, by rounding, the search starts anew from the best
    solution; where that gained nothing, this is as good as rounding lets it be. With
    `or_none` it ends as soon as rounding is seen to keep it from what is tolerated,
    without the best solution that there might be.

    **Source:** O'Leary 1980; Dubrulle 2001, for the factors of the residual; van der
    Vorst & Ye 2000, for replacing it.
    """
    sizes = _norms(targets)
    scale = jnp.where(sizes > 0, sizes, 1)[None]
    targets = targets / scale
    steps = _Recursion(product, preconditioner, tolerance)

    def attempt(state: _Attempt) -> _Attempt:
        most = jnp.minimum(state.search.steps + UNSEEN, max_steps)
        search = steps.taken(state.search, most)
        recursive = steps.residual_of(search)
        residual = targets - product(search.solution)
        now = _norm_of_worst(residual)
        better = now < _norm_of_worst(state.residual)
        solution = jnp.where(better, search.solution, state.solution)
        rounding = _norm_of_worst(residual - recursive)
        residual = jnp.where(better, residual, state.residual)
        faithful = (rounding <= LEFT_AT_MOST * now) & (
            _norm_of_worst(recursive) > tolerance
        )
        worst = _norm_of_worst(residual)
        anew = steps.begun(solution, residual, search.steps)
        search = jax.tree.map(lambda a, b: jnp.where(faithful, a, b), search, anew)
        # Not a number is no reason to go on.
        stalled = ~(faithful | (worst <= state.goal))
        if or_none:
            stalled |= _is_hopeless(rounding, now, tolerance)
        goal = jnp.where(faithful, state.goal, LEFT_AT_MOST * worst)
        return _Attempt(search, solution, residual, goal, stalled)

    def unfinished(state: _Attempt) -> Bool[Array, ""]:
        enough = _norm_of_worst(state.residual) <= tolerance
        return ~(enough | state.stalled) & (state.search.steps < max_steps)

    zeros = jnp.zeros_like(targets)
    search = steps.begun(zeros, targets, jnp.zeros((), jnp.int32))
    goal = LEFT_AT_MOST * _norm_of_worst(targets)
    start = _Attempt(search, zeros, targets, goal, jnp.zeros((), bool))
    end = lax.while_loop(unfinished, attempt, start)
    return BlockResult(end.solution * scale, _norms(end.residual), end.search.steps)


def _is_hopeless(
    rounding: Float[Array, ""], residual: Float[Array, ""], tolerance: float
) -> Bool[Array, ""]:
    """Whether rounding keeps solutions from what is tolerated.

    Not that of the residuals themselves, which are large at first, and so is theirs.
    """
    own = float(jnp.finfo(residual.dtype).eps) ** 0.5 * residual
    return (rounding > TOO_MUCH * tolerance) & (rounding > own)


class _Recursion(NamedTuple):
    """How to get from one search to the next."""

    product: Product
    preconditioner: AbstractPreconditioner | None
    tolerance: float

    def begun(
        self, solution: ColumnBlock, residual: ColumnBlock, steps: Int[Array, ""]
    ) -> _Search:
        """A search from a solution."""
        basis, coordinates = jnp.linalg.qr(self._there(residual))
        return _Search(solution, basis, coordinates, basis, steps)

    def residual_of(self, search: _Search) -> ColumnBlock:
        """As the recursion has it."""
        basis, by = search.basis, self.preconditioner
        return matmul(basis if by is None else by.root(basis), search.coordinates)

    def taken(self, search: _Search, most: Int[Array, ""]) -> _Search:
        """Until the recursion says that it is enough, or there are so many."""

        def unfinished(state: _Search) -> Bool[Array, ""]:
            worst = _norm_of_worst(self.residual_of(state))
            return (worst > self.tolerance) & (state.steps < most)

        return lax.while_loop(unfinished, self._one, search)

    def _one(self, state: _Search) -> _Search:
        directions, by = state.directions, self.preconditioner
        moved = directions if by is None else by.root_inverse(directions)
        image = self.product(moved)
        inverse = _inverse_on_range(matmul(moved.T, image))
        solution = state.solution + matmul(moved, matmul(inverse, state.coordinates))
        basis, change = jnp.linalg.qr(state.basis - matmul(self._there(image), inverse))
        directions = basis + matmul(directions, change.T)
        coordinates = matmul(change, state.coordinates)
        return _Search(solution, basis, coordinates, directions, state.steps + 1)

    def _there(self, columns: ColumnBlock) -> ColumnBlock:
        by = self.preconditioner
        return columns if by is None else by.root_inverse_transposed(columns)


def _norms(columns: ColumnBlock) -> Float[Array, " columns"]:
    return jnp.linalg.norm(columns, axis=0)


def _norm_of_worst(columns: ColumnBlock) -> Float[Array, ""]:
    return jnp.max(_norms(columns), initial=0)


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
    return matmul(vectors * inverted[None], vectors.T)
