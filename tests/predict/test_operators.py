"""Predictors of kernels that are operators, against those of the matrices."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn, predict, solvers
from precision import DTYPE, by_precision


N, M = 24, 5


def network():
    return nn.Sequential([nn.Linear(8, bias_std=0.3), nn.Relu(), nn.Linear(1)])


@functools.cache
def examples(precision):
    del precision  # arrays have it
    x = jr.normal(jr.key(0), (N, 4), DTYPE)
    new = jr.normal(jr.key(1), (M, 4), DTYPE)
    return x, new, jnp.sin(x[:, :2]) + 1


def predictors(make, precision):
    """By steps, and by the matrix."""
    x, _, y = examples(precision)
    operator = eqt.GramOperator(network(), x, noise=0.1, tile=7)
    preconditioner = eqt.rp_cholesky(operator, 8, jr.key(0))
    rtol = by_precision(float64=1e-9, float32=1e-4)
    by_steps = make(operator, y, solver=solvers.BlockCG(preconditioner, rtol=rtol))
    return by_steps, make(eqt.ntk(network(), x), y, noise=0.1)


def assert_near(found, expected):
    scale = np.abs(expected).max()
    near = by_precision(float64=1e-6, float32=2e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=near * scale)


@pytest.mark.slow
def test_posteriors(precision):
    x, new, _ = examples(precision)
    net = network()
    cross, test = eqt.ntk(net, new, x), eqt.ntk(net, new)
    nngp = [eqt.nngp(net, *xs) for xs in ((x,), (new, x), (new,))]
    by_steps, exactly = predictors(predict.GaussianProcess, precision)
    as_operator = eqt.GramOperator(net, new, x)
    assert_near(by_steps.mean(as_operator), exactly.mean(cross))
    for answer in (
        lambda p: p.weights,
        lambda p: p.mean(cross),
        lambda p: p.covariance(cross, test),
        lambda p: p.variance(cross, jnp.diagonal(test)),
        lambda p: p.sample(cross, test, (3,), key=jr.key(2)),
        lambda p: p.ensemble_covariance(*nngp, cross),
    ):
        assert_near(answer(by_steps), answer(exactly))
    likelihood = by_steps.log_marginal_likelihood()
    expected = exactly.log_marginal_likelihood()
    assert jnp.abs(likelihood - expected) < 0.1 * jnp.abs(expected)


@pytest.mark.slow
def test_training(precision):
    x, new, _ = examples(precision)
    cross = eqt.ntk(network(), new, x)
    by_steps, exactly = predictors(predict.GradientDescentMSE, precision)
    for t in (jnp.inf, jnp.asarray([0.0, 3.0, 100.0, jnp.inf], DTYPE)):
        assert_near(by_steps.weights(t), exactly.weights(t))
        assert_near(by_steps.train_outputs(t), exactly.train_outputs(t))
        expected = exactly.test_outputs(t, cross, 0.5, 0.2)
        assert_near(by_steps.test_outputs(t, cross, 0.5, 0.2), expected)
        as_operator = eqt.GramOperator(network(), new, x)
        assert_near(by_steps.test_outputs(t, as_operator, 0.5, 0.2), expected)
    compiled = eqx.filter_jit(lambda p, t: p.train_outputs(t))(by_steps, t)
    assert_near(compiled, exactly.train_outputs(t))


@pytest.mark.slow
def test_derivatives_of_the_end(precision):
    x, new, y = examples(precision)
    rtol = by_precision(float64=1e-9, float32=1e-4)

    def by_steps(noise, y):
        operator = eqt.GramOperator(network(), x, noise=noise)
        posterior = predict.GaussianProcess(
            operator, y, solver=solvers.BlockCG(rtol=rtol)
        )
        return jnp.sum(posterior.mean(eqt.GramOperator(network(), new, x)) ** 2)

    def exactly(noise, y):
        posterior = predict.GaussianProcess(eqt.ntk(network(), x), y, noise=noise)
        return jnp.sum(posterior.mean(eqt.ntk(network(), new, x)) ** 2)

    noise = jnp.asarray(0.3, DTYPE)
    found, expected = (
        jax.jit(jax.grad(f, (0, 1)))(noise, y) for f in (by_steps, exactly)
    )
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b)


def operator_of(noise=0.1):
    return eqt.GramOperator(jnp.eye(4, dtype=DTYPE), noise=noise)


GP, MSE = predict.GaussianProcess, predict.GradientDescentMSE
Y = np.ones(4, np.float32)
REFUSED = [
    (lambda: GP(operator_of(), Y, noise=0.1), ValueError, "has its own"),
    (lambda: GP(operator_of(0.0), Y), RuntimeError, "without noise"),
    (lambda: GP(eqt.GramOperator(jnp.eye(4)), Y), ValueError, "without noise"),
    (lambda: GP(operator_of(), Y[:3]), ValueError, "`y_train` has shape"),
    (lambda: GP(jnp.eye(4), Y, solver=solvers.BlockCG()), ValueError, "factorised"),
    (lambda: MSE(jnp.eye(4), Y, solver=solvers.BlockCG()), ValueError, "factorised"),
    (lambda: GP(operator_of(), Y).leave_one_out(), ValueError, "as a matrix"),
    (lambda: MSE(operator_of(), Y).spectrum, ValueError, "as a matrix"),
    (
        lambda: GP(operator_of(), Y).condition(
            jnp.ones((1, 4)), jnp.ones((1, 1)), Y[:1]
        ),
        ValueError,
        "as a matrix",
    ),
    (
        lambda: GP(operator_of(), Y).mean(eqt.GramOperator(jnp.ones((2, 3)))),
        ValueError,
        "training examples",
    ),
    (
        lambda: predict.GradientDescent(
            predict.cross_entropy, operator_of(), np.ones((4, 2), np.float32)
        ),
        ValueError,
        "a matrix is needed",
    ),
]


@pytest.mark.precision("float64")
@pytest.mark.parametrize(("make", "error", "match"), REFUSED)
def test_refusals(make, error, match, without_jaxtyping):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.slow
def test_what_does_not_settle_is_refused():
    values = jnp.linspace(1.0, 100.0, 40, dtype=DTYPE)
    operator = eqt.GramOperator(jnp.diag(values), noise=1e-3)
    y = jnp.ones(40, DTYPE)
    few = solvers.BlockCG(rtol=1e-3, max_steps=10)
    training = predict.GradientDescentMSE(operator, y, solver=few)
    with pytest.raises(RuntimeError, match="did not settle"):
        training.weights(30.0)
    with pytest.raises(RuntimeError, match="did not converge"):
        training.weights(jnp.inf)
