"""Determinants, densities and variances of a kernel, with what they may be wrong by."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._arguments import check_key, checked_integer
from eqtangents._trees import without_derivative
from eqtangents.empirical import Estimate
from eqtangents.solvers._backing import ColumnBlock
from eqtangents.solvers._lanczos import lanczos
from eqtangents.solvers._operator import GramOperator, noise_of
from eqtangents.solvers._pivots import check_symmetric
from eqtangents.solvers._preconditioner import AbstractPreconditioner
from eqtangents.solvers._solve import BlockCG, checked_solver, solve


def log_determinant(
    operator: GramOperator,
    solver: BlockCG | None = None,
    *,
    key: PRNGKeyArray,
    probes: int = 16,
) -> Estimate[Float[Array, ""]]:
    r"""$\log\det(K + \sigma^2 I)$, by stochastic Lanczos quadrature.

    $$\log\det P + \operatorname{tr} \log\bigl(S^{-1} (K + \sigma^2 I)\,S^{-\top}\bigr),
    \qquad P = S S^\top$$

    The trace is a mean over random signs. The closer the preconditioner $P$, the
    smaller its error. It has no derivative; `eqtangents.solvers.log_density` has.

    **Arguments:**

    - `operator`: of one batch, with noise.
    - `solver`: its preconditioner; how much the determinant of a probe may change at
        last, relative to its size, `rtol`, and after how many products at most.
    - `key`: draws the signs.
    - `probes`: how many vectors of signs, at least 2.

    **Returns:** an `eqtangents.Estimate`. Its standard error has the scatter over
    probes and the last change of the quadrature.

    **Raises:** `ValueError` or `TypeError` for arguments of another kind or size.

    **Cost:** a product with `probes` columns each step, and as many arrays of their
    size as `solver.max_steps`.

    **Source:** Ubaru, Chen & Saad 2017; Gardner et al. 2018, arXiv:1809.11165, for the
    preconditioner.
    """
    check_symmetric(operator)
    check_key("`key`", key)
    probes = checked_integer("probes", probes, 2)
    signs = jr.rademacher(key, (operator.shape[0], probes), operator.dtype)
    return _log_determinant(without_derivative(operator), checked_solver(solver), signs)


@eqx.filter_jit
def _log_determinant(
    operator: GramOperator, solver: BlockCG, signs: ColumnBlock
) -> Estimate[Float[Array, ""]]:
    preconditioner = solver.preconditioner

    def product(columns: ColumnBlock) -> ColumnBlock:
        if preconditioner is None:
            return operator.multiply(columns)
        moved = operator.multiply(preconditioner.root_inverse(columns))
        return preconditioner.root_inverse_transposed(moved)

    def logarithm(
        values: Float[Array, " steps"], vectors: Float[Array, "steps steps"]
    ) -> Float[Array, ""]:
        # Rounding may make values negative that are almost zero.
        tiny = float(jnp.finfo(values.dtype).eps) * jnp.max(values)
        return jnp.sum(vectors[0] ** 2 * jnp.log(jnp.maximum(values, tiny)))

    n, probes = signs.shape
    rtol, most = solver.rtol, solver.max_steps

    def by_quadrature(known: Float[Array, ""]) -> tuple[Array, Array]:
        found = lanczos(product, signs, logarithm, rtol, most, added_to=known / n)
        return n * found.value, n * jnp.mean(found.change)

    known = jnp.zeros((), signs.dtype)
    if preconditioner is None:
        each, wrong = by_quadrature(known)
    else:
        known = preconditioner.log_determinant()
        # Where little is missing of the identity, the logarithm is that, but for half
        # of its square.
        missing = product(signs) - signs
        wrong = jnp.mean(jnp.sum(missing**2, axis=0)) / 2
        each, wrong = lax.cond(
            wrong <= rtol * jnp.abs(known),
            lambda _: (jnp.sum(signs * missing, axis=0), wrong),
            by_quadrature,
            known,
        )
    scatter = jnp.std(each, ddof=1) / probes**0.5
    return Estimate(known + jnp.mean(each), jnp.hypot(scatter, wrong))


def log_density(
    operator: GramOperator,
    y: Float[Array, "n *outputs"],
    solver: BlockCG | None = None,
    *,
    key: PRNGKeyArray,
    probes: int = 16,
) -> Estimate[Float[Array, ""]]:
    r"""Log density of targets under a Gaussian process: the evidence for its kernel.

    $$-\tfrac12 \operatorname{tr} y^\top (K + \sigma^2 I)^{-1} y
    - \tfrac c2 \log\det(K + \sigma^2 I) - \tfrac {nc}2 \log 2\pi$$

    for $c$ outputs. Its gradient, in all that the operator is made of and in `y`, comes
    of the same solves, and of one product with the operator. With the same key it is an
    estimate of the gradient from the same probes.

    **Arguments:**

    - `operator`: of one batch, with noise; of a network with hyperparameters that are
        arrays, say, or of a matrix.
    - `y`: targets, outputs along further axes.
    - `solver`, `key`, `probes`: as for `eqtangents.solvers.log_determinant`. The
        preconditioner has no derivative, and need not be that of the present
        hyperparameters.

    **Returns:** an `eqtangents.Estimate`, whose error is that of the determinant.

    **Raises:** as `eqtangents.solve` does.

    **Cost:** of a solve with `outputs + probes` right-hand sides, and of
    `log_determinant`.

    **Source:** Gardner et al. 2018, arXiv:1809.11165, for probes with the covariance of
    the preconditioner.
    """
    solver = checked_solver(solver)
    fixed = without_derivative(operator)
    determinant = log_determinant(fixed, solver, key=key, probes=probes)
    n = operator.shape[0]
    columns = jnp.asarray(y, operator.dtype).reshape(n, -1)
    outputs = columns.shape[1]
    signs = jr.rademacher(key, (n, probes), operator.dtype)
    drawn, weighed = _of_covariance(solver.preconditioner, signs)
    both = jnp.concatenate([lax.stop_gradient(columns), drawn], axis=1)
    solution = lax.stop_gradient(solve(fixed, both, solver).value)
    weights, solved = solution[:, :outputs], solution[:, outputs:]
    # The derivative of the determinant is the trace of the inverse times that of the
    # matrix, which this product is an estimate of.
    products = operator.multiply(jnp.concatenate([weights, weighed], axis=1))
    trace = jnp.sum(solved * products[:, outputs:]) / probes
    moved = determinant.mean + trace - lax.stop_gradient(trace)
    # Wrong by the square of what the weights are.
    misfit = jnp.sum(columns * weights) - jnp.sum(weights * products[:, :outputs]) / 2
    constant = columns.size * jnp.log(2 * jnp.pi) / 2
    mean = -misfit - outputs * moved / 2 - constant.astype(misfit.dtype)
    return Estimate(mean, outputs * determinant.standard_error / 2)


def _of_covariance(
    preconditioner: AbstractPreconditioner | None, signs: ColumnBlock
) -> tuple[ColumnBlock, ColumnBlock]:
    r"""Vectors of the covariance $P$, and $P^{-1}$ times them."""
    if preconditioner is None:
        return signs, signs
    preconditioner = lax.stop_gradient(preconditioner)
    return preconditioner.root(signs), preconditioner.root_inverse(signs)


class Bounds(NamedTuple):
    """A number and how much too large it is at most; both for each row."""

    value: Float[Array, " rows"]
    error: Float[Array, " rows"]


def posterior_variance(
    operator: GramOperator,
    k_test_train: Float[Array, "n_test n"],
    k_test_diagonal: Float[Array, " n_test"],
    solver: BlockCG | None = None,
    *,
    batch_size: int = 64,
) -> Bounds:
    r"""Posterior variances, and how much too large they are at most.

    $$k_{**} - k_*^\top (K + \sigma^2 I)^{-1} k_*$$

    With an approximate solution $x$, of residual $r$, the quadratic form is at least
    $2 k_*^\top x - x^\top (K + \sigma^2 I)\, x$, and no more than
    $\lVert r \rVert^2 / \min \sigma^2$ above it: no randomness is in these bounds.

    **Arguments:**

    - `operator`: of the training examples, with noise.
    - `k_test_train`: kernel of the test with the training examples.
    - `k_test_diagonal`: prior variances of the test examples.
    - `solver`: how to solve; what does not converge has large bounds.
    - `batch_size`: for how many test examples to solve at a time.

    **Returns:** `value`, the variance, and `error`, which it may be too large by.

    **Raises:** `ValueError` or `TypeError` for arguments that do not fit.

    **Cost:** a solve with `batch_size` right-hand sides for each batch.
    """
    check_symmetric(operator)
    if k_test_train.shape[1:] != operator.shape[1:]:
        raise ValueError(
            f"`k_test_train` has shape {k_test_train.shape}, but there are "
            f"{operator.shape[1]} training examples: (n_test, {operator.shape[1]}) is "
            "needed."
        )
    if k_test_diagonal.shape != k_test_train.shape[:1]:
        raise ValueError(
            f"`k_test_diagonal` has shape {k_test_diagonal.shape}, but `k_test_train` "
            f"has {k_test_train.shape[0]} rows: a variance for each is needed."
        )
    batch_size = checked_integer("batch_size", batch_size, 1)
    explained = _explained(operator, k_test_train, checked_solver(solver), batch_size)
    return Bounds(k_test_diagonal - explained.value, explained.error)


@eqx.filter_jit
def _explained(
    operator: GramOperator,
    k_test_train: Float[Array, "n_test n"],
    solver: BlockCG,
    batch_size: int,
) -> Bounds:
    """What the training examples explain of the variances, at least."""
    n_test, n = k_test_train.shape
    size = max(1, min(batch_size, n_test))
    batches = -(-n_test // size)
    padded = jnp.pad(k_test_train, ((0, batches * size - n_test), (0, 0)))

    def of_batch(rows: Float[Array, "size n"]) -> Bounds:
        solution = solve(operator, rows.T, solver, throw=False).value
        residual = rows.T - operator.multiply(solution)
        value = jnp.sum(solution * (rows.T + residual), axis=0)
        least = jnp.min(noise_of(operator))
        return Bounds(value, jnp.sum(residual**2, axis=0) / least)

    found = lax.map(of_batch, padded.reshape(batches, size, n))
    return jax.tree.map(lambda a: a.reshape(-1)[:n_test], found)
