import equinox as eqx
import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents.predict import (
    Ensemble,
    FromNetwork,
    GaussianProcess,
    GradientDescentMSE,
    GradientSteps,
)
from precision import DTYPE
from predict_problems import assert_close, assert_gradient, problem, tolerance


def times():
    return jnp.asarray([0.0, 3.0, 40.0, jnp.inf], DTYPE)


def _kernels(key, n_train=6, n_test=4):
    """Blocks of an NNGP and an NTK, and targets."""
    first, second = jr.split(key)
    nngp, y, nngp_star, nngp_star_star = problem(first, n_train, n_test)
    ntk, _, ntk_star, _ = problem(second, n_train, n_test)
    star = eqt.Kernel(nngp_star, nngp_star + ntk_star)
    return eqt.Kernel(nngp, nngp + ntk), y, star, nngp_star_star


def _brute_force(k, star, star_star, gain, noise, target_noise, trained):
    """Covariance after a linear map of jointly Gaussian initial outputs."""
    if trained == "all":
        dynamics, dynamics_star = np.asarray(k.ntk), np.asarray(star.ntk)
    else:
        dynamics, dynamics_star = np.asarray(k.nngp), np.asarray(star.nngp)
    n = len(dynamics)
    values, vectors = np.linalg.eigh(dynamics + noise * np.eye(n))
    learn = dynamics_star @ vectors @ np.diag(gain(values)) @ vectors.T
    n_test = len(dynamics_star)
    # Outputs are `[learn, -learn, 1]` times target noise, initial train and test ones.
    joint = np.block(
        [
            [target_noise * np.eye(n), np.zeros((n, n + n_test))],
            [np.zeros((n, n)), k.nngp, star.nngp.T],
            [np.zeros((n_test, n)), star.nngp, star_star],
        ]
    )
    linear = np.concatenate([learn, -learn, np.eye(n_test)], axis=1)
    return linear @ joint @ linear.T


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["all", "last"])
@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("target_noise", [0.0, 0.3])
def test_covariance_is_that_of_a_linear_map(getkey, trained, noise, target_noise):
    k, y, star, star_star = _kernels(getkey())
    ensemble = Ensemble(k, y, trained=trained, noise=noise, target_noise=target_noise)
    covariance = ensemble.covariance(times(), star, star_star)
    variance = ensemble.variance(times(), star, jnp.diagonal(star_star))
    for t, ours, ours_diagonal in zip(times(), covariance, variance, strict=True):
        gain = lambda x, t=float(t): (1 - np.exp(-t * x / y.size)) / x
        expected = _brute_force(k, star, star_star, gain, noise, target_noise, trained)
        assert_close(ours, expected, 10 * tolerance())
        assert_close(ours_diagonal, np.diagonal(expected), 10 * tolerance())
        np.testing.assert_array_equal(ours, ours.T)


@pytest.mark.slow
def test_noise_may_differ_between_examples(getkey):
    k, y, star, star_star = _kernels(getkey())
    same = [
        Ensemble(k, y, trained="last", noise=noise).covariance(times(), star, star_star)
        for noise in (0.2, jnp.full(6, 0.2, DTYPE))
    ]
    assert_close(*same, 10 * tolerance())


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["all", "last"])
def test_training_examples_are_examples(getkey, trained):
    k, y, _, _ = _kernels(getkey())
    ensemble = Ensemble(k, y, trained=trained, noise=0.1, target_noise=0.2)
    assert_close(
        ensemble.train_mean(times()), ensemble.mean(times(), k), 10 * tolerance()
    )
    covariance = ensemble.covariance(times(), k, k.nngp)
    assert_close(ensemble.train_covariance(times()), covariance, 10 * tolerance())


def test_starts_at_the_prior_and_interpolates_in_the_end(getkey):
    k, y, star, star_star = _kernels(getkey())
    for trained in ("all", "last"):
        ensemble = Ensemble(k, y, trained=trained)
        np.testing.assert_array_equal(ensemble.mean(0, star), 0 * y[:4])
        assert_close(ensemble.covariance(0, star, star_star), star_star)
        assert_close(ensemble.train_mean(jnp.inf), y)
        end = ensemble.train_covariance(jnp.inf)
        np.testing.assert_allclose(end, 0 * end, atol=100 * tolerance())


def test_the_end_of_training_the_last_layer_is_the_posterior(getkey):
    k, y, star, star_star = _kernels(getkey())
    noise = 0.4
    options = {"noise": noise, "target_noise": noise}
    ensemble = Ensemble(k, y, trained="last", **options)
    posterior = GaussianProcess(k.nngp, y, noise=noise)
    assert_close(ensemble.mean(jnp.inf, star), posterior.mean(star.nngp))
    assert_close(
        ensemble.covariance(jnp.inf, star, star_star),
        posterior.covariance(star.nngp, star_star),
        10 * tolerance(),
    )


