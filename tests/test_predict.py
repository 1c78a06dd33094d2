import contextlib
import functools
import json
import pathlib

import equinox as eqx
import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest

from eqtangents.predict import GaussianProcess


X64 = jax.config.read("jax_enable_x64")
DTYPE = jnp.float64 if X64 else jnp.float32
# Of a solve with the well-conditioned matrices below.
RTOL = 1e-10 if X64 else 2e-4


def _kernel(key, n, *, dtype=DTYPE):
    """A covariance with eigenvalues from about 1/2 to 5."""
    factor = jr.normal(key, (n, 2 * n), dtype)
    return factor @ factor.T / (2 * n) + 0.3 * jnp.eye(n, dtype=dtype)


def _problem(key, n_train=6, n_test=4, outputs=(3,)):
    """Train-train, test-train and test-test blocks of one covariance, and targets."""
    key_kernel, key_y = jr.split(key)
    joint = _kernel(key_kernel, n_train + n_test)
    y_train = jr.normal(key_y, (n_train, *outputs), DTYPE)
    k_test = joint[n_train:]
    return joint[:n_train, :n_train], y_train, k_test[:, :n_train], k_test[:, n_train:]


def _brute_force(k_train_train, y_train, k_test_train, k_test_test, noise):
    """Mean and covariance by the textbook formula, in float64 and with no Cholesky."""
    blocks = (k_train_train, k_test_train, k_test_test, noise)
    k, k_star, k_star_star, noise = (np.asarray(block, np.float64) for block in blocks)
    inverse = np.linalg.inv(k + noise * np.eye(len(k)))
    mean = np.einsum(
        "ij,jk,k...->i...", k_star, inverse, np.asarray(y_train, np.float64)
    )
    return mean, k_star_star - k_star @ inverse @ k_star.T


def _assert_close(actual, expected, rtol=RTOL, scale=0.0):
    """`scale`: size of the terms whose difference `expected` is, where larger."""
    expected = np.asarray(expected)
    scale = np.max(np.abs(expected), initial=scale)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * scale)


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
def test_is_the_textbook_formula(outputs, seed, n_train, n_test, noise):
    k, y, k_star, k_star_star = _problem(jr.key(seed), n_train, n_test, outputs)
    posterior = GaussianProcess(k, y, noise=noise)
    mean, covariance = _brute_force(k, y, k_star, k_star_star, noise)
    _assert_close(posterior.mean(k_star), mean)
    _assert_close(posterior.covariance(k_star, k_star_star), covariance)
    variance = posterior.variance(k_star, jnp.diagonal(k_star_star))
    _assert_close(variance, np.diagonal(covariance))


def test_relative_noise_counts_in_mean_variances(getkey):
    k, y, k_star, k_star_star = _problem(getkey())
    relative = GaussianProcess(k, y, noise=0.2, relative_noise=0.5)
    absolute = GaussianProcess(k, y, noise=0.2 + 0.5 * jnp.trace(k) / k.shape[0])
    _assert_close(relative.mean(k_star), absolute.mean(k_star))
    _assert_close(
        relative.covariance(k_star, k_star_star),
        absolute.covariance(k_star, k_star_star),
    )
    # ... and so does not depend on the kernel's scale.
    scaled = GaussianProcess(100 * k, y, relative_noise=0.5)
    unscaled = GaussianProcess(k, y, relative_noise=0.5)
    _assert_close(scaled.mean(100 * k_star), unscaled.mean(k_star))


def test_noise_can_differ_between_examples(getkey):
    k, y, k_star, k_star_star = _problem(getkey())
    noise = jnp.linspace(0.1, 2.0, k.shape[0], dtype=DTYPE)
    mean, covariance = _brute_force(k, y, k_star, k_star_star, noise)
    posterior = GaussianProcess(k, y, noise=noise)
    _assert_close(posterior.mean(k_star), mean)
    _assert_close(posterior.covariance(k_star, k_star_star), covariance)


