"""Laws of spectra, learning curves and parameters."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings

import eqtangents as eqt
from eqtangents import nn, theory


pytestmark = pytest.mark.precision("float64")


def network(function, depth=1):
    hidden = [nn.Linear(1), function] * depth
    return nn.Sequential([*hidden, nn.Linear(1)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_modes_on_a_sphere_add_up_to_the_kernel(kind):
    dim, degrees = 5, 40
    net = network(nn.Erf())
    modes = theory.modes_on_sphere(net, dim, degrees, kind=kind)
    x = jr.normal(jr.key(0), (7, dim))
    x *= jnp.sqrt(dim) / jnp.linalg.norm(x, axis=1, keepdims=True)
    kernel = getattr(eqt, kind)(net, x)
    np.testing.assert_allclose(modes.tail, 0, atol=1e-9)
    np.testing.assert_allclose(
        modes.eigenvalues @ modes.multiplicities, kernel[0, 0], rtol=1e-9
    )
    # Addition theorem: a target of one centre is one column of the kernel.
    powers = theory.power_on_sphere(modes, jnp.ones(1), x[:1])
    np.testing.assert_allclose(
        powers, modes.eigenvalues**2 * modes.multiplicities, rtol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_multiplicities_count_harmonics(dim):
    modes = theory.modes_on_sphere(network(nn.Erf()), dim, 4)
    second = dim * (dim + 1) / 2 - 1
    np.testing.assert_allclose(modes.multiplicities[:3], [1, dim, second])


@pytest.mark.slow
def test_odd_degrees_of_relu_have_no_eigenvalue():
    modes = theory.modes_on_sphere(network(nn.Relu()), 10, 8)
    assert jnp.all(modes.eigenvalues[jnp.array([0, 1, 2, 4, 6])] > 0)
    np.testing.assert_allclose(modes.eigenvalues[jnp.array([3, 5, 7])], 0, atol=1e-8)


spectra = st.lists(st.floats(1e-4, 10.0), min_size=4, max_size=4)


def curve_of(values, *, ridge=0.0, noise=0.0, tail=0.0):
    values = jnp.array(values)
    counts = jnp.arange(1.0, 1 + values.shape[0])
    modes = theory.KernelModes(values, counts, jnp.asarray(tail))
    power = jnp.sqrt(values)
    return theory.LearningCurve(modes, power, ridge=ridge, noise=noise)


@settings(max_examples=20)
@given(spectra, st.floats(0.0, 2.0), st.floats(0.0, 1.0), st.floats(0.1, 0.9))
def test_learnability_is_conserved(values, ridge, tail, part):
    curve = curve_of(values, ridge=ridge, tail=tail)
    n = part * float(curve.modes.multiplicities.sum())
    learned = curve.learnability(n) @ curve.modes.multiplicities
    rest = (ridge + tail) / curve.kappa(n)
    np.testing.assert_allclose(learned + rest, n, rtol=1e-10)


@pytest.mark.slow
@settings(max_examples=10)
@given(spectra, st.floats(0.01, 2.0), st.floats(0.0, 1.0))
def test_errors_begin_at_the_power_and_add_up(values, ridge, noise):
    curve = curve_of(values, ridge=ridge, noise=noise)
    n = jnp.array([1e-9, 0.5, 1.0, 2.0])
    error = curve.test_error(n)
    whole = curve.target_power.sum() + noise
    np.testing.assert_allclose(error[0], whole, rtol=1e-6)
    np.testing.assert_allclose(curve.bias(n) + curve.variance(n), error, rtol=1e-12)
    assert jnp.all(curve.variance(n) >= 0)
    assert jnp.all(jnp.diff(curve.bias(n)) <= 0)
    without_noise = curve_of(values, ridge=ridge).test_error(n)
    np.testing.assert_allclose(
        curve.test_error_by_mode(n).sum(-1), without_noise, rtol=1e-10
    )


def test_all_is_learned_where_examples_outnumber_modes():
    curve = curve_of([1.0, 0.5, 0.0])
    assert curve.kappa(4.0) == 0
    np.testing.assert_allclose(curve.learnability(4.0), [1.0, 1.0, 0.0])


@pytest.mark.slow
def test_curves_are_differentiable():
    curve = lambda ridge: curve_of([3.0, 1.0, 0.2], ridge=ridge, noise=0.1)
    error = lambda ridge: curve(ridge).test_error(2)
    h = 1e-6
    difference = (error(0.3 + h) - error(0.3 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(error)(0.3), difference, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_curve_of_gaussian_features_is_that_of_regression(ridge):
    """Errors of kernel regression itself, on features that the theory assumes."""
    values, n, trials, noise = jnp.arange(1.0, 101) ** -1.5, 25, 200, 0.05
    target = jr.normal(jr.key(0), values.shape) * values**0.5
    modes = theory.KernelModes(values, jnp.ones_like(values), jnp.asarray(0.0))
    curve = theory.LearningCurve(modes, target**2, ridge=ridge, noise=noise)

    def errors(key):
        key_x, key_y = jr.split(key)
        x = jr.normal(key_x, (n, values.shape[0]))
        y = x @ target + noise**0.5 * jr.normal(key_y, (n,))
        features = x * jnp.sqrt(values)[None]
        dual = jnp.linalg.solve(features @ features.T + ridge * jnp.eye(n), y)
        learned = jnp.sqrt(values) * (features.T @ dual)
        test = jnp.sum((learned - target) ** 2) + noise
        return test, jnp.mean((ridge * dual) ** 2)

    test, train = jax.vmap(errors)(jr.split(jr.key(1), trials))
    for seen, expected in ((test, curve.test_error(n)), (train, curve.train_error(n))):
        standard_error = seen.std() / trials**0.5
        # The theory is exact for infinitely many modes and examples.
        np.testing.assert_allclose(
            seen.mean(), expected, atol=5 * standard_error + 0.02 * expected
        )


@pytest.mark.slow
@pytest.mark.usefixtures("without_jaxtyping")
def test_modes_of_data_are_those_of_its_distribution():
    """A sample of a sphere has the sphere's eigenvalues and its target's power."""
    dim, n = 3, 600
    net = network(nn.Erf())
    x = jr.normal(jr.key(0), (n, dim))
    x *= jnp.sqrt(dim) / jnp.linalg.norm(x, axis=1, keepdims=True)
    modes, power = theory.modes_of_data(eqt.ntk(net, x), x[:, :1])
    exact = theory.modes_on_sphere(net, dim, 3)
    np.testing.assert_allclose(
        modes.eigenvalues[:3].mean(), exact.eigenvalues[1], rtol=0.05
    )
    np.testing.assert_allclose(power[:3].sum(), jnp.mean(x[:, 0] ** 2), rtol=0.01)
    with pytest.raises(ValueError, match=r"targets\[:, None\]"):
        theory.modes_of_data(eqt.ntk(net, x[:3]), x[:3, 0])


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 2])
def test_information_is_the_divergence_of_gaussians(outputs):
    """Against means and covariances of all parameters of a linear model."""
    features = jr.normal(jr.key(0), (4, 9)) / 3
    targets = jr.normal(jr.key(1), (4, outputs))
    flow = theory.ParameterFlow(features @ features.T, targets)
    values, vectors = jnp.linalg.eigh(features @ features.T)
    for t in (0.1, 1.0):
        gain = vectors @ jnp.diag(-jnp.expm1(-values * t) / values) @ vectors.T
        shrink = jnp.eye(9) - features.T @ gain @ features
        covariance, mean = shrink @ shrink.T, features.T @ gain @ targets
        log_determinant = jnp.linalg.slogdet(covariance)[1]
        of_one = jnp.trace(covariance) - 9 - log_determinant
        divergence = 0.5 * (outputs * of_one + jnp.sum(mean**2))
        np.testing.assert_allclose(flow.information(t), divergence, rtol=1e-10)
        # A network that is zero at first moves by the mean alone.
        np.testing.assert_allclose(flow.distance(t), jnp.sum(mean**2), rtol=1e-10)
    growth = jax.grad(flow.information)(100.0)
    np.testing.assert_allclose(growth, outputs * values.sum(), rtol=1e-6)
    # What has no eigenvalue is not learned, ever.
    one = theory.ParameterFlow(jnp.diag(jnp.array([0.5, 0.0])), jnp.ones((2, 1)))
    ends = one.information(jnp.asarray([3.0, jnp.inf]))
    known = theory.ParameterFlow(jnp.array([[0.5]]), jnp.ones((1, 1))).information(3.0)
    np.testing.assert_allclose(ends, [known, jnp.inf])


@pytest.mark.slow
def test_distance_is_that_of_trained_parameters():
    features = jr.normal(jr.key(0), (3, 400)) / 20
    targets, t = jnp.array([[1.0], [-0.5], [2.0]]), jnp.asarray([0.7, jnp.inf])
    kernel = features @ features.T
    flow = theory.ParameterFlow(kernel, targets, kernel)
    theta = jr.normal(jr.key(1), (4000, 400))
    values, vectors = jnp.linalg.eigh(kernel)
    for i, time in enumerate(t):
        gain = vectors @ jnp.diag(-jnp.expm1(-values * time) / values) @ vectors.T
        moved = (targets.T - theta @ features.T) @ gain @ features
        squares = jnp.sum(moved**2, 1)
        error = squares.std() / 4000**0.5
        np.testing.assert_allclose(
            flow.distance(t)[i], squares.mean(), atol=5 * float(error)
        )


@pytest.mark.usefixtures("without_jaxtyping")
def test_alignment_is_that_of_centred_kernels():
    x = jr.normal(jr.key(0), (6, 4))
    one, other = x @ x.T, jnp.exp(x @ x.T)
    value = theory.alignment(one, other)
    assert 0 < value < 1
    np.testing.assert_allclose(theory.alignment(3 * one + 2, one), 1, rtol=1e-12)
    np.testing.assert_allclose(theory.alignment(other, one), value, rtol=1e-12)
    assert theory.alignment(one + 2, one, centred=False) < 1
    with pytest.raises(ValueError, match="one size"):
        theory.alignment(one, other[:3, :3])
