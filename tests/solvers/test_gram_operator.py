"""Operators of kernels: whatever backs them, they are the matrix."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents.solvers import _backing
from precision import DTYPE, by_precision
from solver_problems import OPERATORS, batch, laplace, network, never_formed


over_backings = pytest.mark.parametrize(
    "make", OPERATORS.values(), ids=OPERATORS.keys()
)


def assert_close(found, expected):
    tolerance = by_precision(float64=1e-11, float32=2e-5)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.slow
@over_backings
def test_it_is_the_matrix(make, tmp_path, monkeypatch):
    monkeypatch.setattr(_backing, "STRIP_BYTES", 300)  # a few rows
    x, noise = batch(10), jnp.linspace(0.1, 1, 10, dtype=DTYPE)
    operator = make(tmp_path, x, noise=noise, relative_noise=0.1)
    kernel = laplace(x, x)
    matrix = kernel + jnp.diag(noise + 0.1 * jnp.mean(jnp.diagonal(kernel)))
    v = jr.normal(jr.key(1), (10, 3), DTYPE)
    product = eqx.filter_jit(lambda operator, v: operator.multiply(v))
    assert_close(product(operator, v), matrix @ v)
    assert_close(jax.vmap(operator.mv, 1, 1)(v), matrix @ v)
    assert_close(lx.materialise(operator).as_matrix(), matrix)
    assert_close(lx.diagonal(operator), jnp.diagonal(matrix))
    chosen = jnp.array([7, 0, 7])
    assert_close(operator.backing.columns(chosen), kernel[:, chosen])
    assert lx.is_symmetric(operator)
    assert lx.is_positive_semidefinite(operator)
    assert operator.T is operator


@pytest.mark.slow
@over_backings
def test_it_is_the_matrix_of_two_batches(make, tmp_path, monkeypatch):
    monkeypatch.setattr(_backing, "STRIP_BYTES", 300)
    x1, x2 = batch(7), batch(9, 1)
    operator = make(tmp_path, x1, x2)
    matrix = laplace(x1, x2)
    v, w = jr.normal(jr.key(1), (9, 2), DTYPE), jr.normal(jr.key(2), (7,), DTYPE)
    assert operator.shape == (7, 9)
    assert_close(operator.multiply(v), matrix @ v)
    assert_close(operator.T.mv(w), matrix.T @ w)
    assert_close(operator.as_matrix(), matrix)
    assert_close(operator.T.as_matrix(), matrix.T)
    assert_close(lx.diagonal(operator), jnp.diagonal(matrix))
    for found, offset in zip(lx.tridiagonal(operator), (0, -1, 1), strict=True):
        assert_close(found, jnp.diagonal(matrix, offset))
    assert_close(operator.T.backing.columns(jnp.array([5, 1])), matrix.T[:, [5, 1]])
    assert not lx.is_symmetric(operator)


# Lineax takes preconditioners for vectors that lie on no explicit mesh.
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in OPERATORS if "explicit" not in n])
def test_lineax_solves_with_it(name, tmp_path):
    operator = OPERATORS[name](tmp_path, batch(10), noise=1.0)
    y = jr.normal(jr.key(1), (10,), DTYPE)
    expected = np.linalg.solve(operator.as_matrix(), y)
    small = by_precision(float64=1e-12, float32=1e-6)
    preconditioner = eqt.rp_cholesky(operator, 4, jr.key(0))
    options = {"preconditioner": preconditioner.inverse_operator()}
    found = lx.linear_solve(operator, y, lx.CG(small, small), options=options).value
    assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "trainable",
    [None, lambda parameter: parameter.ndim > 1],
)
def test_it_is_that_of_a_network(trainable):
    """Of a tile it is told which pairs are one example."""
    x, v = batch(7), jr.normal(jr.key(1), (7, 2), DTYPE)
    operator = eqt.GramOperator(network(), x, tile=3, trainable=trainable, noise=0.0)
    matrix = eqt.ntk(network(), x, trainable=trainable)
    assert_close(operator.multiply(v), matrix @ v)
    assert_close(lx.diagonal(operator), jnp.diagonal(matrix))


@pytest.mark.quick(1)
@pytest.mark.parametrize("mesh", [False, True])
@pytest.mark.parametrize("of_network", [False, True])
def test_derivatives_are_those_of_the_matrix(of_network, mesh):
    x, v = batch(7), jr.normal(jr.key(1), (7, 2), DTYPE)
    options = {"mesh": jax.make_mesh((4,), ("d",))} if mesh else {}
    kernel = network() if of_network else eqx.Partial(laplace, rate=jnp.ones(()))

    def value(kernel_and_columns, product):
        kernel, v = kernel_and_columns
        return jnp.sum(jnp.sin(product(kernel, v)))

    def by_tiles(kernel, v):
        return eqt.GramOperator(kernel, x, tile=3, noise=0.5, **options).multiply(v)

    def by_matrix(kernel, v):
        return eqt.gram(kernel, x) @ v + 0.5 * v

    slope = eqx.filter_jit(eqx.filter_grad(value))
    found, expected = (slope((kernel, v), f) for f in (by_tiles, by_matrix))
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert_close(a, b)


def test_products_do_not_form_the_matrix():
    """Memory of a product is that of tiles and columns."""
    x, n = batch(400), 400
    operator = eqt.GramOperator(laplace, x, tile=20)
    compiled = jax.jit(lambda v: operator.multiply(v))
    compiled = compiled.lower(jnp.ones((n, 1), DTYPE)).compile()
    whole = n * n * np.dtype(operator.dtype).itemsize
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 4


REFUSED = [
    (lambda x: eqt.GramOperator(network()), TypeError, "without `x1`"),
    (lambda x: eqt.GramOperator(eqt.ntk(network(), x), x), TypeError, "comes alone"),
    (lambda x: eqt.GramOperator(eqt.kernel(network(), x)), ValueError, r"`\.ntk`"),
    (lambda x: eqt.GramOperator(network(), x, kind="both"), ValueError, "one"),
    (lambda x: eqt.GramOperator(jnp.ones((2, 2, 2))), ValueError, "readout"),
    (lambda x: eqt.GramOperator(network(), x, x, noise=1.0), ValueError, "two"),
    (lambda x: eqt.GramOperator(network(), x, noise=x), ValueError, "`noise` has"),
    (lambda x: eqt.GramOperator(network(), x, noise=-1.0), RuntimeError, "variances"),
    (lambda x: eqt.GramOperator(jnp.ones((2, 2)), tile=1), ValueError, "`tile`"),
    (lambda x: eqt.GramOperator(network(), x, mesh=4), TypeError, "`mesh`"),
    (lambda x: eqt.GramOperator(network(), x, tile=0), ValueError, "`tile`"),
]


@pytest.mark.precision("float64")
@pytest.mark.parametrize(("make", "error", "match"), REFUSED)
def test_refusals(make, error, match, without_jaxtyping):
    with pytest.raises(error, match=match):
        make(batch(3))


def test_a_square_matrix_of_two_batches_is_not_symmetric():
    x1, x2 = batch(5), batch(5, 1)
    for operator in (
        eqt.GramOperator(laplace, x1, x2),
        eqt.GramOperator(laplace(x1, x2)),
    ):
        assert not lx.is_symmetric(operator)
        assert_close(operator.T.as_matrix(), operator.as_matrix().T)
    assert lx.is_symmetric(never_formed()(None, x1))