def test_an_example_with_infinite_noise_is_not_there(getkey):
    k, y, k_star, k_star_star = _problem(getkey())
    noise = jnp.zeros(k.shape[0], DTYPE).at[-1].set(1e12)
    without = GaussianProcess(k[:-1, :-1], y[:-1])
    posterior = GaussianProcess(k, y, noise=noise)
    _assert_close(posterior.mean(k_star), without.mean(k_star[:, :-1]))
    _assert_close(
        posterior.covariance(k_star, k_star_star),
        without.covariance(k_star[:, :-1], k_star_star),
    )


def test_without_noise_it_interpolates_the_targets(getkey):
    k, y, _, _ = _problem(getkey())
    posterior = GaussianProcess(k, y)
    _assert_close(posterior.mean(k), y)
    atol = 10 * RTOL
    np.testing.assert_allclose(posterior.covariance(k, k), 0 * k, atol=atol)
    np.testing.assert_allclose(posterior.variance(k, jnp.diagonal(k)), 0, atol=atol)


def test_with_infinite_noise_it_is_the_prior(getkey):
    k, y, k_star, k_star_star = _problem(getkey())
    posterior = GaussianProcess(k, y, noise=1e12)
    np.testing.assert_allclose(posterior.mean(k_star), 0, atol=1e-10)
    _assert_close(posterior.covariance(k_star, k_star_star), k_star_star)
    _assert_close(
        posterior.variance(k_star, jnp.diagonal(k_star_star)), jnp.diagonal(k_star_star)
    )


def test_without_training_examples_it_is_the_prior(getkey):
    _, _, k_star, k_star_star = _problem(getkey())
    posterior = GaussianProcess(jnp.zeros((0, 0), DTYPE), jnp.zeros((0, 2), DTYPE))
    nothing = k_star[:, :0]
    np.testing.assert_array_equal(posterior.mean(nothing), np.zeros((4, 2)))
    np.testing.assert_array_equal(
        posterior.covariance(nothing, k_star_star), k_star_star
    )


@hyp.given(seed=st.integers(0, 2**31 - 1), n_train=st.sampled_from([1, 5]))
@hyp.settings(max_examples=10)
def test_an_observation_never_adds_variance(seed, n_train):
    k, y, k_star, k_star_star = _problem(jr.key(seed), n_train)
    more = GaussianProcess(k, y).covariance(k_star, k_star_star)
    fewer = GaussianProcess(k[:-1, :-1], y[:-1]).covariance(k_star[:, :-1], k_star_star)
    np.testing.assert_array_equal(more, more.T)
    assert jnp.min(jnp.linalg.eigvalsh(more)) > -RTOL
    assert jnp.min(jnp.linalg.eigvalsh(fewer - more)) > -RTOL


def test_variance_is_never_negative():
    # Nearly repeated examples: rounding is then larger than the variance that remains.
    x = jnp.linspace(0, 1, 40, dtype=DTYPE)
    k = jnp.exp(-((x[:, None] - x[None, :]) ** 2))
    posterior = GaussianProcess(k, x, relative_noise=1e-12 if X64 else 1e-5)
    variance = posterior.variance(k, jnp.diagonal(k))
    assert jnp.all(variance >= 0)
    assert jnp.all(jnp.isfinite(jnp.sqrt(variance)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64] if X64 else [jnp.float32])
def test_keeps_the_dtype_of_the_kernel(getkey, dtype):
    k, k_star = _kernel(getkey(), 5, dtype=dtype), jnp.ones((2, 5), dtype)
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
# Transformations.
# ------------------------------------------------------------------------------------


def _predict(k, y, k_star, k_star_star, noise):
    posterior = GaussianProcess(k, y, noise=noise, relative_noise=0.01)
    covariance = posterior.covariance(k_star, k_star_star)
    variance = posterior.variance(k_star, jnp.diagonal(k_star_star))
    return posterior.mean(k_star), covariance, variance


@pytest.mark.parametrize("jit", [jax.jit, eqx.filter_jit])
def test_jit(getkey, jit):
    problem = (*_problem(getkey()), jnp.asarray(0.3, DTYPE))
    for compiled, eager in zip(
        jit(_predict)(*problem), _predict(*problem), strict=True
    ):
        _assert_close(compiled, eager)


