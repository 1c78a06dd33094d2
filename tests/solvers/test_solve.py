"""Solutions, preconditioners, and what is said of them."""

import equinox as eqx
import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from sklearn.datasets import load_digits

import eqtangents as eqt
from eqtangents import nn, solvers
from eqtangents.solvers import _pivots
from precision import DTYPE, by_precision
from solver_problems import batch, condition_number, decaying, laplace, targets


def small():
    return by_precision(float64=1e-9, float32=1e-4)


def relative(found, expected):
    return jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)


@pytest.mark.slow
@hyp.given(seed=st.integers(0, 100), rank=st.integers(0, 4))
@hyp.settings(max_examples=4)
@pytest.mark.parametrize("preconditioned", [True, False])
def test_it_solves(seed, rank, preconditioned):
    check_solution(20, 5, rank, preconditioned, seed)


@pytest.mark.slow
@hyp.given(
    n=st.integers(1, 30),
    columns=st.integers(0, 12),
    rank=st.integers(0, 4),
    preconditioned=st.booleans(),
)
@hyp.settings(max_examples=20)
def test_it_solves_in_any_shape(n, columns, rank, preconditioned):
    check_solution(n, columns, rank, preconditioned)


def check_solution(n, columns, rank, preconditioned, seed=0):
    operator, y = decaying(n, seed), targets(n, columns, rank)
    solver = solvers.BlockCG(
        eqt.rp_cholesky(operator, 1 + n // 3, jr.key(0)) if preconditioned else None,
        rtol=small(),
    )
    found = eqt.solve(operator, y, solver)
    expected = jnp.linalg.solve(operator.as_matrix(), y)
    scale = jnp.max(jnp.abs(expected), initial=1e-9)
    np.testing.assert_allclose(
        found.value / scale, expected / scale, atol=100 * small()
    )
    residual = jnp.linalg.norm(y - operator.multiply(found.value), axis=0)
    size = jnp.linalg.norm(y, axis=0)
    # Of the order of what rounding makes of the product.
    unit = float(jnp.finfo(y.dtype).eps) * jnp.linalg.norm(operator.as_matrix())
    rounding = n * unit * jnp.max(jnp.linalg.norm(found.value, axis=0), initial=0)
    np.testing.assert_allclose(found.residual * size, residual, atol=rounding)
    assert found.converged


@pytest.mark.slow
@hyp.given(seed=st.integers(0, 100))
@hyp.settings(max_examples=4)
@pytest.mark.parametrize("columns", [4, 9])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_a_block_takes_no_more_steps_than_its_columns(preconditioned, columns, seed):
    """Neither does one whose columns depend on each other, as centred labels do."""
    n = 120
    operator = decaying(n, seed)
    chosen = eqt.rp_cholesky(operator, 10, jr.key(seed)) if preconditioned else None
    solver = solvers.BlockCG(chosen, rtol=by_precision(float64=1e-6, float32=1e-3))
    labels = jr.randint(jr.key(seed), (n,), 0, columns)
    y = jax.nn.one_hot(labels, columns, dtype=DTYPE)
    y = y - jnp.mean(y, axis=0)[None]
    assert jnp.linalg.matrix_rank(y) < columns
    steps = lambda y: eqt.solve(operator, y, solver).steps
    alone = [steps(y[:, [j]]) for j in range(columns)]
    independent = steps(y[:, 1:])
    assert steps(y) <= min(max(alone), independent + 1)


@pytest.mark.slow
def test_digits_take_few_steps():
    """Ten centred labels, of rank nine, at once; and the worst of them alone."""
    images, labels = load_digits(return_X_y=True)
    x = jnp.asarray(images / 16 - np.mean(images / 16, axis=0), DTYPE)
    hidden = [nn.Linear(1, weight_std=2**0.5), nn.Relu()]
    kernel = eqt.ntk(nn.Sequential([*hidden * 3, nn.Linear(1)]), x)
    operator = eqt.GramOperator(kernel, relative_noise=1e-2)
    y = jax.nn.one_hot(labels, 10, dtype=DTYPE)
    y = y - jnp.mean(y, axis=0)[None]
    chosen = eqt.rp_cholesky(operator, len(y) // 6, jr.key(0))
    rtol, most = by_precision(float64=(1e-6, 30), float32=(1e-3, 18))
    solver = solvers.BlockCG(chosen, rtol=rtol)
    steps = lambda y: eqt.solve(operator, y, solver).steps
    alone = max(steps(y[:, [j]]) for j in range(10))
    assert steps(y) <= alone <= most


@pytest.mark.slow
def test_shapes_of_targets_are_kept():
    operator = decaying(6)
    solver = solvers.BlockCG(rtol=small())
    y = targets(6, 4, 4)
    found = eqt.solve(operator, y.reshape(6, 2, 2), solver)
    expected = eqt.solve(operator, y, solver)
    np.testing.assert_array_equal(found.value.reshape(6, 4), expected.value)
    assert found.residual.shape == (2, 2)
    one = eqt.solve(operator, y[:, 0], solver)
    assert one.value.shape == (6,)
    assert one.residual.shape == ()


@pytest.mark.slow
def test_other_operators_are_solved_with():
    model = lambda p, x: jnp.sin(x @ p)
    operator = eqt.NTKOperator(model, batch(4), params=jnp.ones(4, DTYPE))
    noisy = operator + lx.IdentityLinearOperator(operator.in_structure())
    noisy = lx.TaggedLinearOperator(noisy, lx.positive_semidefinite_tag)
    y = targets(4, 2, 2)
    found = eqt.solve(noisy, y, solvers.BlockCG(rtol=small()))
    assert relative(noisy.as_matrix() @ found.value, y) < 10 * small()


@pytest.mark.slow
def test_derivatives_are_those_of_the_inverse():
    x, y = batch(8), targets(8, 2, 2)
    solver = solvers.BlockCG(rtol=small())

    def value(parts, solved):
        return jnp.sum(jnp.sin(solved(*parts)))

    def by_steps(kernel, y, noise):
        operator = eqt.GramOperator(kernel, x, noise=noise, tile=3)
        return eqt.solve(operator, y, solver).value

    def directly(kernel, y, noise):
        return jnp.linalg.solve(kernel(x, x) + noise * jnp.eye(8, dtype=DTYPE), y)

    slope = eqx.filter_jit(eqx.filter_grad(value))
    kernel = eqx.Partial(laplace, rate=jnp.ones((), DTYPE))
    parts = kernel, y, jnp.asarray(0.5, DTYPE)
    found, expected = (slope(parts, f) for f in (by_steps, directly))
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert relative(a, b) < 100 * small()


@pytest.mark.slow
def test_what_does_not_converge_is_said_to():
    operator, y = decaying(60, power=3.0, noise=1e-6), targets(60, 2, 2)
    few = solvers.BlockCG(rtol=1e-6, max_steps=5)
    with pytest.raises(RuntimeError, match="after 5 of at most 5 steps"):
        eqt.solve(operator, y, few)
    with pytest.raises(RuntimeError, match="did not converge"):
        jax.block_until_ready(jax.jit(lambda y: eqt.solve(operator, y, few).value)(y))
    found = eqt.solve(operator, y, few, throw=False)
    assert not found.converged
    assert found.steps == 5
    true = jnp.linalg.norm(y - operator.multiply(found.value), axis=0)
    true = true / jnp.linalg.norm(y, axis=0)
    np.testing.assert_allclose(found.residual, true, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.precision("float32")
@pytest.mark.parametrize("power", [2.0, 3.0])
def test_rounding_that_keeps_it_from_converging_is_seen(power):
    """It stops where rounding lets it get to, and long before it has no steps left."""
    n = 100
    operator, y = decaying(n, power=power, noise=1e-3), targets(n, 2, 2)
    preconditioner = eqt.rp_cholesky(operator, 20, jr.key(0))
    by = solvers.BlockCG(preconditioner, rtol=1e-7, max_steps=10_000)
    found = eqt.solve(operator, y, by, throw=False)
    assert not found.converged
    assert found.steps < 500
    matrix, value = (
        np.asarray(a, np.float64) for a in (operator.as_matrix(), found.value)
    )
    size = np.linalg.norm(y, axis=0)
    true = np.linalg.norm(y - matrix @ value, axis=0) / size
    # The recursion alone would say that it had converged.
    rounding = jnp.finfo(jnp.float32).eps * n * np.linalg.norm(value, axis=0) / size
    assert np.all(true < rounding)
    assert np.all(np.abs(found.residual - true) < rounding)
    with pytest.raises(RuntimeError, match="did not converge"):
        eqt.solve(operator, y, by)


@pytest.mark.slow
@pytest.mark.precision("float32")
def test_what_rounding_makes_hopeless_ends_at_once():
    """Where an error is wanted; else it goes on for the best solution there is."""
    operator, y = decaying(400, power=3.0, noise=1e-6), targets(400, 2, 2)
    with pytest.raises(RuntimeError, match=r"after (30|60) of at most 500 steps"):
        eqt.solve(operator, y)
    assert eqt.solve(operator, y, throw=False).steps > 60


@pytest.mark.slow
@hyp.given(
    seed=st.integers(0, 100),
    power=st.floats(1, 3),
    noise=st.sampled_from([1e-2, 1e-3, 1e-4, 1e-5, 1e-6]),
    rtol=st.sampled_from([1e-2, 1e-3, 1e-4]),
    preconditioned=st.booleans(),
)
@hyp.settings(max_examples=40)
@pytest.mark.precision("float32")
def test_nothing_is_given_up_that_converges(seed, power, noise, rtol, preconditioned):
    operator, y = decaying(100, seed, power, noise), targets(100, 2, 2, seed)
    chosen = eqt.rp_cholesky(operator, 20, jr.key(seed)) if preconditioned else None
    solver = solvers.BlockCG(chosen, rtol=rtol)
    found = eqt.solve(operator, y, solver, throw=False)
    if found.converged:
        np.testing.assert_array_equal(eqt.solve(operator, y, solver).value, found.value)


@pytest.mark.quick(1)
@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize(("n", "rank"), [(5, 3), (2, 4), (1, 1)])
def test_low_rank_algebra(n, rank, each):
    factor = 3 * jr.normal(jr.key(0), (n, rank), DTYPE)
    diagonal = jnp.linspace(0.1, 2, n, dtype=DTYPE) if each else 0.3
    p = solvers.LowRank(factor, diagonal)
    eye = jnp.eye(n, dtype=DTYPE)
    matrix = factor @ factor.T + jnp.diag(jnp.broadcast_to(diagonal, (n,)))
    near = {"atol": by_precision(float64=1e-9, float32=2e-2)}
    np.testing.assert_allclose(p.multiply(eye), matrix, **near)
    np.testing.assert_allclose(p.inverse(matrix), eye, **near)
    np.testing.assert_allclose(p.root(eye) @ p.root(eye).T, matrix, **near)
    np.testing.assert_allclose(p.root_inverse_transposed(p.root(eye)), eye, **near)
    np.testing.assert_allclose(
        p.root_inverse(eye), p.root_inverse_transposed(eye).T, **near
    )
    log_det = jnp.linalg.slogdet(matrix)[1]
    np.testing.assert_allclose(p.log_determinant(), log_det, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("choose", [eqt.rp_cholesky, solvers.nystroem])
def test_a_kernel_of_low_rank_is_found_whole(choose):
    factor = jr.normal(jr.key(0), (30, 5), DTYPE)
    kernel = factor @ factor.T
    found = choose(eqt.GramOperator(kernel, noise=1e-3), 12, jr.key(1))
    approximate = found.factor @ found.factor.T
    assert found.factor.shape == (30, 12)
    assert relative(approximate, kernel) < by_precision(float64=1e-7, float32=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("choose", [eqt.rp_cholesky, solvers.nystroem])
def test_what_is_left_is_a_kernel(choose):
    noise = 0.01
    operator = eqt.GramOperator(laplace, batch(40), noise=noise)
    found = choose(operator, 16, jr.key(0))
    kernel = operator.backing.formed()
    left = jnp.linalg.eigvalsh(kernel - found.factor @ found.factor.T)
    assert condition_number(found, operator) < 1.001 * (1 + left[-1] / noise)
    assert left[0] > -by_precision(float64=1e-10, float32=1e-3)
    assert jnp.sum(left) < 0.8 * jnp.trace(kernel)
    np.testing.assert_allclose(found.diagonal, noise + jnp.mean(left), rtol=1e-3)
    assert jnp.linalg.matrix_rank(found.factor) == 16


@pytest.mark.slow
def test_candidates_in_blocks_are_as_pivots_one_by_one(monkeypatch):
    """The mean of the approximation over many runs, against that of all its pivots."""
    monkeypatch.setattr(_pivots, "SHARE", 1)  # two candidates at a time
    root = jnp.asarray([[2, 0, 0], [1.9, 0.3, 0], [0.2, 0.1, 1]], DTYPE)
    kernel = root @ root.T
    operator = eqt.GramOperator(kernel, noise=1.0)
    keys = jr.split(jr.key(0), 4000)
    factors = jax.jit(jax.vmap(lambda key: eqt.rp_cholesky(operator, 2, key).factor))(
        keys
    )
    found = jnp.einsum("kir,kjr->kij", factors, factors)
    expected = np.zeros((3, 3))
    whole = np.asarray(kernel, np.float64)
    for first in range(3):
        taken = np.outer(whole[first], whole[first]) / whole[first, first]
        left = whole - taken
        p = whole[first, first] / np.trace(whole)
        for second in {0, 1, 2} - {first}:
            q = left[second, second] / np.trace(left)
            more = np.outer(left[second], left[second]) / left[second, second]
            expected += p * q * (taken + more)
    error = jnp.std(found, axis=0) / len(keys) ** 0.5
    assert jnp.all(jnp.abs(found.mean(0) - expected) < 5 * error + 1e-5)


REFUSED = [
    (lambda op, y: eqt.solve(op, y[:2]), ValueError, "`y` has shape"),
    (lambda op, y: eqt.solve(op.as_matrix(), y), TypeError, "must be an operator"),
    (
        lambda op, y: eqt.solve(eqt.GramOperator(op.as_matrix()), y),
        ValueError,
        "positive",
    ),
    (lambda op, y: eqt.solve(op, y, lx.CG(1.0, 1.0)), TypeError, "`solver`"),
    (lambda op, y: solvers.BlockCG(op), TypeError, "`preconditioner`"),
    (lambda op, y: solvers.BlockCG(rtol=2.0), ValueError, "`rtol`"),
    (lambda op, y: solvers.BlockCG(max_steps=0), ValueError, "`max_steps`"),
    (lambda op, y: eqt.rp_cholesky(op, 0, jr.key(0)), ValueError, "`rank`"),
    (lambda op, y: eqt.rp_cholesky(op, 4, jr.key(0)), ValueError, "3 columns"),
    (lambda op, y: eqt.rp_cholesky(op, 1, 0), TypeError, "`key`"),
    (lambda op, y: eqt.rp_cholesky(y, 1, jr.key(0)), TypeError, "GramOperator"),
    (lambda op, y: solvers.LowRank(y, 0.0), RuntimeError, "positive"),
]


@pytest.mark.precision("float64")
@pytest.mark.parametrize(("make", "error", "match"), REFUSED)
def test_refusals(make, error, match, without_jaxtyping):
    with pytest.raises(error, match=match):
        make(decaying(3), targets(3, 2, 2))
