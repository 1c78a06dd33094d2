"""Cholesky factors, and solves with them, in the order that LAPACK has in memory.

It wants columns first, where arrays have rows first. Of a symmetric matrix, and of a
factor that is used from its other side, the transposed one is the same memory: nothing
is copied.
"""

import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float


def cholesky_factor(
    matrix: Float[Array, "n n"], diagonal: Float[Array, " #n"]
) -> Float[Array, "n n"]:
    r"""The lower $L$ with $L L^\top$ as the matrix with so much more on its diagonal.

    The upper triangle is read. NaN if it is not positive definite.
    """
    more = jnp.diag(jnp.broadcast_to(diagonal, matrix.shape[:1]))
    return lax.linalg.cholesky(matrix.T + more, symmetrize_input=False)


def solve_by(
    factor: Float[Array, "n n"], columns: Float[Array, " n *columns"]
) -> Float[Array, " n *columns"]:
    r"""The inverse of $L L^\top$ times a vector, or columns."""
    return cho_solve((factor.T, False), columns)