def test_vmap(getkey):
    problems = [
        (*_problem(getkey()), jnp.asarray(noise, DTYPE)) for noise in (0.1, 1.0)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    batched = jax.vmap(_predict)(*stacked)
    for i, problem in enumerate(problems):
        for many, one in zip(batched, _predict(*problem), strict=True):
            _assert_close(many[i], one)


def test_vmap_over_the_noise_alone(getkey):
    k, y, k_star, _ = _problem(getkey())
    noises = jnp.asarray([0.1, 1.0, 10.0], DTYPE)
    fit = lambda noise: GaussianProcess(k, y, noise=noise)
    means = eqx.filter_vmap(lambda posterior: posterior.mean(k_star))(
        jax.vmap(fit)(noises)
    )
    for mean, noise in zip(means, noises, strict=True):
        _assert_close(mean, fit(noise).mean(k_star))


@pytest.mark.parametrize("output", [0, 1, 2], ids=["mean", "covariance", "variance"])
@pytest.mark.parametrize("argument", range(5), ids=["k", "y", "k*", "k**", "noise"])
def test_gradient_is_that_of_finite_differences(getkey, output, argument):
    arguments = [*_problem(getkey()), jnp.asarray(0.3, DTYPE)]
    weights = jr.normal(getkey(), _predict(*arguments)[output].shape, DTYPE)
    direction = jr.normal(getkey(), arguments[argument].shape, DTYPE)
    if argument in (0, 3):
        direction = direction + direction.T  # stay among the symmetric matrices

    @jax.jit
    def along(step):
        moved = list(arguments)
        moved[argument] = moved[argument] + step * direction
        return jnp.sum(weights * _predict(*moved)[output])

    zero, step = jnp.zeros((), DTYPE), 1e-5 if X64 else 3e-3
    difference = (along(zero + step) - along(zero - step)) / (2 * step)
    np.testing.assert_allclose(
        jax.grad(along)(zero),
        difference,
        rtol=1e-6 if X64 else 1e-2,
        atol=1e-7 if X64 else 1e-2,
    )


def test_gradient_of_the_kernel_is_symmetric(getkey):
    k, y, k_star, _ = _problem(getkey())
    gradient = jax.grad(lambda k: jnp.sum(GaussianProcess(k, y).mean(k_star)))(k)
    _assert_close(gradient, gradient.T)


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

STATIC_ERRORS = {
    "not square": (K[:2], Y[:2], {}, r"`k_train_train` has shape \(2, 3\).*themselves"),
    "vector": (K[0], Y, {}, r"shape \(3,\).*\(n_train, n_train\) is needed"),
    "spatial": (np.ones((3, 3, 2, 2), DTYPE), Y, {}, r"\(3, 3, 2, 2\).*`nn\.Flatten`"),
    "few targets": (K, Y[:2], {}, r"`y_train` has shape \(2, 2\).*for 3 training"),
    "transposed targets": (K, Y.T, {}, r"`y_train` has shape \(2, 3\).*first axis"),
    "scalar targets": (K, Y[0, 0], {}, r"`y_train` has shape \(\)"),
    "integer kernel": (K.astype(np.int32), Y, {}, r"`k_train_train` is int32"),
    "integer targets": (K, Y.astype(np.int32), {}, r"`y_train` is int32.*one_hot"),
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
SINGULAR = r"3 x 3 .* not\npositive definite in float(32|64).*relative_noise"
VALUE_ERRORS = {
    "nan": (np.where(K == 1, K, np.nan), {}, "not finite"),
    "infinite": (np.where(K == 1, np.inf, K), {}, "not finite"),
    "asymmetric": (K + np.tri(3, dtype=DTYPE), {}, "not symmetric"),
    "negative noise": (K, {"noise": -0.5}, NOISES),
    "negative relative noise": (K, {"relative_noise": -0.5}, NOISES),
    "singular": (0 * K, {}, SINGULAR),
    "indefinite": (K - 0.5, {"noise": 0.1}, "not\npositive definite"),
}  # fmt: skip


@pytest.mark.parametrize(
    "transform", [lambda f: f, eqx.filter_jit], ids=["eager", "jit"]
)
@pytest.mark.parametrize("case", VALUE_ERRORS.values(), ids=VALUE_ERRORS.keys())
def test_what_is_not_a_covariance_is_refused(case, transform):
    k, options, message = case
    fit = transform(functools.partial(GaussianProcess, **options))
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        fit(jnp.asarray(k, DTYPE), jnp.asarray(Y))


def test_one_bad_kernel_in_a_batch_is_refused():
    kernels = jnp.stack([jnp.asarray(K), -jnp.asarray(K)])
    with pytest.raises(RuntimeError, match="positive definite"):
        jax.vmap(lambda k: GaussianProcess(k, jnp.asarray(Y)).weights)(kernels)


def test_noise_mends_repeated_examples():
    k, y = jnp.ones((3, 3), DTYPE), jnp.asarray([1.0, 1.0, 1.3], DTYPE)
    mean = GaussianProcess(k, y, relative_noise=1e-4).mean(k[:1])
    np.testing.assert_allclose(mean, 1.1, rtol=1e-3)


# ------------------------------------------------------------------------------------
# Against Neural Tangents 0.6.5.
# ------------------------------------------------------------------------------------

CASES = pathlib.Path(__file__).resolve().parents[2] / "shared" / "reference" / "cases"
NAMES = ["gp_basic", "gp_absolute_reg", "gp_relative_reg"]


def _reference(name):
    path = CASES / f"predict__{name}.npz"
    if not path.exists():
        pytest.skip(f"the reference cases are not beside this clone: no {path}")
    with np.load(path) as arrays:
        return json.loads(str(arrays["doc"])), dict(arrays)


def _value(argument, arrays, which):
    """An argument of a reference call as an array: `which` kernel, where it has two."""
    while isinstance(argument, dict):
        argument = (
            argument["kernel"][which]
            if "kernel" in argument
            else arrays[argument["array"]]
        )
    return argument if argument is None else jnp.asarray(argument, DTYPE)


def _fit_reference(doc, arrays, which, start=0.0):
    init = doc["init"]
    key = "noise" if init.get("diag_reg_absolute_scale", False) else "relative_noise"
    return GaussianProcess(
        _value(init["k_train_train"], arrays, which),
        _value(init["y_train"], arrays, which) - start,
        **{key: init.get("diag_reg", 0.0)},
    )


@pytest.mark.parametrize("name", NAMES)
def test_posterior_agrees_with_the_reference(name):
    doc, arrays = _reference(name)
    compared = 0
    for call in doc["calls"]:
        for output, key in call["outputs"].items():
            # The covariance of `ntk` is the trained ensemble's: another formula.
            prior, moment = output.split(".")
            if (prior, moment) == ("ntk", "cov") or call["args"][
                "k_test_train"
            ] is None:
                continue
            which = "nngp" if prior == "nngp" else "ntk"
            posterior = _fit_reference(doc, arrays, which)
            k_test_train = _value(call["args"]["k_test_train"], arrays, which)
            if moment == "mean":
                result, scale = posterior.mean(k_test_train), 0.0
            else:
                k_test_test = _value(call["args"]["k_test_test"], arrays, which)
                result = posterior.covariance(k_test_train, k_test_test)
                scale = jnp.max(k_test_test)
            _assert_close(result, arrays[key], 1e-9 if X64 else 1e-3, scale)
            compared += 1
    assert compared >= 10


@pytest.mark.parametrize(
    "name",
    ["mse_ntk_basic", "mse_nngp_relative_reg", "mse_absolute_reg", "mse_init_outputs"],
)
def test_mean_is_gradient_descent_for_an_infinite_time(name):
    doc, arrays = _reference(name)
    compared = 0
    for call in doc["calls"]:
        arguments, key = call["args"], call["outputs"].get("fx_test")
        if key and arguments["t"] in (None, "inf"):
            # What is learnt is the distance to the targets from where training starts.
            start_train = _value(arguments["fx_train_0"] or 0.0, arrays, "ntk")
            start_test = _value(arguments["fx_test_0"], arrays, "ntk")
            posterior = _fit_reference(doc, arrays, "ntk", start_train)
            k_test_train = _value(arguments["k_test_train"], arrays, "ntk")
            trained = start_test + posterior.mean(k_test_train)
            _assert_close(trained, arrays[key], rtol=1e-9 if X64 else 1e-3)
            compared += 1
    assert compared >= 2
