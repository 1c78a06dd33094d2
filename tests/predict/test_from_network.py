"""Predictors that are asked about inputs, and observations that come later."""

import functools

import equinox as eqx
import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn, predict
from eqtangents.predict import FromNetwork, GaussianProcess
from precision import DTYPE, by_precision
from predict_problems import assert_close, covariance


plain = pytest.mark.usefixtures("without_jaxtyping")


def rtol():
    return by_precision(float64=1e-9, float32=1e-3)


# ------------------------------------------------------------------------------------
# Conditioning.
# ------------------------------------------------------------------------------------


def _assert_same(found, expected, k_star, k_star_star):
    assert_close(found.mean(k_star), expected.mean(k_star), rtol())
    covariances = (p.covariance(k_star, k_star_star) for p in (found, expected))
    assert_close(*covariances, rtol())
    evidence = (p.log_marginal_likelihood() for p in (found, expected))
    assert_close(*evidence, rtol())
    for ours, theirs in zip(
        found.leave_one_out(), expected.leave_one_out(), strict=True
    ):
        assert_close(ours, theirs, rtol())


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [(), (2,)])
@hyp.given(
    seed=st.integers(0, 2**31 - 1),
    sizes=st.sampled_from([(3, 1), (2, 1, 1)]),
    noise=st.sampled_from(["none", "one", "relative", "outputs"]),
)
@hyp.settings(max_examples=5)
def test_conditioning_is_a_refit(outputs, seed, sizes, noise):
    n = sum(sizes)
    joint = covariance(jr.key(seed), n + 3)
    y = jr.normal(jr.key(seed + 1), (n, *outputs), DTYPE)
    options = {"none": 0.0, "one": 0.3, "relative": 0.0, "outputs": 0.3}[noise]
    relative = 0.2 if noise == "relative" else 0.0
    if noise == "outputs" and outputs:
        options = jnp.asarray([[0.1, 0.7]], DTYPE)
    first = sizes[0]
    posterior = GaussianProcess(
        joint[:first, :first], y[:first], noise=options, relative_noise=relative
    )
    # Relative noise is that of the first examples: a refit has to be told.
    if noise == "relative":
        options = relative * jnp.trace(joint[:first, :first]) / max(first, 1)
    done = first
    for size in sizes[1:]:
        new = slice(done, done + size)
        posterior = posterior.condition(joint[new, :done], joint[new, new], y[new])
        done += size
    refit = GaussianProcess(joint[:n, :n], y, noise=options)
    _assert_same(posterior, refit, joint[n:, :n], joint[n:, n:])
    np.testing.assert_array_equal(posterior.data.kernel, refit.data.kernel)


@pytest.mark.slow
def test_new_observations_may_have_noise_of_their_own(getkey):
    joint, y = covariance(getkey(), 7), jr.normal(getkey(), (5, 2), DTYPE)
    own = jnp.asarray([0.1, 0.2, 0.3], DTYPE)
    posterior = GaussianProcess(joint[:3, :3], y[:3], noise=own)
    new = (joint[3:5, :3], joint[3:5, 3:5], y[3:5])
    refit = functools.partial(GaussianProcess, joint[:5, :5], y)
    star = joint[5:, :5], joint[5:, 5:]
    noise = jnp.concatenate([own, jnp.full(2, 0.7, DTYPE)])
    _assert_same(posterior.condition(*new, noise=0.7), refit(noise=noise), *star)
    # Now noise differs between outputs too.
    each = jnp.asarray([[0.5, 0.9]], DTYPE)
    both = jnp.concatenate([jnp.stack([own, own], 1), jnp.tile(each, (2, 1))])
    _assert_same(posterior.condition(*new, noise=each), refit(noise=both), *star)
    with pytest.raises(ValueError, match="`noise` has to be given"):
        posterior.condition(*new)


