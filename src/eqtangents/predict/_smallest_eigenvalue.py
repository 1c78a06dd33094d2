"""The least eigenvalue of a matrix that has a Cholesky factor, as far as it matters."""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents._products import matmul
from eqtangents._types import Scalar
from eqtangents.predict._factored import solve_by


_KRYLOV = 16  # dimensions, at most
_DOUBT = 1e-3  # how probable it may be that one stops too early

# The number of dimensions so far, their basis, the inverse on them, and the estimate.
_Space = tuple[
    Int[Array, ""], Float[Array, "k n"], Float[Array, "k k"], Float[Array, ""]
]


def smallest_eigenvalue(
    cholesky: Float[Array, "n n"], enough: Scalar = 0.0
) -> Float[Array, ""]:
    r"""Least eigenvalue of $L L^\top$, by the largest of the inverse on a Krylov space.

    The estimate comes down to the eigenvalue as the space grows. It stops where the
    eigenvalue is certainly above `enough`, or the estimate is not.

    **Cost:** of order $n^2$, far below the factorisation: 16 solves at most, 8 where
    the eigenvalue is far above `enough`.

    **Source:** for when it is certain, Kuczyński & Woźniakowski 1992, "Estimating the
    largest eigenvalue by the power and Lanczos algorithms with a random start": the
    probability of a relative error above $\epsilon$ is of order
    $\sqrt{n}\, e^{-(2 k - 1) \sqrt{\epsilon}}$ in $k$ dimensions.
    """
    n, eps = cholesky.shape[0], float(jnp.finfo(cholesky.dtype).eps)
    k = min(n, _KRYLOV)
    likely = math.log(1.648 * n**0.5 / _DOUBT)

    def undecided(state: _Space) -> Bool[Array, ""]:
        i, _, _, value = state
        # Of the inverse's eigenvalue, relative.
        error = (likely / (2 * i - 1).astype(value.dtype)) ** 2
        certain = (1 - error) * value > enough
        return (i < k) & (value > enough) & ~certain

    def step(state: _Space) -> _Space:
        i, basis, inverse, _ = state
        image = solve_by(cholesky, basis[i])
        column = matmul(basis, image)
        inverse = inverse.at[i].set(column).at[:, i].set(column)
        new = image
        for _ in range(2):  # once leaves rounding behind
            new = new - matmul(basis.T, matmul(basis, new))
        size = jnp.linalg.norm(new)
        # What is left of nothing is rounding: the space is invariant.
        more = ~(size <= 10 * eps * jnp.linalg.norm(image))
        new = jnp.where(more, new / jnp.where(more, size, 1), 0)
        basis = basis.at[i + 1].set(new, mode="drop")
        return i + 1, basis, inverse, 1 / jnp.linalg.eigvalsh(inverse)[-1]

    # Drawn while this is traced: a generator is a dozen more kernels to compile.
    draw = np.random.default_rng(0).standard_normal(n)
    start = jnp.asarray(draw / np.linalg.norm(draw), cholesky.dtype)
    basis = jnp.zeros((k, n), cholesky.dtype)
    basis = basis.at[0].set(start)
    none = jnp.zeros((k, k), cholesky.dtype)
    first = jnp.zeros((), int), basis, none, jnp.asarray(jnp.inf, cholesky.dtype)
    return lax.while_loop(undecided, step, first)[-1]