def test_the_end_of_training_all_layers_needs_no_eigenvalues(getkey):
    k, y, star, star_star = _kernels(getkey())
    ensemble = Ensemble(k, y, noise=0.2)
    posterior = GaussianProcess(k.ntk, y, noise=0.2)
    assert_close(ensemble.mean(jnp.inf, star), posterior.mean(star.ntk))
    nngp = (k.nngp, star.nngp, star_star)
    assert_close(
        posterior.ensemble_covariance(*nngp, star.ntk),
        ensemble.covariance(jnp.inf, star, star_star),
        10 * tolerance(),
    )


@pytest.mark.parametrize("trained", ["all", "last"])
@pytest.mark.parametrize("t", [[0.0, 3.0, 1e4], jnp.inf])
def test_both_moments_are_mean_and_covariance(t, trained, getkey):
    k, y, star, star_star = _kernels(getkey())

    def alone(k):
        ensemble = Ensemble(k, y, trained=trained, noise=0.2)
        at = jnp.asarray(t, DTYPE)
        return ensemble.mean(at, star), ensemble.covariance(at, star, star_star)

    def together(k):
        ensemble = Ensemble(k, y, trained=trained, noise=0.2)
        return ensemble.moments(jnp.asarray(t, DTYPE), star, star_star)

    expected = alone(k)
    for found in (together(k), jax.jit(together)(k)):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    eigenvectors = [
        jax.jit(f).lower(k).compile().as_text().count("syevd_ffi")
        for f in (together, alone)
    ]
    assert 0 < eigenvectors[0] < eigenvectors[1]


@hyp.given(seed=st.integers(0, 2**31 - 1), last=st.booleans())
@hyp.settings(max_examples=10)
def test_covariance_is_positive_semi_definite(seed, last):
    k, y, star, star_star = _kernels(jr.key(seed))
    ensemble = Ensemble(k, y, trained="last" if last else "all")
    covariance = ensemble.covariance(times(), star, star_star)
    assert jnp.min(jnp.linalg.eigvalsh(covariance)) > -tolerance()


@pytest.mark.slow
def test_members_have_these_moments(getkey):
    # Members start at draws of the prior, and train as `GradientDescentMSE` says.
    k, y, star, star_star = _kernels(getkey())
    joint = jnp.block([[k.nngp, star.nngp.T], [star.nngp, star_star]])
    members = 20_000
    start = jnp.linalg.cholesky(joint) @ jr.normal(getkey(), (10, members), DTYPE)
    target = jnp.broadcast_to(y[:, :1], (6, members))
    rule = GradientSteps(3.0, momentum=0.5)
    training = GradientDescentMSE(k.ntk, target, rule=rule)
    # The loss is a mean over all members there: less for each.
    ensemble = Ensemble(k, y[:, :1], rule=GradientSteps(3.0 / members, momentum=0.5))
    outputs = training.test_outputs(20, star.ntk, start[:6], start[6:])
    mean, covariance = jnp.mean(outputs, axis=1), jnp.cov(outputs)
    variance = ensemble.variance(20, star, jnp.diagonal(star_star))
    error = jnp.abs(mean - ensemble.mean(20, star)[:, 0]) / jnp.sqrt(variance / members)
    assert jnp.max(error) < 4
    expected = ensemble.covariance(20, star, star_star)
    spread = jnp.sqrt(variance[:, None] * variance[None] + expected**2)
    assert jnp.max(jnp.abs(covariance - expected) / spread) < 4 / members**0.5


def _moments(nngp, ntk, star_nngp, star_ntk, star_star, t, *, output):
    symmetric = eqt.Kernel((nngp + nngp.T) / 2, (ntk + ntk.T) / 2)
    ensemble = Ensemble(symmetric, jnp.zeros((6, 3), DTYPE), noise=0.1)
    star = eqt.Kernel(star_nngp, star_ntk)
    if output:
        return jnp.sum(jnp.sin(ensemble.variance(t, star, jnp.diagonal(star_star))))
    return jnp.sum(jnp.sin(ensemble.covariance(t, star, star_star)))


