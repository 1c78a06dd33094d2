"""Functions of a kernel by solves and products are those by eigenvectors."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import predict
from eqtangents.predict._chebyshev import approximated
from eqtangents.predict._spectrum import least_eigenvalue
from precision import DTYPE, by_precision
from predict_problems import assert_close, problem


N, OUTPUTS = 150, 2  # for which so many as 27 products are less work


def _kernel(seed, smallest, rank=N + 5):
    """Eigenvalues from 1 down to `smallest` on a logarithmic scale, or to zero."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.standard_normal((N + 5, N + 5)))[0]
    values = np.geomspace(1, smallest, N + 5) * (np.arange(N + 5) < rank)
    joint = (vectors * values) @ vectors.T
    joint = jnp.asarray((joint + joint.T) / 2, DTYPE)
    y = jnp.asarray(rng.standard_normal((N, OUTPUTS)), DTYPE)
    return joint[:N, :N], y, joint[N:, :N]


def _by_eigenvectors(training, t, k_star):
    """What the eigenvectors say, whichever way is taken otherwise."""
    gain = training.gain(jnp.asarray([t], DTYPE))
    return k_star @ training.spectrum.apply(gain, training.data.targets)[0]


CASES = {
    "well conditioned": (0.1, N + 5, 0.0),
    "ill conditioned": (1e-3, N + 5, 0.0),
    "ill conditioned, noise": (1e-6, N + 5, 1e-2),
    "rank-deficient, noise": (1e-2, 40, 1e-2),
    "rank-deficient": (1e-2, 40, 0.0),
}
TIMES = (0.0, 0.1, 3.0, 30.0, 3e3, 1e7, jnp.inf)  # in units of the fastest direction


@pytest.mark.parametrize("times", [1, 50])
@pytest.mark.parametrize("products", [27, 512])
def test_what_is_not_a_number_is_no_polynomial(times, products):
    low, high = jnp.asarray([0.1, 1.0], DTYPE)
    for first in (0.0, 0.5):  # everywhere, or at some eigenvalues
        gain = lambda values, first=first: jnp.where(
            values > first, jnp.nan, jnp.ones((times, 1), DTYPE)
        )
        assert not approximated(gain, low, high, products).enough


@pytest.mark.parametrize("n", [3, 5000])
def test_eigenvalues_that_were_not_found_have_no_least_one(n):
    assert jnp.isnan(least_eigenvalue(jnp.full(n, jnp.nan, DTYPE)))
    assert least_eigenvalue(jnp.arange(1, n, dtype=DTYPE)) == 1
    assert least_eigenvalue(jnp.zeros(0, DTYPE)) == jnp.inf


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
def test_all_ways_agree(name, compiled):
    smallest, rank, noise = CASES[name]
    k, y, k_star = _kernel(0, smallest, rank)

    def outputs(k, t):
        training = predict.GradientDescentMSE(k, y, noise=noise)
        return training.test_outputs(t, k_star), training.train_outputs(t)

    training = predict.GradientDescentMSE(k, y, noise=noise)
    run = jax.jit(outputs) if compiled else outputs
    rtol = by_precision(float64=1e-10, float32=5e-3)
    for t in TIMES:
        tested, trained = run(k, jnp.asarray(t * y.size, DTYPE))
        assert_close(tested, _by_eigenvectors(training, t * y.size, k_star), rtol)
        assert_close(trained, _by_eigenvectors(training, t * y.size, k), rtol)


@pytest.mark.slow
def test_each_way_is_taken():
    k, y, _ = _kernel(0, 0.1)
    noisy = predict.GradientDescentMSE(k, y).noisy_kernel
    assert noisy.definite

    def way(*times):
        gain = predict.Gain(predict.GradientFlow(), jnp.asarray(times, DTYPE), y.size)
        approximation = noisy.approximation(gain, OUTPUTS)
        if not approximation.enough:
            return "eigenvectors"
        return "solve" if approximation.inverse.all() else "products"

    end, early, late = jnp.inf, 0.3 * y.size, 3e4 * y.size
    assert way(end) == way(end, late) == "solve"
    assert way(early) == way(0.0) == way(early, end) == "products"
    assert way(70.0 * y.size) == "eigenvectors"
    k, y, _ = _kernel(0, 1e-2, 40)
    assert not predict.GradientDescentMSE(k, y).noisy_kernel.definite


def test_a_diverging_end_is_not_a_solve():
    k, y, _ = _kernel(0, 0.1)
    rule = predict.GradientSteps(3.0 * y.size)
    training = predict.GradientDescentMSE(k, y, rule=rule)
    assert not training.noisy_kernel.approximation(
        training.gain(jnp.asarray([jnp.inf], DTYPE)), OUTPUTS
    ).enough


