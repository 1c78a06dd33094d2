"""The posterior of a Gaussian process in matrices and columns.

Outputs with one noise are a group, whose matrix has one Cholesky factor; its outputs
are columns beside each other.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._products import einsum, matmul
from eqtangents.predict._definiteness import NOT_SAMPLED, refuse_spoiled
from eqtangents.predict._spectrum import Spectrum


def extended_cholesky(
    cholesky: Float[Array, "first_groups old old"],
    kernel: Float[Array, "rows rows"],
    noise: Float[Array, "rows groups"],
) -> Float[Array, "groups rows rows"]:
    """Cholesky factors of the kernel with its noise, from factors of its first rows.

    **Raises:** `RuntimeError` if one of them is not positive definite beyond rounding.
    """
    cholesky = jnp.broadcast_to(cholesky, (noise.shape[1], *cholesky.shape[1:]))
    return refuse_spoiled(_with_more_rows(cholesky, kernel, noise), kernel, noise)


@jax.jit
def _with_more_rows(
    cholesky: Float[Array, "groups old old"],
    kernel: Float[Array, "rows rows"],
    noise: Float[Array, "rows groups"],
) -> Float[Array, "groups rows rows"]:
    old = cholesky.shape[1]

    def extend(
        cholesky: Float[Array, "old old"], noise: Float[Array, " rows"]
    ) -> Float[Array, "rows rows"]:
        cross = solve_triangular(cholesky, kernel[:old, old:], lower=True)
        new = kernel[old:, old:] + jnp.diag(noise[old:]) - matmul(cross.T, cross)
        above = jnp.zeros_like(cross)
        return jnp.block([[cholesky, above], [cross.T, jnp.linalg.cholesky(new)]])

    return jax.vmap(extend, (0, 1))(cholesky, noise)


def solve_columns(
    cholesky: Float[Array, "groups rows rows"], targets: Float[Array, "rows columns"]
) -> Float[Array, "rows columns"]:
    """The inverse of each group's matrix, times the targets of that group."""
    groups = cholesky.shape[0]
    rows, width = targets.shape
    grouped = targets.reshape(rows, groups, width // max(groups, 1))
    solve: Callable[[Array, Array], Array] = lambda c, y: cho_solve((c, True), y)
    return jax.vmap(solve, (0, 1), 1)(cholesky, grouped).reshape(targets.shape)


def _whitened(
    cholesky: Float[Array, "groups rows rows"],
    k_test_train: Float[Array, "rows_test rows"],
) -> Float[Array, "groups rows rows_test"]:
    # L^-1 K_*^T. With one triangular solve, not the two of `cho_solve`, the
    # explained covariance is a square: symmetric and positive to the last bit.
    return jax.vmap(lambda c: solve_triangular(c, k_test_train.T, lower=True))(cholesky)


def posterior_covariance(
    cholesky: Float[Array, "groups rows rows"],
    k_test_train: Float[Array, "rows_test rows"],
    k_test_test: Float[Array, "rows_test rows_test"],
) -> Float[Array, "groups rows_test rows_test"]:
    """Covariance of the test outputs in each group."""
    explained = _whitened(cholesky, k_test_train)
    return k_test_test[None] - einsum("gij,gik->gjk", explained, explained)


def exact_variance(
    cholesky: Float[Array, "groups rows rows"],
    k_test_train: Float[Array, "rows_test rows"],
    k_test_diagonal: Float[Array, " rows_test"],
) -> Float[Array, "groups rows_test"]:
    """The diagonal of the covariance, which rounding does not make negative."""
    explained = jnp.sum(_whitened(cholesky, k_test_train) ** 2, axis=1)
    return jnp.maximum(k_test_diagonal[None] - explained, 0)


def trained_covariance(
    cholesky: Float[Array, "groups rows rows"],
    ntk_test_train: Float[Array, "rows_test rows"],
    nngp_train_train: Float[Array, "rows rows"],
    nngp_test_train: Float[Array, "rows_test rows"],
    nngp_test_test: Float[Array, "rows_test rows_test"],
) -> Float[Array, "groups rows_test rows_test"]:
    """Covariance of networks that were trained to the end, with these factors' NTK."""

    def covariance(cholesky: Float[Array, "rows rows"]) -> Float[Array, "m m"]:
        solved = cho_solve((cholesky, True), ntk_test_train.T)
        half = matmul(
            (matmul(nngp_train_train, solved) / 2 - nngp_test_train.T).T, solved
        )
        return nngp_test_test + (half + half.T)

    return jax.vmap(covariance)(cholesky)


def draws(
    mean: Float[Array, "rows columns"],
    covariance: Float[Array, "groups rows rows"],
    scale: Float[Array, ""],
    shape: tuple[int, ...],
    key: PRNGKeyArray,
) -> Float[Array, "*shape rows columns"]:
    """Samples with this mean and covariance.

    **Arguments:**

    - `mean`, `covariance`: of the outputs, which are independent columns.
    - `scale`: size of the terms whose difference the covariance is.
    - `shape`: of how many samples.
    - `key`: a random key.

    **Raises:** `RuntimeError` if a covariance is not positive semi-definite.
    """
    normal = jr.normal(key, (*shape, *mean.shape), mean.dtype)
    columns = jnp.moveaxis(normal.reshape(-1, *mean.shape), 0, 1)
    groups = covariance.shape[0]
    width = mean.shape[1] // max(groups, 1)
    by_group = columns.reshape(*columns.shape[:2], groups, width)

    def correlate(
        covariance: Float[Array, "rows rows"], z: Float[Array, "rows draws columns"]
    ) -> Float[Array, "rows draws columns"]:
        spectrum = Spectrum(covariance, scale=scale, message=NOT_SAMPLED)
        flat = spectrum.apply(_spectral_root, z.reshape(z.shape[0], -1))
        return flat.reshape(z.shape)

    moved = jax.vmap(correlate, (0, 2), 2)(covariance, by_group)
    correlated = jnp.moveaxis(moved.reshape(columns.shape), 1, 0)
    correlated = correlated.reshape(*shape, *mean.shape)
    return mean[(None,) * len(shape)] + correlated


def exact_log_density(
    cholesky: Float[Array, "groups rows rows"],
    targets: Float[Array, "rows columns"],
    solution: Float[Array, "rows columns"],
) -> Float[Array, ""]:
    """Log density of the targets under the prior, with their noise."""
    logs = jnp.log(jax.vmap(jnp.diagonal)(cholesky))
    outputs_each = targets.shape[1] / max(cholesky.shape[0], 1)
    misfit = jnp.sum(targets * solution) / 2
    constant = targets.size * jnp.log(2 * jnp.pi) / 2
    return -misfit - outputs_each * jnp.sum(logs) - constant


def left_out(
    cholesky: Float[Array, "groups rows rows"],
    targets: Float[Array, "rows columns"],
    solution: Float[Array, "rows columns"],
) -> tuple[Float[Array, "rows columns"], Float[Array, "rows columns"]]:
    """Mean and variance of each target, given all other rows."""
    eye = jnp.eye(cholesky.shape[-1], dtype=cholesky.dtype)
    inverse = jax.vmap(lambda c: solve_triangular(c, eye, lower=True))(cholesky)
    precision = jnp.sum(inverse**2, axis=1).T  # a column for each group
    repeats = targets.shape[1] // max(precision.shape[1], 1)
    precision = jnp.repeat(precision, repeats, axis=1)
    return targets - solution / precision, 1 / precision


def _spectral_root(values: Float[Array, " n"]) -> Float[Array, " n"]:
    """The square root, with the derivative zero where a value is."""
    positive = values > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, values, 1)), 0)
