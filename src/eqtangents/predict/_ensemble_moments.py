"""Covariances of an ensemble at some times of its training, in matrices."""

import itertools
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents.predict._gradient_descent_mse import Gain
from eqtangents.predict._spectrum import matrix_function


Matrix: TypeAlias = Float[Array, "rows1 rows2"]

_TRIANGLE_BLOCKS = 8  # of the triangle: 9/16 of the square is computed, not 1/2


@eqx.filter_custom_jvp
def ensemble_moments(
    matrix: Matrix,
    start: Matrix,
    gain: Gain,
    kernels: tuple[Array, ...],
    factors: tuple[Array, ...],
) -> Float[Array, "times *test"]:
    """Covariances of test outputs at the times of the gain, or variances alone.

    **Arguments:**

    - `matrix`: the kernel of the training, with its noise.
    - `start`: covariance of what is to be learned, before training.
    - `gain`: of the rule of training.
    - `kernels`: the test-train kernels of the training and of the start, and the prior
        of the test outputs: their covariance, or their variances.
    - `factors`: eigenvalues and eigenvectors of `matrix`, and half of `start` in their
        basis.
    """
    del matrix, start  # here for their tangents: they are `factors`
    values, vectors, half = factors
    dynamics, nngp, prior = kernels
    dynamics, nngp = dynamics @ vectors, nngp @ vectors

    def at(gains: Float[Array, " rows"]) -> Float[Array, "*test"]:
        learned = dynamics * gains[None]
        return _moments_after(_half_times(half, learned.T) - nngp.T, learned.T, prior)

    return lax.map(at, gain(values))


@ensemble_moments.def_jvp
def _ensemble_moments_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The derivative of the same moments, written as functions of the matrix.

    Eigenvectors of repeated eigenvalues have no derivatives, such functions have.
    """
    *primals, factors = primals
    *tangents, _ = tangents

    def differentiable(
        matrix: Matrix, start: Matrix, gain: Gain, kernels: tuple[Array, ...]
    ) -> Float[Array, "times *test"]:
        dynamics, nngp, prior = kernels
        learned = matrix_function(matrix, gain, dynamics.T, factors[:2])
        return jax.vmap(
            lambda learned: _moments_after(start @ learned / 2 - nngp.T, learned, prior)
        )(learned)

    return eqx.filter_jvp(differentiable, tuple(primals), tuple(tangents))


def _moments_after(
    half: Matrix, learned: Matrix, prior: Float[Array, "*test"]
) -> Float[Array, "*test"]:
    if prior.ndim == 1:
        return prior + 2 * jnp.sum(half * learned, axis=0)
    change = learned.T @ half
    return prior + (change + change.T)  # symmetric to the last bit


def _half_times(
    half: Matrix | Float[Array, " rows"], columns: Float[Array, "rows rows_test"]
) -> Float[Array, "rows rows_test"]:
    """Diagonal or lower triangular matrix times columns, without most of the zeros."""
    if half.ndim == 1:
        return half[:, None] * columns
    n = half.shape[0]
    edges = sorted({n * i // _TRIANGLE_BLOCKS for i in range(_TRIANGLE_BLOCKS + 1)})
    rows = [half[a:b, :b] @ columns[:b] for a, b in itertools.pairwise(edges)]
    return jnp.concatenate(rows) if rows else columns
