"""Determinants, densities and variances, with what they may be wrong by."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import predict, solvers
from eqtangents.solvers._lanczos import matrix_function_times
from precision import DTYPE, by_precision
from solver_problems import batch, decaying, laplace, network, targets


def solver(operator=None, rank=10):
    chosen = None if operator is None else eqt.rp_cholesky(operator, rank, jr.key(5))
    return solvers.BlockCG(chosen, rtol=by_precision(float64=1e-6, float32=1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("preconditioned", [True, False])
def test_determinants_are_within_their_errors(preconditioned):
    operator = decaying(40)
    by = solver(operator if preconditioned else None)
    expected = jnp.linalg.slogdet(operator.as_matrix())[1]
    keys = jr.split(jr.key(0), 20)
    estimates = jax.vmap(
        lambda key: solvers.log_determinant(operator, by, key=key, probes=4)
    )(keys)
    error = jnp.std(estimates.mean) / len(keys) ** 0.5
    assert jnp.abs(jnp.mean(estimates.mean) - expected) < 5 * error + 1e-3
    # The error that each says it has is about the one that it has.
    wrong = jnp.sqrt(jnp.mean((estimates.mean - expected) ** 2))
    said = jnp.sqrt(jnp.mean(estimates.standard_error**2))
    assert said / 2 < wrong < 2 * said


@pytest.mark.slow
def test_errors_are_of_what_a_preconditioner_leaves():
    """That of a mean over signs is the logarithm's size off its diagonal."""
    operator, probes, sizes = decaying(40), 64, []
    for by in (solver(), solver(operator, 10), solver(operator, 30)):
        left = operator.as_matrix()
        if (chosen := by.preconditioner) is not None:
            left = chosen.root_inverse_transposed(left)
            left = chosen.root_inverse_transposed(left.T)
        values, vectors = jnp.linalg.eigh(left)
        log = (vectors * jnp.log(values)[None]) @ vectors.T
        log = log - jnp.diag(jnp.diagonal(log))
        sizes.append(jnp.sqrt(2 * jnp.sum(log**2) / probes))
        found = solvers.log_determinant(operator, by, key=jr.key(0), probes=probes)
        # Of a scatter of so many, one standard error is 9 %.
        assert found.standard_error == pytest.approx(float(sizes[-1]), rel=0.45)
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]


@pytest.mark.slow
@pytest.mark.parametrize("of_network", [False, True])
def test_evidence_and_its_gradient(of_network):
    """Of a kernel that is never formed, by probes, against the factorised matrix."""
    x, y = batch(12), targets(12, 2, 2)
    kernel = eqx.Partial(laplace, rate=jnp.asarray(0.3, DTYPE))
    kernel, noise = network() if of_network else kernel, jnp.asarray(0.3, DTYPE)
    by = solver(eqt.GramOperator(kernel, x, noise=noise), 4)

    def directly(parts):
        kernel, noise, y = parts
        posterior = predict.GaussianProcess(eqt.gram(kernel, x), y, noise=noise)
        return posterior.log_marginal_likelihood()

    @eqx.filter_value_and_grad
    def by_steps(parts, key):
        kernel, noise, y = parts
        operator = eqt.GramOperator(kernel, x, noise=noise, tile=5)
        return solvers.log_density(operator, y, by, key=key, probes=8).mean

    parts = kernel, noise, y
    expected = eqx.filter_jit(eqx.filter_value_and_grad(directly))(parts)
    keys = jr.split(jr.key(1), 16)
    found = eqx.filter_jit(
        lambda parts: jax.lax.map(lambda key: by_steps(parts, key), keys)
    )(parts)
    for many, one in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        error = jnp.std(many, axis=0) / len(keys) ** 0.5
        near = by_precision(float64=1e-4, float32=2e-2) * (1 + jnp.max(jnp.abs(one)))
        np.testing.assert_array_less(
            jnp.abs(jnp.mean(many, axis=0) - one), 5 * error + near
        )


@pytest.mark.slow
@pytest.mark.parametrize("steps", [6, 2, 500])
def test_variances_are_within_their_bounds(steps):
    x, new = batch(30), batch(7, 1)
    operator = eqt.GramOperator(laplace, x, noise=0.1)
    cross, prior = laplace(new, x), jnp.ones(7, DTYPE)
    exact = predict.GaussianProcess(laplace(x, x), x, noise=0.1)
    expected = exact.variance(cross, prior)
    by = solvers.BlockCG(rtol=1e-3, max_steps=steps)
    found = solvers.posterior_variance(operator, cross, prior, by, batch_size=3)
    rounding = by_precision(float64=1e-12, float32=1e-4)
    assert jnp.all(found.value >= expected - rounding)
    assert jnp.all(found.value - found.error <= expected + rounding)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [3, 1])
def test_functions_of_operators(columns):
    operator = decaying(50)
    v = targets(50, columns, columns)
    values, vectors = jnp.linalg.eigh(operator.as_matrix())
    times = jnp.asarray([0.0, 0.1, 10.0], DTYPE)
    decay = lambda values: jnp.exp(-times[:, None] * values[None])
    found = matrix_function_times(
        operator.multiply, v, decay, by_precision(float64=1e-9, float32=1e-4), 50
    )
    expected = jnp.einsum("ij,tj,kj,kc->tic", vectors, decay(values), vectors, v)
    near = by_precision(float64=1e-7, float32=1e-3)
    np.testing.assert_allclose(found.value, expected, atol=near)


@pytest.mark.slow
def test_an_exhausted_space_is_no_harm():
    """Of few different eigenvalues, few products find all."""
    operator = eqt.GramOperator(2 * jnp.eye(20, dtype=DTYPE), noise=1.0)
    v = jr.normal(jr.key(0), (20, 2), DTYPE)
    found = matrix_function_times(
        operator.multiply, v, lambda values: 1 / values[None], 1e-5, 20
    )
    np.testing.assert_allclose(found.value[0], v / 3, rtol=1e-5)
    estimate = solvers.log_determinant(operator, solver(), key=jr.key(0))
    np.testing.assert_allclose(estimate.mean, 20 * np.log(3), rtol=1e-5)
    assert estimate.standard_error < 1e-3


REFUSED = [
    (lambda op: solvers.log_determinant(op, key=0), TypeError, "key"),
    (lambda op: solvers.log_determinant(op, key=jr.key(0), probes=1), ValueError, "2"),
    (
        lambda op: solvers.posterior_variance(op, jnp.ones((2, 2)), jnp.ones(2)),
        ValueError,
        "`k_test_train` has",
    ),
    (
        lambda op: solvers.posterior_variance(op, jnp.ones((2, 3)), jnp.ones(3)),
        ValueError,
        "`k_test_diagonal` has",
    ),
]


@pytest.mark.precision("float64")
@pytest.mark.parametrize(("make", "error", "match"), REFUSED)
def test_refusals(make, error, match, without_jaxtyping):
    with pytest.raises(error, match=match):
        make(decaying(3))
