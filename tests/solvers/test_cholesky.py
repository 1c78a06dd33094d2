"""Cholesky factors, on one device and over meshes."""

import equinox as eqx
import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import predict, solvers
from mesh_cases import line, square
from precision import DTYPE, by_precision
from solver_problems import batch, laplace, network


MESHES = {
    "none": lambda: None,
    "auto": lambda: line("auto"),
    "explicit": lambda: line("explicit"),
    "square": lambda: square("explicit"),
}
over_meshes = pytest.mark.parametrize("mesh", MESHES)


def small():
    return by_precision(float64=1e-12, float32=1e-4)


def split(n, mesh, noise=1e-2):
    x = batch(n)
    return eqt.GramOperator(eqt.gram(laplace, x, mesh=MESHES[mesh]()), noise=noise)


def close(found, expected):
    scale = np.maximum(np.max(np.abs(expected)), 1e-9)
    np.testing.assert_allclose(found / scale, expected / scale, atol=small())


def check_factor(n, tile, mesh):
    operator = split(n, mesh)
    factor = solvers.Cholesky(operator, tile=tile)
    matrix, columns = (
        np.asarray(operator.as_matrix()),
        jr.normal(jr.key(1), (n, 3), DTYPE),
    )
    root = np.asarray(eqx.filter_jit(factor.root)(jnp.eye(n, dtype=DTYPE)))
    close(root @ root.T, matrix)
    close(root.T @ eqx.filter_jit(factor.root_inverse)(columns), columns)
    close(root @ eqx.filter_jit(factor.root_inverse_transposed)(columns), columns)
    close(factor.log_determinant(), np.linalg.slogdet(matrix.astype(float))[1])


@pytest.mark.quick(1)
@pytest.mark.parametrize("mesh", ["explicit", "none", "auto", "square"])
def test_the_root_is_one(mesh):
    check_factor(37, 4, mesh)


@pytest.mark.slow
@hyp.given(
    n=st.integers(1, 70), tile=st.integers(1, 12), mesh=st.sampled_from([*MESHES])
)
@hyp.settings(max_examples=4)
def test_the_root_is_one_in_any_shape(n, tile, mesh):
    check_factor(n, tile, mesh)


@pytest.mark.slow
@over_meshes
def test_one_step_solves_and_determinants_are_exact(mesh):
    operator = split(40, mesh)
    solver = solvers.BlockCG(solvers.Cholesky(operator, tile=3), rtol=small())
    y = jr.normal(jr.key(1), (40, 2), DTYPE)
    solution = eqt.solve(operator, y, solver)
    assert solution.converged
    assert solution.steps <= by_precision(float64=1, float32=2)
    matrix = np.asarray(operator.as_matrix(), float)
    close(solution.value, np.linalg.solve(matrix, np.asarray(y, float)))
    found = solvers.log_determinant(operator, solver, key=jr.key(2))
    exact = np.linalg.slogdet(matrix)[1]
    assert found.mean == pytest.approx(exact, rel=10 * small())
    assert found.standard_error <= 10 * small() * abs(exact)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["none", "auto"])
def test_a_factor_of_other_hyperparameters_is_a_preconditioner(mesh):
    """Values and gradients are of the operator, and not of what was factorised."""
    x, y = batch(32), jr.normal(jr.key(1), (32, 1), DTYPE)

    def operator(width):
        matrix = eqt.gram(network(width), x, mesh=MESHES[mesh]())
        return eqt.GramOperator(matrix, noise=0.1)

    factor = solvers.Cholesky(operator(1.2), tile=4)
    solver = solvers.BlockCG(factor, rtol=by_precision(float64=1e-10, float32=1e-5))
    fit = lambda w: jnp.sum(y * eqt.solve(operator(w), y, solver).value)
    dense = lambda w: jnp.sum(
        y * jnp.linalg.solve(eqt.ntk(network(w), x) + 0.1 * jnp.eye(32), y)
    )
    width = jnp.asarray(1.3, DTYPE)
    found, expected = jax.value_and_grad(fit)(width), jax.value_and_grad(dense)(width)
    np.testing.assert_allclose(
        found, expected, rtol=by_precision(float64=1e-7, float32=1e-2)
    )
    found = solvers.log_determinant(operator(1.3), solver, key=jr.key(2))
    exact = jnp.linalg.slogdet(operator(1.3).as_matrix())[1]
    assert abs(found.mean - exact) <= 5 * found.standard_error + 10 * small()


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["none", "explicit"])
def test_posteriors_are_those_of_matrices(mesh):
    x, y, x_new = batch(24), jr.normal(jr.key(1), (24, 2), DTYPE), batch(5, seed=3)
    operator, cross = split(24, mesh, noise=0.1), laplace(x_new, x)
    solver = solvers.BlockCG(solvers.Cholesky(operator, tile=3), rtol=small())
    found = predict.GaussianProcess(operator, y, solver=solver)
    expected = predict.GaussianProcess(laplace(x, x), y, noise=0.1)
    close(found.mean(cross), expected.mean(cross))
    ones = jnp.ones(5, DTYPE)
    close(found.variance(cross, ones), expected.variance(cross, ones))
    close(found.log_marginal_likelihood(), expected.log_marginal_likelihood())


@pytest.mark.slow
def test_each_device_keeps_its_rows():
    """Parts of others are seen one panel at a time."""
    operator, mesh = split(256, "explicit"), line("explicit")
    factor = solvers.Cholesky(operator, tile=16)
    shards = [shard.data.shape for shard in factor.factor.addressable_shards]
    assert shards == [(256 // mesh.size, 256)] * mesh.size
    inverse = jax.jit(lambda factor, columns: factor.inverse(columns))
    text = inverse.lower(factor, jnp.ones((256, 1), DTYPE)).compile().as_text()
    assert "[256,256]" not in text


def test_what_has_no_factor_is_refused():
    x = jnp.ones((6, 2), DTYPE)
    matrix = laplace(x, x) - 0.5 * jnp.eye(6, dtype=DTYPE)
    with pytest.raises(RuntimeError, match=r"not positive definite.*add noise"):
        solvers.Cholesky(eqt.GramOperator(matrix, noise=0.0))
    with pytest.raises(ValueError, match="two batches"):
        solvers.Cholesky(eqt.GramOperator(laplace(x, x[:3])))
    with pytest.raises(ValueError, match="`tile`"):
        solvers.Cholesky(eqt.GramOperator(laplace(x, x), noise=1.0), tile=0)
