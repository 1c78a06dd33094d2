import contextlib
import functools

import equinox as eqx
import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
import scipy.stats

from eqtangents.predict import GaussianProcess
from precision import DTYPE, is_double
from predict_problems import assert_close, problem, tolerance


def _brute_force(k_train_train, y_train, k_test_train, k_test_test, noise):
    """Mean and covariance by the textbook formula, in float64 and with no Cholesky."""
    blocks = (k_train_train, k_test_train, k_test_test, noise)
    k, k_star, k_star_star, noise = (np.asarray(block, np.float64) for block in blocks)
    inverse = np.linalg.inv(k + noise * np.eye(len(k)))
    mean = np.einsum(
        "ij,jk,k...->i...", k_star, inverse, np.asarray(y_train, np.float64)
    )
    return mean, k_star_star - k_star @ inverse @ k_star.T


# ------------------------------------------------------------------------------------
# The posterior.
# ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [(), (1,), (3,), (2, 3)])
@hyp.given(
    seed=st.integers(0, 2**31 - 1),
    n_train=st.sampled_from([1, 5]),
    n_test=st.sampled_from([1, 4]),
    noise=st.sampled_from([0.0, 0.1, 10.0]),
)
@hyp.settings(max_examples=10)
@pytest.mark.slow
def test_is_the_textbook_formula(outputs, seed, n_train, n_test, noise):
    k, y, k_star, k_star_star = problem(jr.key(seed), n_train, n_test, outputs)
    posterior = GaussianProcess(k, y, noise=noise)
    mean, covariance = _brute_force(k, y, k_star, k_star_star, noise)
    assert_close(posterior.mean(k_star), mean)
    assert_close(posterior.covariance(k_star, k_star_star), covariance)
    variance = posterior.variance(k_star, jnp.diagonal(k_star_star))
    assert_close(variance, np.diagonal(covariance))


def test_relative_noise_counts_in_mean_variances(getkey):
    k, y, k_star, k_star_star = problem(getkey())
    relative = GaussianProcess(k, y, noise=0.2, relative_noise=0.5)
    absolute = GaussianProcess(k, y, noise=0.2 + 0.5 * jnp.trace(k) / k.shape[0])
    assert_close(relative.mean(k_star), absolute.mean(k_star))
    assert_close(
        relative.covariance(k_star, k_star_star),
        absolute.covariance(k_star, k_star_star),
    )
    # ... and so does not depend on the kernel's scale.
    scaled = GaussianProcess(100 * k, y, relative_noise=0.5)
    unscaled = GaussianProcess(k, y, relative_noise=0.5)
    assert_close(scaled.mean(100 * k_star), unscaled.mean(k_star))


def test_noise_can_differ_between_examples(getkey):
    k, y, k_star, k_star_star = problem(getkey())
    noise = jnp.linspace(0.1, 2.0, k.shape[0], dtype=DTYPE)
    mean, covariance = _brute_force(k, y, k_star, k_star_star, noise)
    posterior = GaussianProcess(k, y, noise=noise)
    assert_close(posterior.mean(k_star), mean)
    assert_close(posterior.covariance(k_star, k_star_star), covariance)


def test_an_example_with_infinite_noise_is_not_there(getkey):
    k, y, k_star, k_star_star = problem(getkey())
    noise = jnp.zeros(k.shape[0], DTYPE).at[-1].set(1e12)
    without = GaussianProcess(k[:-1, :-1], y[:-1])
    posterior = GaussianProcess(k, y, noise=noise)
    assert_close(posterior.mean(k_star), without.mean(k_star[:, :-1]))
    assert_close(
        posterior.covariance(k_star, k_star_star),
        without.covariance(k_star[:, :-1], k_star_star),
    )


def test_without_noise_it_interpolates_the_targets(getkey):
    k, y, _, _ = problem(getkey())
    posterior = GaussianProcess(k, y)
    assert_close(posterior.mean(k), y)
    atol = 10 * tolerance()
    np.testing.assert_allclose(posterior.covariance(k, k), 0 * k, atol=atol)
    np.testing.assert_allclose(posterior.variance(k, jnp.diagonal(k)), 0, atol=atol)