NAMES = ["nngp", "ntk", "nngp*", "ntk*", "nngp**", "t"]


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("repeated", [False, True], ids=["", "repeated eigenvalues"])
@pytest.mark.slow
@pytest.mark.precision("float64")  # finite differences need it
def test_gradient_is_that_of_finite_differences(getkey, index, repeated):
    k, _, star, star_star = _kernels(getkey())
    ntk = jnp.eye(6, dtype=DTYPE).at[0, 0].set(2) if repeated else k.ntk
    time = jnp.asarray([9.0, 30.0], DTYPE)
    arguments = (k.nngp, ntk, star.nngp, star.ntk, star_star, time)
    direction = jr.normal(getkey(), arguments[index].shape, DTYPE)
    for output in range(1 + (index == 1)):
        function = eqx.Partial(_moments, output=output)
        assert_gradient(function, arguments, index, direction)


# ------------------------------------------------------------------------------------
# Inputs in place of kernels.
# ------------------------------------------------------------------------------------

NET = nn.Sequential(
    [nn.Linear(8, bias_std=0.3), nn.Relu(), nn.Linear(8), nn.Erf(), nn.Linear(1)]
)


@pytest.mark.slow
def test_inputs_are_as_good_as_kernels(getkey):
    x, x_test = (jr.normal(getkey(), (n, 3), DTYPE) for n in (5, 4))
    y = jr.normal(getkey(), (5, 2), DTYPE)
    k, star = eqt.kernel(NET, x), eqt.kernel(NET, x_test, x)
    star_star = eqt.nngp(NET, x_test)
    ensemble = Ensemble(k, y, noise=0.1)
    wrapped = FromNetwork(Ensemble, NET, x, y, noise=0.1)
    assert_close(wrapped.mean(3.0, x_test), ensemble.mean(3.0, star))
    covariance = ensemble.covariance(times(), star, star_star)
    assert_close(wrapped.covariance(times(), x_test), covariance)
    variance = jax.vmap(jnp.diagonal)(covariance)
    assert_close(wrapped.variance(times(), x_test), variance, 10 * tolerance())

    posterior = GaussianProcess(k.nngp, y, noise=0.1)
    kernel = eqx.Partial(eqt.nngp, NET)
    wrapped = FromNetwork(GaussianProcess, kernel, x, y, noise=0.1)
    assert_close(wrapped.mean(x_test), posterior.mean(star.nngp))
    covariance = posterior.covariance(star.nngp, star_star)
    assert_close(wrapped.covariance(x_test), covariance)
    assert_close(wrapped.variance(x_test), jnp.diagonal(covariance))
    key = getkey()
    sample = posterior.sample(star.nngp, star_star, (2,), key=key)
    assert_close(wrapped.sample(x_test, (2,), key=key), sample)

    training = GradientDescentMSE(k.ntk, y)
    wrapped = FromNetwork(GradientDescentMSE, NET, x, y)
    outputs = training.test_outputs(times(), star.ntk, 0.0, 1.0)
    assert_close(wrapped.test_outputs(times(), x_test, start_test=1.0), outputs)


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["all", "last"])
def test_spatial_outputs(getkey, trained):
    net = nn.Sequential([nn.Conv(8, (3,), padding="SAME"), nn.Relu(), nn.Conv(1, (1,))])
    x, x_test = (jr.normal(getkey(), (n, 2, 4), DTYPE) for n in (3, 2))
    y = jr.normal(getkey(), (3, 4, 2), DTYPE)
    ensemble = FromNetwork(
        Ensemble, eqx.Partial(eqt.kernel, net), x, y, trained=trained, noise=0.1
    )
    assert ensemble.mean(times(), x_test).shape == (4, 2, 4, 2)
    covariance = ensemble.covariance(times(), x_test)
    assert covariance.shape == (4, 2, 2, 4, 4)
    variance = jnp.einsum("tiipp->tip", covariance)
    assert_close(ensemble.variance(times(), x_test), variance, 10 * tolerance())


# ------------------------------------------------------------------------------------
# Errors.
# ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_jaxtyping")
def test_what_does_not_fit_is_refused(getkey):
    k, y, star, star_star = _kernels(getkey())
    with pytest.raises(ValueError, match=r"`k_train_train` is an .*needs the NNGP"):
        Ensemble(k.ntk, y)
    with pytest.raises(ValueError, match="`trained` is 'first'"):
        Ensemble(k, y, trained="first")
    ensemble = Ensemble(k, y)
    with pytest.raises(ValueError, match=r"`k_test_train` is an .*eqtangents\.kernel"):
        ensemble.mean(1.0, star.ntk)
    with pytest.raises(ValueError, match=r"`nngp_test_test` has shape \(6, 6\).*4, 4"):
        ensemble.covariance(1.0, star, k.nngp)
    with pytest.raises(ValueError, match=r"`k_test_diagonal` has shape \(4, 4\)"):
        ensemble.variance(1.0, star, star_star)
