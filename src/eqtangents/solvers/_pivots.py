"""Columns of a kernel that say most of it."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from eqtangents._arguments import check_key, checked_integer, described
from eqtangents._products import matmul
from eqtangents.solvers._backing import ColumnBlock
from eqtangents.solvers._low_rank import LowRank
from eqtangents.solvers._operator import GramOperator, noise_of


# At most so many candidates are drawn at a time, and at most this part of the rank: of
# more, many are refused.
BLOCK, SHARE = 256, 4


def rp_cholesky(operator: GramOperator, rank: int, key: PRNGKeyArray) -> LowRank:
    r"""A preconditioner by a partial Cholesky factorisation with random pivots.

    $$K \approx F F^\top, \qquad
    P = F F^\top + \operatorname{diag} \sigma^2 + \delta I$$

    Each pivot is drawn with probabilities proportional to the diagonal of what is left,
    $R = K - F F^\top$; $\delta$ is the mean of that diagonal. The condition number is
    then at most $1 + \lVert R \rVert / \min \sigma^2$, as without $\delta$, but most
    eigenvalues are closer to one, which saves steps and errors of determinants.

    Candidates are drawn in blocks, of which each is kept with the probability
    that makes the pivots as random as if they came one by one.

    **Arguments:**

    - `operator`: a kernel with its noise, be it 0.
    - `rank`: number of columns $k$ of $F$; those of it that would be rounding are zero.
    - `key`: draws the pivots.

    **Raises:** `ValueError` if the operator is of two batches, or the rank not between
    1 and their number; `TypeError` if an argument is of another kind.

    **Cost:** about $n k$ kernels, somewhat more for candidates that are refused, and of
    the order of $n k^2$ multiply-adds. What lies on disk is read once a block.

    **Source:** Chen, Epperly, Tropp & Webber 2022, arXiv:2207.06503, for the pivots;
    Epperly, Tropp & Webber 2024, arXiv:2410.03969, for blocks; Díaz, Epperly,
    Frangella, Tropp & Webber 2023, arXiv:2304.12465, as a preconditioner.
    """
    rank = _checked_rank(operator, rank, key)
    factor, left = _by_random_pivots(operator, rank, key)
    return _low_rank_of(operator, factor, left)


def nystroem(operator: GramOperator, rank: int, key: PRNGKeyArray) -> LowRank:
    r"""A preconditioner from columns of a kernel that are drawn uniformly.

    $$K \approx F F^\top = K_{:S} K_{SS}^{-1} K_{S:}$$

    It takes, raises and adds to $F F^\top$ what `eqtangents.rp_cholesky` does, which
    chooses the columns $S$ with more care.

    **Cost:** $n k$ kernels and of the order of $n k^2$ multiply-adds.

    **Source:** Williams & Seeger 2001.
    """
    rank = _checked_rank(operator, rank, key)
    factor, left = _of_uniform_columns(operator, rank, key)
    return _low_rank_of(operator, factor, left)


def _checked_rank(operator: GramOperator, rank: int, key: PRNGKeyArray) -> int:
    check_symmetric(operator)
    check_key("`key`", key)
    rank = checked_integer("rank", rank, 1)
    if rank > operator.shape[0]:
        raise ValueError(
            f"`rank` is {rank}, but the operator has {operator.shape[0]} columns: no "
            "more than these can be chosen."
        )
    return rank


def check_symmetric(operator: object) -> None:
    """Raise unless this is the operator of a batch with itself."""
    if not isinstance(operator, GramOperator):
        raise TypeError(
            f"`operator` is {described(operator)}, but an `eqtangents.GramOperator` is "
            "needed: `eqtangents.GramOperator(kernel, noise=1e-2)`, say."
        )
    if not operator.symmetric:
        raise ValueError(
            f"`operator`, of shape {operator.shape}, is of two batches, but must be of "
            "one with itself. A matrix is told to be that by its `noise`, be it 0."
        )


def _low_rank_of(
    operator: GramOperator, factor: Float[Array, "n rank"], left: Float[Array, " n"]
) -> LowRank:
    noise = noise_of(operator)
    # Rounding of the factor is left, too.
    eps = float(jnp.finfo(noise.dtype).eps)
    more = jnp.mean(left) + eps * jnp.mean(jnp.sum(factor**2, axis=1))
    return LowRank(factor, noise + more)


class _Partial(NamedTuple):
    """How far a factorisation is."""

    factor: Float[Array, "n more"]
    left: Float[Array, " n"]  # of the diagonal
    chosen: Int[Array, ""]  # how many
    key: PRNGKeyArray


@eqx.filter_jit
def _by_random_pivots(
    operator: GramOperator, rank: int, key: PRNGKeyArray
) -> tuple[Float[Array, "n rank"], Float[Array, " n"]]:
    """A factor, and what is left of the diagonal."""
    whole = operator.backing.diagonal()
    n, dtype = whole.shape[0], whole.dtype
    block = max(1, min(BLOCK, rank // SHARE))
    rounding = 10 * float(jnp.finfo(dtype).eps)

    def goes_on(state: _Partial) -> Bool[Array, ""]:
        return (state.chosen < rank) & (jnp.sum(state.left) > rounding * jnp.sum(whole))

    def step(state: _Partial) -> _Partial:
        key, pivot_key, uniform_key = jr.split(state.key, 3)
        pivots = jr.categorical(pivot_key, jnp.log(state.left), shape=(block,))
        residual = _exact_columns(operator, pivots, whole)
        residual = residual - matmul(state.factor, state.factor[pivots].T)
        uniform = jr.uniform(uniform_key, (block,), dtype)
        room = rank - state.chosen
        cholesky, kept = _accepted(
            residual[pivots], uniform, room, rounding * whole[pivots]
        )
        new = jnp.where(kept[None], residual, 0)
        new = solve_triangular(cholesky, new.T, lower=True).T
        # Those that were refused are zero; they come last, and are written over.
        new = new[:, jnp.argsort(~kept, stable=True)]
        factor = lax.dynamic_update_slice_in_dim(state.factor, new, state.chosen, 1)
        left = jnp.maximum(state.left - jnp.sum(new**2, axis=1), 0)
        # The first one is refused by rounding alone.
        gone = kept | (jnp.arange(block) == 0)
        left = left.at[pivots].min(jnp.where(gone, 0, left[pivots]))
        left = jnp.where(left > rounding * whole, left, 0)
        count = state.chosen + jnp.sum(kept, dtype=state.chosen.dtype)
        return _Partial(factor, left, count, key)

    # On the mesh of the diagonal, if that is on one.
    empty = jnp.broadcast_to(jnp.zeros_like(whole)[:, None], (n, rank + block))
    start = _Partial(empty, jnp.maximum(whole, 0), jnp.zeros((), jnp.int32), key)
    end = lax.while_loop(goes_on, step, start)
    return end.factor[:, :rank], end.left


def _exact_columns(
    operator: GramOperator, chosen: Int[Array, " chosen"], diagonal: Float[Array, " n"]
) -> ColumnBlock:
    """Columns of the kernel, whose entries on the diagonal are as exact as there."""
    columns = operator.backing.columns(chosen)
    places = jnp.arange(chosen.shape[0], dtype=chosen.dtype)
    return columns.at[chosen, places].set(diagonal[chosen])


def _accepted(
    matrix: Float[Array, "b b"],
    uniform: Float[Array, " b"],
    room: Int[Array, ""],
    rounding: Float[Array, " b"],
) -> tuple[Float[Array, "b b"], Bool[Array, " b"]]:
    """A Cholesky factor of the candidates that are kept, and which they are.

    A candidate was drawn by the diagonal before those ahead of it. It is kept with the
    probability by which that has become smaller. The rows of others are of the
    identity.
    """
    b, before = matrix.shape[0], jnp.diagonal(matrix)

    def step(
        i: Int[Array, ""], state: tuple[Array, Array, Array]
    ) -> tuple[Array, Array, Array]:
        rest, cholesky, kept = state
        now = rest[i, i]
        keep = (uniform[i] * before[i] < now) & (now > rounding[i])
        keep &= jnp.sum(kept, dtype=room.dtype) < room
        column = jnp.where(keep, rest[:, i] / jnp.sqrt(jnp.where(keep, now, 1)), 0)
        rest = rest - column[:, None] * column[None]
        return rest, cholesky.at[:, i].set(column), kept.at[i].set(keep)

    start = matrix, jnp.zeros_like(matrix), jnp.zeros(b, bool)
    _, cholesky, kept = lax.fori_loop(0, b, step, start)
    both = kept[:, None] & kept[None]
    return jnp.where(both, jnp.tril(cholesky), jnp.eye(b, dtype=matrix.dtype)), kept


@eqx.filter_jit
def _of_uniform_columns(
    operator: GramOperator, rank: int, key: PRNGKeyArray
) -> tuple[Float[Array, "n rank"], Float[Array, " n"]]:
    whole = operator.backing.diagonal()
    chosen = jr.choice(key, whole.shape[0], (rank,), replace=False)
    columns = _exact_columns(operator, chosen, whole)
    values, vectors = jnp.linalg.eigh(columns[chosen])
    # Directions that are rounding are left out.
    floor = rank * float(jnp.finfo(whole.dtype).eps) * jnp.max(values)
    kept = values > floor
    scale = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)
    factor = matmul(columns, vectors * scale[None])
    return factor, jnp.maximum(whole - jnp.sum(factor**2, axis=1), 0)