def _outside_of_branches(program):
    """The instructions of a program that are not in a branch of a conditional."""
    bodies = dict(
        re.findall(r"^(?:ENTRY )?%?([\w.-]+) [^\n]*{\n(.*?)^}", program, re.M | re.S)
    )
    entry = re.search(r"^ENTRY %?([\w.-]+)", program, re.M)[1]
    found, waiting = {}, [entry]
    while waiting:
        name = waiting.pop()
        lines = [li for li in bodies[name].splitlines() if " conditional(" not in li]
        found[name] = "\n".join(lines)
        called = re.findall(
            r"(?:calls|to_apply|body|condition)=%?([\w.-]+)", found[name]
        )
        waiting += [c for c in called if c in bodies and c not in found]
    return "\n".join(found.values())


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["mse", "ensemble"])
def test_the_end_needs_eigenvectors_in_a_branch_at_most(name):
    k, y, k_star = _kernel(0, 0.1)

    def end(k):
        if name == "mse":
            training = predict.GradientDescentMSE(k, y, relative_noise=1e-3)
            return training.test_outputs(jnp.inf, k_star)
        ensemble = predict.Ensemble(eqt.Kernel(k, k), y, relative_noise=1e-3)
        star = eqt.Kernel(k_star, k_star)
        return ensemble.covariance(jnp.inf, star, jnp.eye(5, dtype=DTYPE))

    program = jax.jit(end).lower(k).compile().as_text()
    large = rf"\[{N},{N}\][^\n]*custom-call[^\n]*syevd"
    assert re.search(large, program)
    assert not re.search(large, _outside_of_branches(program))
    assert "potrf" in _outside_of_branches(program)


@pytest.mark.slow
def test_eigenvectors_are_computed_once():
    k, y, k_star = _kernel(0, 0.1)
    training = predict.GradientDescentMSE(k, y)
    first = training.spectrum.vectors
    assert training.spectrum.vectors is first
    copied = jax.tree.map(lambda x: x, training)
    assert copied.spectrum.vectors is first
    compiled = eqx.filter_jit(lambda t: training.test_outputs(t, k_star))
    assert_close(compiled(70.0 * y.size), training.test_outputs(70.0 * y.size, k_star))


@pytest.mark.slow
@pytest.mark.precision("float64")  # finite differences need it
@pytest.mark.parametrize("t", [0.3, 70.0, jnp.inf])
@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
def test_gradients_are_those_of_finite_differences(t, compiled):
    k, y, k_star = _kernel(0, 0.1)
    factor = jr.normal(jr.key(1), k.shape, DTYPE) / N
    move = factor + factor.T

    def criterion(step):
        training = predict.GradientDescentMSE(
            k + step * move, (1 + step) * y, noise=0.01 * (1 + step)
        )
        return jnp.sum(jnp.sin(training.test_outputs(t * y.size, k_star)))

    run = jax.jit if compiled else lambda f: f
    gradient = run(jax.grad(criterion))(jnp.asarray(0.0, DTYPE))
    step = 1e-5
    difference = (criterion(step) - criterion(-step)) / (2 * step)
    np.testing.assert_allclose(gradient, difference, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.precision("float64")
def test_the_end_has_a_derivative_in_weight_decay():
    # It is the inverse to rounding without any, but moves with it.
    k, y, k_star = _kernel(0, 0.1)

    def criterion(decay):
        rule = predict.GradientFlow(weight_decay=decay)
        training = predict.GradientDescentMSE(k, y, rule=rule)
        return jnp.sum(training.test_outputs(jnp.inf, k_star))

    step = 1e-7
    difference = (criterion(step) - criterion(0.0)) / step
    gradient = jax.grad(criterion)(jnp.asarray(0.0, DTYPE))
    np.testing.assert_allclose(gradient, difference, rtol=1e-3)


@pytest.mark.slow
def test_batches_of_kernels_take_all_ways():
    # One of them is singular: what is not used of it must not spoil its gradient.
    good, y, k_star = _kernel(0, 0.1)
    singular, _, _ = _kernel(1, 1e-2, 40)
    both = jnp.stack([good, singular])

    def criterion(k):
        training = predict.GradientDescentMSE(k, y)
        return jnp.sum(
            training.test_outputs(jnp.asarray([3.0, jnp.inf], DTYPE), k_star)
        )

    rtol = by_precision(float64=1e-8, float32=5e-2)
    for transform in (lambda f: f, jax.grad):
        found = jax.vmap(transform(criterion))(both)
        assert np.isfinite(found).all()
        for one, k in zip(found, both, strict=True):
            assert_close(one, transform(criterion)(k), rtol)


def test_an_ensemble_in_the_end_is_that_of_eigenvectors(getkey):
    k, y, k_star, k_test = problem(getkey())
    kernels = eqt.Kernel(k, k + jnp.eye(6, dtype=DTYPE))
    star = eqt.Kernel(k_star, k_star)
    for trained in ("all", "last"):
        ensemble = predict.Ensemble(kernels, y, trained=trained, noise=0.1)
        end = ensemble.covariance(jnp.inf, star, k_test)
        training = ensemble.training
        solved = np.linalg.solve(
            np.asarray(training.spectrum.matrix, float), np.asarray(k_star, float).T
        )
        half = (np.asarray(k) @ solved / 2 - np.asarray(k_star).T).T @ solved
        assert_close(
            end,
            np.asarray(k_test) + half + half.T,
            10 * by_precision(float64=1e-10, float32=2e-4),
            scale=1.0,
        )
