"""Mean and covariance of an ensemble at some times of its training, in matrices."""

import itertools
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._products import matmul
from eqtangents.predict._arguments import branch_of
from eqtangents.predict._gradient_descent_mse import Gain
from eqtangents.predict._noisy_kernel import NoisyKernel
from eqtangents.predict._spectrum import matrix_function


Matrix: TypeAlias = Float[Array, "rows1 rows2"]

# Covariances or variances, and means; both at each time.
TimedMoments: TypeAlias = tuple[
    Float[Array, "times *test"], Float[Array, "times rows_test columns"]
]

_TRIANGLE_BLOCKS = 8  # of the triangle: 9/16 of the square is computed, not 1/2


def ensemble_moments(
    noisy: NoisyKernel,
    start: Matrix,
    gain: Gain,
    kernels: tuple[Array, ...],
    target_noise: Float[Array, ""] | None,
) -> TimedMoments:
    """Covariances of test outputs at the times of the gain, or variances, and means.

    **Arguments:**

    - `noisy`: the kernel of the training, with its noise.
    - `start`: covariance of what is to be learned, before training.
    - `gain`: of the rule of training.
    - `kernels`: the test-train kernels of the training and of the start, the prior of
        the test outputs (their covariance, or their variances), and the targets whose
        means are wanted, as columns.
    - `target_noise`: if the start is the kernel of the training without its noise, with
        this in its place.
    """
    approximation = noisy.approximation(gain, kernels[0].shape[0])
    return branch_of(
        noisy.definite & approximation.enough,
        lambda: _all_after(noisy.apply(gain, kernels[0].T), start, kernels),
        lambda: _compiled(
            noisy.matrix, start, gain, kernels, _in_basis(noisy, target_noise)
        ),
    )


@eqx.filter_jit
def _compiled(*arguments: Any) -> TimedMoments:
    return _by_eigenvectors(*arguments)


def _in_basis(
    noisy: NoisyKernel, target_noise: Float[Array, ""] | None
) -> tuple[Array, Array, Array | None]:
    """Eigenvalues, eigenvectors, and half of the start in their basis, if diagonal."""
    values, vectors = noisy.factors()
    half = None if target_noise is None else (values - noisy.noise + target_noise) / 2
    return lax.stop_gradient((values, vectors, half))


@eqx.filter_custom_jvp
def _by_eigenvectors(
    matrix: Matrix,
    start: Matrix,
    gain: Gain,
    kernels: tuple[Array, ...],
    factors: tuple[Array, Array, Array | None],
) -> TimedMoments:
    values, vectors, half = factors
    dynamics, nngp, prior, targets = kernels
    gains, coordinates = gain(values), matmul(vectors.T, dynamics.T)
    many = gains.shape[0] * dynamics.shape[0] > 4 * matrix.shape[0]
    if half is None and many:
        # So that it and its transpose make the whole.
        half = jnp.tril(matmul(matmul(vectors.T, start), vectors))
        half = half - jnp.diag(jnp.diagonal(half)) / 2
    if half is None:
        learned = lambda gains: matmul(vectors, gains[:, None] * coordinates)
        return lax.map(lambda g: _after(learned(g), start, kernels), gains)
    nngp, targets = matmul(vectors.T, nngp.T), matmul(vectors.T, targets)

    def at(gains: Float[Array, " rows"]) -> tuple[Array, Array]:
        learned = gains[:, None] * coordinates
        half_moved = _half_times(half, learned) - nngp
        return _moments_after(half_moved, learned, prior), matmul(learned.T, targets)

    return lax.map(at, gains)


@_by_eigenvectors.def_jvp
def _by_eigenvectors_jvp(
    primals: Any, tangents: Any
) -> tuple[TimedMoments, tuple[Array | None, ...]]:
    """The derivative of the same moments, written as functions of the matrix.

    Eigenvectors of repeated eigenvalues have no derivatives, such functions have.
    """
    *primals, factors = primals
    *tangents, _ = tangents

    def differentiable(
        matrix: Matrix, start: Matrix, gain: Gain, kernels: tuple[Array, ...]
    ) -> TimedMoments:
        learned = matrix_function(matrix, gain, kernels[0].T, factors[:2])
        return jax.vmap(lambda learned: _after(learned, start, kernels))(learned)

    return eqx.filter_jvp(differentiable, tuple(primals), tuple(tangents))


@jax.jit
def _all_after(
    learned: Float[Array, "times rows rows_test"],
    start: Matrix,
    kernels: tuple[Array, ...],
) -> TimedMoments:
    return lax.map(lambda learned: _after(learned, start, kernels), learned)


def _after(
    learned: Float[Array, "rows rows_test"], start: Matrix, kernels: tuple[Array, ...]
) -> tuple[Array, Array]:
    _, nngp, prior, targets = kernels
    half = matmul(start, learned) / 2 - nngp.T
    return _moments_after(half, learned, prior), matmul(learned.T, targets)


def _moments_after(
    half: Matrix, learned: Matrix, prior: Float[Array, "*test"]
) -> Float[Array, "*test"]:
    if prior.ndim == 1:
        return prior + 2 * jnp.sum(half * learned, axis=0)
    change = matmul(learned.T, half)
    return prior + (change + change.T)  # symmetric to the last bit


def _half_times(
    half: Matrix | Float[Array, " rows"], columns: Float[Array, "rows rows_test"]
) -> Float[Array, "rows rows_test"]:
    """Diagonal or lower triangular matrix times columns, without most of the zeros."""
    if half.ndim == 1:
        return half[:, None] * columns
    n = half.shape[0]
    edges = sorted({n * i // _TRIANGLE_BLOCKS for i in range(_TRIANGLE_BLOCKS + 1)})
    rows = [matmul(half[a:b, :b], columns[:b]) for a, b in itertools.pairwise(edges)]
    return jnp.concatenate(rows) if rows else columns