def test_with_infinite_noise_it_is_the_prior(getkey):
    k, y, k_star, k_star_star = problem(getkey())
    posterior = GaussianProcess(k, y, noise=1e12)
    np.testing.assert_allclose(posterior.mean(k_star), 0, atol=1e-10)
    assert_close(posterior.covariance(k_star, k_star_star), k_star_star)
    assert_close(
        posterior.variance(k_star, jnp.diagonal(k_star_star)), jnp.diagonal(k_star_star)
    )


def test_without_training_examples_it_is_the_prior(getkey):
    _, _, k_star, k_star_star = problem(getkey())
    posterior = GaussianProcess(jnp.zeros((0, 0), DTYPE), jnp.zeros((0, 2), DTYPE))
    nothing = k_star[:, :0]
    np.testing.assert_array_equal(posterior.mean(nothing), np.zeros((4, 2)))
    np.testing.assert_array_equal(
        posterior.covariance(nothing, k_star_star), k_star_star
    )


@pytest.mark.slow
@hyp.given(seed=st.integers(0, 2**31 - 1), n_train=st.sampled_from([1, 5]))
@hyp.settings(max_examples=10)
def test_an_observation_never_adds_variance(seed, n_train):
    k, y, k_star, k_star_star = problem(jr.key(seed), n_train)
    more = GaussianProcess(k, y).covariance(k_star, k_star_star)
    fewer = GaussianProcess(k[:-1, :-1], y[:-1]).covariance(k_star[:, :-1], k_star_star)
    np.testing.assert_array_equal(more, more.T)
    assert jnp.min(jnp.linalg.eigvalsh(more)) > -tolerance()
    assert jnp.min(jnp.linalg.eigvalsh(fewer - more)) > -tolerance()