@pytest.mark.slow
def test_conditioning_at_correlated_positions(getkey):
    joint, y = covariance(getkey(), 10), jr.normal(getkey(), (3, 2, 3), DTYPE)
    split = lambda k: jnp.moveaxis(k.reshape(k.shape[0] // 2, 2, -1, 2), 1, 2)
    k = split(joint)
    posterior = GaussianProcess(k[:2, :2], y[:2], noise=0.2)
    posterior = posterior.condition(k[2:3, :2], k[2:3, 2:3], y[2:])
    refit = GaussianProcess(k[:3, :3], y, noise=0.2)
    _assert_same(posterior, refit, k[3:, :3], k[3:, 3:])


@pytest.mark.slow
def test_conditioning_compiles_and_has_gradients(getkey):
    joint, y = covariance(getkey(), 6), jr.normal(getkey(), (4,), DTYPE)

    def mean(scale, refit):
        k = joint * scale
        if refit:
            return GaussianProcess(k[:4, :4], y, noise=0.1).mean(k[4:, :4])
        posterior = GaussianProcess(k[:3, :3], y[:3], noise=0.1)
        return posterior.condition(k[3:4, :3], k[3:4, 3:4], y[3:]).mean(k[4:, :4])

    scale = jnp.asarray(1.3, DTYPE)
    slopes = [jax.jit(jax.jacrev(lambda s, r=r: mean(s, r)))(scale) for r in (0, 1)]
    assert_close(*slopes, 10 * rtol())


@plain
@pytest.mark.slow
def test_observations_that_do_not_fit_are_refused(getkey):
    joint, y = covariance(getkey(), 5), jnp.ones((5, 2), DTYPE)
    posterior = GaussianProcess(joint[:3, :3], y[:3])
    cross, new = joint[3:, :3], joint[3:, 3:]
    with pytest.raises(ValueError, match=r"`k_new_train` has shape \(3, 2\).*transp"):
        posterior.condition(cross.T, new, y[3:])
    with pytest.raises(ValueError, match=r"`k_new_new` has shape \(3, 3\)"):
        posterior.condition(cross, joint[:3, :3], y[3:])
    with pytest.raises(ValueError, match=r"`y_new` has shape \(3, 2\).*\(2, 2\)"):
        posterior.condition(cross, new, y[:3])
    with pytest.raises(RuntimeError, match="`y_new` holds NaN"):
        posterior.condition(cross, new, y[3:].at[0, 0].set(jnp.nan))
    with pytest.raises(RuntimeError, match="positive definite"):  # seen before
        posterior.condition(joint[:1, :3], joint[:1, :1], y[:1])


# ------------------------------------------------------------------------------------
# Networks.
# ------------------------------------------------------------------------------------

NET = nn.Sequential([nn.Linear(8, bias_std=0.3), nn.Relu(), nn.Linear(1)])


@pytest.fixture
def data(getkey):
    x, x_test = (jr.normal(getkey(), (n, 3), DTYPE) for n in (5, 4))
    return x, jr.normal(getkey(), (5, 2), DTYPE), x_test


@pytest.mark.slow
def test_a_network_gives_each_predictor_its_kernel(data):
    x, y, x_test = data
    k, star = eqt.kernel(NET, x), eqt.kernel(NET, x_test, x)
    gp = FromNetwork(GaussianProcess, NET, x, y, noise=0.1)
    plain = GaussianProcess(k.nngp, y, noise=0.1)
    assert_close(gp.mean(x_test), plain.mean(star.nngp))
    assert_close(gp.log_marginal_likelihood(), plain.log_marginal_likelihood())
    density = plain.leave_one_out_log_density()
    assert_close(gp.leave_one_out_log_density(), density)
    for ours, theirs in zip(gp.leave_one_out(), plain.leave_one_out(), strict=True):
        assert_close(ours, theirs)
    gd = FromNetwork(predict.GradientDescentMSE, NET, x, y)
    training = predict.GradientDescentMSE(k.ntk, y)
    assert_close(gd.train_outputs(2.0), training.train_outputs(2.0))
    assert_close(gd.test_outputs(2.0, x_test), training.test_outputs(2.0, star.ntk))
    ensemble = FromNetwork(predict.Ensemble, NET, x, y)
    members = predict.Ensemble(k, y)
    assert_close(ensemble.train_mean(2.0), members.train_mean(2.0))
    assert_close(ensemble.train_covariance(2.0), members.train_covariance(2.0))
    assert_close(ensemble.mean(2.0, x_test), members.mean(2.0, star))
    of_loss = functools.partial(
        predict.GradientDescent, predict.half_mean_squared_error
    )
    ode = FromNetwork(of_loss, NET, x, y)
    states = ode.predictor.states(1.0)
    outputs = ode.predictor.test_outputs(states, star.ntk)
    assert_close(ode.test_outputs(states, x_test), outputs)


@pytest.mark.slow
def test_conditioning_on_inputs_is_a_refit(data):
    x, y, x_test = data
    gp = FromNetwork(GaussianProcess, NET, x[:3], y[:3], noise=0.1)
    gp = gp.condition(x[3:4], y[3:4]).condition(x[4:], y[4:])
    refit = FromNetwork(GaussianProcess, NET, x, y, noise=0.1)
    assert_close(gp.mean(x_test), refit.mean(x_test), rtol())
    assert_close(gp.variance(x_test), refit.variance(x_test), rtol())
    np.testing.assert_array_equal(gp.x_train, x)


@pytest.mark.slow
def test_variances_of_many_examples(data, getkey):
    x, y, _ = data
    gp = FromNetwork(GaussianProcess, eqx.Partial(eqt.ntk, NET), x, y, noise=0.1)
    many = jr.normal(getkey(), (37, 3), DTYPE)  # more than a batch, and a rest
    assert_close(gp.variance(many), jnp.diagonal(gp.covariance(many)), 10 * rtol())


@pytest.mark.slow
def test_finite_networks_are_kernels_too(data, getkey):
    # Traced kernels of one network, or of the mean of many, go into an ensemble.
    x, y, x_test = data
    model = NET.init((3,), key=getkey())
    both = functools.partial(eqt.empirical_kernel, model, trace_axes=(0,))
    ensemble = FromNetwork(predict.Ensemble, both, x, y, noise=0.1)
    k, star = both(x, None), both(x_test, x)
    plain = predict.Ensemble(eqt.Kernel(k.nngp, k.ntk), y, noise=0.1)
    expected = plain.mean(2.0, eqt.Kernel(star.nngp, star.ntk))
    assert_close(ensemble.mean(2.0, x_test), expected)
    mean = eqt.monte_carlo(NET, x, None, getkey(), 4).mean
    ensemble = predict.Ensemble(mean, y, noise=0.1)
    plain = predict.Ensemble(eqt.Kernel(mean.nngp, mean.ntk), y, noise=0.1)
    assert_close(ensemble.train_mean(1.0), plain.train_mean(1.0))


@plain
def test_what_does_not_fit_is_refused(data):
    x, y, x_test = data
    with pytest.raises(TypeError, match="class of predictors is needed first"):
        FromNetwork(NET, GaussianProcess, x, y)
    with pytest.raises(
        TypeError, match=r"`MLP`, an Equinox module: lift it by `.*from_equinox"
    ):
        FromNetwork(
            GaussianProcess, eqx.nn.MLP(3, 1, 8, 1, key=jr.key(0)), x, y, noise=0.1
        )
    with pytest.raises(TypeError, match=r"`network` is an array of shape"):
        FromNetwork(GaussianProcess, x, x, y)
    with pytest.raises(ValueError, match=r"returns both kernels, .*the network itself"):
        FromNetwork(GaussianProcess, eqx.Partial(eqt.kernel, NET), x, y)
    gp = FromNetwork(GaussianProcess, NET, x, y, noise=0.1)
    with pytest.raises(
        TypeError, match=r"`GaussianProcess` has no `test_outputs`: .*`me"
    ):
        gp.test_outputs(1.0, x_test)
    ensemble = FromNetwork(predict.Ensemble, NET, x, y)
    with pytest.raises(TypeError, match=r"`mean\(t, x_test\)` is needed"):
        ensemble.mean(x_test)
    with pytest.raises(TypeError, match=r"after the times .*`mean\(t, x_test\)`"):
        ensemble.mean(x_test, 1.0)