@pytest.mark.slow
def test_variance_is_never_negative():
    # Nearly repeated examples: rounding is then larger than the variance that remains.
    x = jnp.linspace(0, 1, 40, dtype=DTYPE)
    k = jnp.exp(-((x[:, None] - x[None, :]) ** 2))
    posterior = GaussianProcess(k, x, relative_noise=1e-12 if is_double() else 1e-4)
    variance = posterior.variance(k, jnp.diagonal(k))
    assert jnp.all(variance >= 0)
    assert jnp.all(jnp.isfinite(jnp.sqrt(variance)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float32", "default"])
def test_keeps_the_dtype_of_the_kernel(getkey, name):
    dtype = jnp.result_type(jnp.float32 if name == "float32" else float)
    k, k_star = jnp.diag(jnp.arange(1, 6, dtype=dtype)), jnp.ones((2, 5), dtype)
    for y_dtype in (jnp.float16, DTYPE):
        posterior = GaussianProcess(
            k, jnp.ones(5, y_dtype), noise=0.1, relative_noise=0.1
        )
        results = (
            posterior.mean(k_star),
            posterior.covariance(k_star, jnp.eye(2, dtype=dtype)),
            posterior.variance(k_star, jnp.ones(2, dtype)),
        )
        assert [result.dtype for result in results] == [dtype] * 3


# ------------------------------------------------------------------------------------
# Several outputs, at several positions.
# ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_noise_can_differ_between_outputs(getkey):
    k, y, k_star, k_star_star = problem(getkey())
    for noise in (jr.uniform(getkey(), shape, DTYPE) for shape in ((1, 3), (6, 3))):
        posterior = GaussianProcess(k, y, noise=noise)
        loo_mean, loo_variance = posterior.leave_one_out()
        evidence = 0
        for i in range(3):
            own = jnp.broadcast_to(noise[:, i], (6,))
            one = GaussianProcess(k, y[:, i], noise=own)
            assert_close(posterior.mean(k_star)[:, i], one.mean(k_star))
            covariance = posterior.covariance(k_star, k_star_star)[i]
            assert_close(covariance, one.covariance(k_star, k_star_star))
            prior = jnp.diagonal(k_star_star)
            variance = posterior.variance(k_star, prior)[i]
            assert_close(variance, one.variance(k_star, prior))
            evidence += one.log_marginal_likelihood()
            assert_close(loo_mean[:, i], one.leave_one_out()[0])
            assert_close(loo_variance[:, i], one.leave_one_out()[1])
        assert_close(posterior.log_marginal_likelihood(), evidence)


def test_correlated_positions_are_examples(getkey):
    k, y, k_star, k_star_star = problem(getkey())
    flat = GaussianProcess(k, y, noise=0.1)
    split = lambda k: jnp.moveaxis(k.reshape(k.shape[0] // 2, 2, -1, 2), 1, 2)
    posterior = GaussianProcess(split(k), y.reshape(3, 2, 3), noise=0.1)
    assert_close(posterior.mean(split(k_star)), flat.mean(k_star).reshape(2, 2, 3))
    assert_close(posterior.weights, flat.weights.reshape(3, 2, 3))
    covariance = posterior.covariance(split(k_star), split(k_star_star))
    assert_close(covariance, split(flat.covariance(k_star, k_star_star)))
    prior = jnp.diagonal(k_star_star)
    variance = posterior.variance(split(k_star), prior.reshape(2, 2))
    assert_close(variance, flat.variance(k_star, prior).reshape(2, 2))


# ------------------------------------------------------------------------------------
# Samples.
# ------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.1, np.full((1, 3), 0.1)], ids=["", "each"])
@pytest.mark.slow
def test_samples_have_the_moments_of_the_posterior(getkey, noise):
    k, y, k_star, k_star_star = problem(getkey())
    noise = jnp.asarray(noise, DTYPE)
    posterior = GaussianProcess(k, y, noise=noise)
    draws = 20_000
    samples = posterior.sample(k_star, k_star_star, (draws // 4, 4), key=getkey())
    assert samples.shape == (draws // 4, 4, 4, 3)
    samples = samples.reshape(draws, 12) - posterior.mean(k_star).reshape(1, 12)
    one = GaussianProcess(k, y, noise=0.1).covariance(k_star, k_star_star)
    expected = np.einsum("ij,ab->iajb", one, np.eye(3)).reshape(12, 12)
    variance = np.diagonal(expected)
    error = np.mean(samples, axis=0) / np.sqrt(variance / draws)
    assert np.max(np.abs(error)) < 4
    spread = np.sqrt(np.outer(variance, variance) + expected**2)
    error = (samples.T @ samples / draws - expected) / spread
    assert np.max(np.abs(error)) < 4.5 / draws**0.5
    assert posterior.sample(k_star, k_star_star, key=getkey()).shape == (4, 3)


# ------------------------------------------------------------------------------------
# How well kernel and noise suit the targets.
# ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [(), (3,)])
def test_evidence_is_a_gaussian_density(getkey, outputs):
    k, y, _, _ = problem(getkey(), outputs=outputs)
    posterior = GaussianProcess(k, y, noise=0.2, relative_noise=0.1)
    covariance = np.asarray(k + posterior.data.noise * jnp.eye(6, dtype=DTYPE))
    density = scipy.stats.multivariate_normal(cov=covariance)
    expected = sum(density.logpdf(column) for column in np.reshape(y, (6, -1)).T)
    assert_close(posterior.log_marginal_likelihood(), expected)


@pytest.mark.slow
def test_leave_one_out_leaves_one_out(getkey):
    k, y, _, _ = problem(getkey())
    noise = jnp.linspace(0.1, 0.5, 6, dtype=DTYPE)
    posterior = GaussianProcess(k, y, noise=noise)
    mean, variance = posterior.leave_one_out()
    density = 0
    for i in range(6):
        rest = np.delete(np.arange(6), i)
        one = GaussianProcess(k[np.ix_(rest, rest)], y[rest], noise=noise[rest])
        expected = one.mean(k[i : i + 1, rest])[0]
        spread = one.variance(k[i : i + 1, rest], k[i : i + 1, i])[0] + noise[i]
        assert_close(mean[i], expected)
        assert_close(variance[i], np.full(3, spread))
        density += scipy.stats.norm.logpdf(y[i], expected, np.sqrt(spread)).sum()
    assert_close(posterior.leave_one_out_log_density(), density)


# ------------------------------------------------------------------------------------
# Transformations.
# ------------------------------------------------------------------------------------


OUTPUTS = ["mean", "covariance", "variance", "evidence", "leave one out"]


def _predict(k, y, k_star, k_star_star, noise):
    posterior = GaussianProcess(k, y, noise=noise, relative_noise=0.01)
    covariance = posterior.covariance(k_star, k_star_star)
    variance = posterior.variance(k_star, jnp.diagonal(k_star_star))
    scores = (
        posterior.log_marginal_likelihood(),
        posterior.leave_one_out_log_density(),
    )
    return posterior.mean(k_star), covariance, variance, *scores


@pytest.mark.slow
@pytest.mark.parametrize("jit", [jax.jit, eqx.filter_jit])
def test_jit(getkey, jit):
    arguments = (*problem(getkey()), jnp.asarray(0.3, DTYPE))
    for compiled, eager in zip(
        jit(_predict)(*arguments), _predict(*arguments), strict=True
    ):
        assert_close(compiled, eager)


@pytest.mark.slow
def test_vmap(getkey):
    several = [(*problem(getkey()), jnp.asarray(noise, DTYPE)) for noise in (0.1, 1.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    batched = jax.vmap(_predict)(*stacked)
    for i, arguments in enumerate(several):
        for many, one in zip(batched, _predict(*arguments), strict=True):
            assert_close(many[i], one)


@pytest.mark.slow
def test_vmap_over_the_noise_alone(getkey):
    k, y, k_star, _ = problem(getkey())
    noises = jnp.asarray([0.1, 1.0, 10.0], DTYPE)
    fit = lambda noise: GaussianProcess(k, y, noise=noise)
    means = eqx.filter_vmap(lambda posterior: posterior.mean(k_star))(
        jax.vmap(fit)(noises)
    )
    for mean, noise in zip(means, noises, strict=True):
        assert_close(mean, fit(noise).mean(k_star))


@pytest.mark.parametrize("output", range(5), ids=OUTPUTS)
@pytest.mark.parametrize("argument", range(5), ids=["k", "y", "k*", "k**", "noise"])
@pytest.mark.slow
@pytest.mark.precision("float64")  # finite differences need it
def test_gradient_is_that_of_finite_differences(getkey, output, argument):
    arguments = [*problem(getkey()), jnp.asarray(0.3, DTYPE)]
    weights = jr.normal(getkey(), _predict(*arguments)[output].shape, DTYPE)
    direction = jr.normal(getkey(), arguments[argument].shape, DTYPE)
    if argument in (0, 3):
        direction = direction + direction.T  # stay among the symmetric matrices

    @jax.jit
    def along(step):
        moved = list(arguments)
        moved[argument] = moved[argument] + step * direction
        return jnp.sum(weights * _predict(*moved)[output])

    zero, step = jnp.zeros(()), 1e-5
    difference = (along(zero + step) - along(zero - step)) / (2 * step)
    np.testing.assert_allclose(
        jax.grad(along)(zero),
        difference,
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.slow
def test_gradient_of_the_kernel_is_symmetric(getkey):
    k, y, k_star, _ = problem(getkey())
    gradient = jax.grad(lambda k: jnp.sum(GaussianProcess(k, y).mean(k_star)))(k)
    assert_close(gradient, gradient.T)


# ------------------------------------------------------------------------------------
# Errors.
# ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _without_jaxtyping():
    """As a user has it, who does not install the hook that checks shapes before us."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


K, Y = np.eye(3, dtype=DTYPE), np.ones((3, 2), DTYPE)

SPATIAL = np.ones((3, 3, 2, 2), DTYPE)
STATIC_ERRORS = {
    "not square": (K[:2], Y[:2], {}, r"`k_train_train` has shape \(2, 3\).*themselves"),
    "vector": (K[0], Y, {}, r"shape \(3,\).*\(n_train, n_train\) is needed"),
    "spatial": (SPATIAL, Y[:, :1], {}, r"at \(2,\) positions.*`nn\.Flatten`"),
    "few targets": (K, Y[:2], {}, r"`y_train` has shape \(2, 2\).*for 3 training"),
    "transposed targets": (K, Y.T, {}, r"`y_train` has shape \(2, 3\).*first axis"),
    "scalar targets": (K, Y[0, 0], {}, r"`y_train` has shape \(\)"),
    "integer kernel": (K.astype(np.int32), Y, {}, r"`k_train_train` is int32"),
    "integer targets": (K, Y.astype(np.int32), {}, r"`y_train` is int32.*encode"),
    "short noise": (K, Y, {"noise": np.ones(2, DTYPE)}, r"`noise` has shape \(2,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", STATIC_ERRORS.values(), ids=STATIC_ERRORS.keys())
def test_what_does_not_fit_is_refused(case):
    k, y, options, message = case
    with _without_jaxtyping(), pytest.raises(ValueError, match=message):
        GaussianProcess(*jax.tree.map(jnp.asarray, (k, y)), **options)


@pytest.mark.parametrize(
    ("k_test_train", "message"),
    [
        (
            np.ones((4, 2)),
            r"`k_test_train` has shape \(4, 2\).*\(n_test, 3\) is needed\.$",
        ),
        (
            np.ones((3, 4)),
            r"shape \(3, 4\).*\(n_test, 3\) is needed\. It looks transposed",
        ),
        (np.ones(3), r"`k_test_train` has shape \(3,\).*\(n_test, 3\) is needed"),
    ],
)
def test_test_examples_that_do_not_fit_are_refused(k_test_train, message):
    posterior = GaussianProcess(jnp.asarray(K), jnp.asarray(Y))
    k_test_train, many = jnp.asarray(k_test_train, DTYPE), jnp.ones((4, 4), DTYPE)
    for call in (
        posterior.mean,
        lambda k: posterior.covariance(k, many),
        lambda k: posterior.variance(k, many[0]),
    ):
        with _without_jaxtyping(), pytest.raises(ValueError, match=message):
            call(k_test_train)


def test_test_covariances_that_do_not_fit_are_refused():
    posterior = GaussianProcess(jnp.asarray(K), jnp.asarray(Y))
    k_test_train, many = jnp.ones((2, 3), DTYPE), jnp.ones((4, 4), DTYPE)
    with _without_jaxtyping():
        with pytest.raises(
            ValueError, match=r"`k_test_test` has shape \(4, 4\).*\(2, 2\)"
        ):
            posterior.covariance(k_test_train, many)
        with pytest.raises(ValueError, match=r"\(4,\).*For the variances alone"):
            posterior.covariance(k_test_train, many[0])
        with pytest.raises(ValueError, match=r"\(4, 4\).*\(2,\).*jnp\.diagonal"):
            posterior.variance(k_test_train, many)


def test_mixed_dtypes_are_refused():
    posterior = GaussianProcess(jnp.asarray(K), jnp.asarray(Y))
    with pytest.raises(
        ValueError, match=r"`k_test_train` is float16, but .* float(32|64)"
    ):
        posterior.mean(jnp.ones((2, 3), jnp.float16))


NOISES = "`noise` and `relative_noise`"
SINGULAR = r"3 x 3 .* not\npositive definite in float(32|64).*noise"
VALUE_ERRORS = {
    "nan": (np.where(K == 1, K, np.nan), {}, "not finite"),
    "infinite": (np.where(K == 1, np.inf, K), {}, "not finite"),
    "asymmetric": (K + np.tri(3, dtype=DTYPE), {}, "not symmetric"),
    "negative noise": (K, {"noise": -0.5}, NOISES),
    "negative relative noise": (K, {"relative_noise": -0.5}, NOISES),
    "singular": (0 * K, {}, SINGULAR),
    "indefinite": (K - 0.5, {"noise": 0.1}, "not\npositive definite"),
}  # fmt: skip


@pytest.mark.quick(9)
@pytest.mark.parametrize(
    "transform", [lambda f: f, eqx.filter_jit], ids=["eager", "jit"]
)
@pytest.mark.parametrize("case", VALUE_ERRORS.values(), ids=VALUE_ERRORS.keys())
def test_what_is_not_a_covariance_is_refused(case, transform):
    k, options, message = case
    fit = transform(functools.partial(GaussianProcess, **options))
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        fit(jnp.asarray(k, DTYPE), jnp.asarray(Y))


@pytest.mark.slow
def test_one_bad_kernel_in_a_batch_is_refused():
    kernels = jnp.stack([jnp.asarray(K), -jnp.asarray(K)])
    with pytest.raises(RuntimeError, match="positive definite"):
        jax.vmap(lambda k: GaussianProcess(k, jnp.asarray(Y)).weights)(kernels)


def test_noise_mends_repeated_examples():
    k, y = jnp.ones((3, 3), DTYPE), jnp.asarray([1.0, 1.0, 1.3], DTYPE)
    mean = GaussianProcess(k, y, relative_noise=1e-4).mean(k[:1])
    np.testing.assert_allclose(mean, 1.1, rtol=1e-3)
