"""What one predictor refuses, all refuse, and in the same words."""

import functools
import traceback

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
from eqtangents._refuse import not_finite
from precision import DTYPE, by_precision
from predict_problems import assert_close, problem


def kernel():
    return jnp.eye(4, dtype=DTYPE) * 2 + 1


def targets():
    return jnp.arange(8, dtype=DTYPE).reshape(4, 2)


def k_test_train():
    return jnp.ones((3, 4), DTYPE)


# Each predictor of a kernel and targets, and what it says of other examples.
half = predict.half_mean_squared_error
PREDICTORS = {
    "gp": predict.GaussianProcess,
    "mse": predict.GradientDescentMSE,
    "ode": functools.partial(predict.GradientDescent, half),
    "ensemble": lambda k, y, **options: predict.Ensemble(
        eqt.Kernel(k, k), y, **options
    ),
    "last layer": lambda k, y, **options: predict.Ensemble(
        eqt.Kernel(k, k), y, trained="last", **options
    ),
}
TESTS = {
    "gp": lambda p, k: p.mean(k),
    "mse": lambda p, k: p.test_outputs(1.0, k),
    "ode": lambda p, k: p.test_outputs(p.start(), k),
    "ensemble": lambda p, k: p.mean(1.0, eqt.Kernel(k, k)),
    "last layer": lambda p, k: p.mean(1.0, eqt.Kernel(k, k)),
}
each = pytest.mark.parametrize("name", PREDICTORS)
with_noise = pytest.mark.parametrize("name", [n for n in PREDICTORS if n != "ode"])
with_times = pytest.mark.parametrize("name", ["mse", "ensemble", "last layer"])
plain = pytest.mark.usefixtures("without_jaxtyping")

NAN, INF = float("nan"), float("inf")


@pytest.mark.quick(5)
@each
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("where", ["k_train_train", "y_train", "k_test_train"])
def test_what_is_not_finite_is_refused(name, bad, where):
    k, y, star = kernel(), targets(), k_test_train()
    if where == "k_train_train":
        k = k.at[1, 2].set(bad)
    elif where == "y_train" and name != "ode":
        y = y.at[1, 1].set(bad)
    elif where == "y_train":
        y = y.at[1, 1].set(bad)
    else:
        star = star.at[1, 1].set(bad)
    message = f"`{where}` holds .*" + ("inputs" if where != "y_train" else "NaN")
    with pytest.raises(RuntimeError, match=f"(?s){message}") as caught:
        TESTS[name](PREDICTORS[name](k, y), star)
    assert type(caught.value) is RuntimeError  # Python's own
    assert "debug" not in str(caught.value)


@pytest.mark.parametrize("shape", [(3,), (5000,), (100, 100), (7, 40, 50)])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_one_value_is_found_among_many(shape, bad):
    # A maximum of many numbers may lose NaN on CPUs.
    x = jnp.ones(shape, DTYPE)
    assert not not_finite(x)
    assert not_finite(x.at[(-1,) * len(shape)].set(bad))


@pytest.mark.precision("float64")
@each
def test_kernels_in_single_precision_are_refused_where_double_is_enabled(name):
    indefinite = -jnp.eye(4, dtype=jnp.float32)
    with pytest.raises(RuntimeError, match="smallest eigenvalue is -1"):
        PREDICTORS[name](indefinite, targets().astype(jnp.float32))


@pytest.mark.slow
@each
def test_compiled_it_is_refused_too(name):
    def outputs(k, y):
        predictor = PREDICTORS[name](k, y)
        data = getattr(predictor, "training", predictor).data
        return TESTS[name](
            predictor, k_test_train()
        ), data.kernel  # all that is checked is used

    fit = eqx.filter_jit(outputs)
    for found, expected in zip(
        fit(kernel(), targets()), outputs(kernel(), targets()), strict=True
    ):
        assert_close(found, expected)
    with pytest.raises(RuntimeError) as caught:
        fit(kernel().at[0, 0].set(NAN), targets())
    assert "`k_train_train` holds a value that is not finite" in str(caught.value)


@with_noise
@pytest.mark.parametrize("option", ["noise", "relative_noise"])
@pytest.mark.parametrize("bad", [-0.5, NAN, INF])
def test_a_noise_is_a_variance(name, option, bad):
    with pytest.raises(RuntimeError, match="`noise` and `relative_noise` are var"):
        PREDICTORS[name](kernel(), targets(), **{option: bad})


@pytest.mark.quick(3)
@with_times
@pytest.mark.parametrize("bad", [-1.0, NAN, [1.0, -1e-3]])
def test_times_are_from_zero(name, bad):
    predictor = PREDICTORS[name](kernel(), targets())
    star = (
        k_test_train() if name == "mse" else eqt.Kernel(k_test_train(), k_test_train())
    )
    trained = predictor.train_outputs if name == "mse" else predictor.train_mean
    tested = predictor.test_outputs if name == "mse" else predictor.mean
    bad = jnp.asarray(bad, DTYPE)
    for call in (trained, lambda t: tested(t, star)):
        with pytest.raises(
            RuntimeError, match=r"`t` must be at least zero and not NaN"
        ):
            call(bad)
        assert call(jnp.asarray(jnp.inf)).shape[-1] == 2


@pytest.mark.slow
def test_a_trajectory_ends_where_it_ends():
    training = predict.GradientDescent(half, kernel(), targets())
    trajectory = training.trajectory(2.0)
    np.testing.assert_allclose(
        trajectory(1.0).outputs, training.states(1.0).outputs, atol=1e-3
    )
    for bad in (-1.0, 2.5, NAN):
        with pytest.raises(RuntimeError, match=r"time of the state .* followed to"):
            trajectory(bad)


@plain
@each
def test_both_kernels_are_not_a_matrix(name):
    if name in ("ensemble", "last layer"):
        with pytest.raises(ValueError, match="needs the NNGP"):
            predict.Ensemble(kernel(), targets())
        return
    for both in (eqt.Kernel(kernel(), kernel()),):
        pattern = (
            r"is a `(Empirical)?Kernel`, both kernels: pass its `\.ntk` or `\.nngp`"
        )
        with pytest.raises(ValueError, match="`k_train_train` " + pattern):
            PREDICTORS[name](both, targets())
        with pytest.raises(ValueError, match="`k_test_train` " + pattern):
            TESTS[name](PREDICTORS[name](kernel(), targets()), both)


NET = nn.Sequential([nn.Linear(8), nn.Relu(), nn.Linear(1)])
NO_ARRAYS = {
    "string": ("kernel", "'kernel'"),
    "nothing": (None, "`None`"),
    "class": (nn.Linear, "the class `Linear`"),
    "network": (NET, r"a network \(`Sequential`\).*`eqtangents\.nngp\(net, x1, x2\)`"),
    "ragged": ([[1.0, 2.0], [1.0]], "a list of 2"),
    "function": (eqt.nngp, "the function `nngp`"),
}


@pytest.mark.quick(9)
@plain
@each
@pytest.mark.parametrize("case", NO_ARRAYS.values(), ids=NO_ARRAYS.keys())
def test_what_is_no_array_is_said(name, case):
    bad, message = case
    for k, y, where in (
        (bad, targets(), r"k_train_train(\.nngp)?"),
        (kernel(), bad, "y_train"),
    ):
        if name in ("ensemble", "last layer") and where != "y_train" and bad is None:
            continue
        with pytest.raises(TypeError, match=f"(?s)`{where}` is {message}"):
            PREDICTORS[name](k, y)
    with pytest.raises(TypeError, match=rf"(?s)`k_test_train(\.nngp)?` is {message}"):
        TESTS[name](PREDICTORS[name](kernel(), targets()), bad)


@plain
@each
def test_lists_and_numpy_are_arrays(name):
    expected = TESTS[name](PREDICTORS[name](kernel(), targets()), k_test_train())
    lists = PREDICTORS[name](kernel().tolist(), targets().tolist())
    np.testing.assert_allclose(
        TESTS[name](lists, k_test_train().tolist()), expected, rtol=1e-5
    )
    doubles = [np.asarray(a, np.float64) for a in (kernel(), targets(), k_test_train())]
    numpy = PREDICTORS[name](*doubles[:2])
    found = TESTS[name](numpy, doubles[2])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == expected.dtype


@pytest.mark.slow
@plain
def test_times_and_variances_may_be_lists():
    training, ensemble = (
        PREDICTORS[n](kernel(), targets()) for n in ("mse", "ensemble")
    )
    outputs = training.test_outputs([[0.0, 2.0]], k_test_train())
    assert outputs.shape == (1, 2, 3, 2)
    assert_close(outputs[0, 1], training.test_outputs(2.0, k_test_train()))
    both = eqt.Kernel(k_test_train(), k_test_train())
    found = ensemble.variance([1.0, 2.0], both, [2.0, 2.0, 2.0])
    expected = ensemble.variance(2.0, both, jnp.full(3, 2, DTYPE))
    assert_close(found[1], expected)
    found = PREDICTORS["gp"](kernel(), targets()).variance(
        k_test_train(), [2.0, 2.0, 2.0]
    )
    assert found.shape == (3,)


@plain
@pytest.mark.parametrize("name", ["gp", "mse"])
def test_swapped_arguments_are_said(name):
    with pytest.raises(ValueError, match="`y_train` seem to be swapped"):
        PREDICTORS[name](targets(), kernel())
    with pytest.raises(ValueError, match=r"For inputs .*`eqtangents\.nngp\(net, x_tr"):
        PREDICTORS[name](jnp.ones((4, 3), DTYPE), targets())
    square = jr.normal(jr.key(0), (4, 4), DTYPE)
    with pytest.raises(RuntimeError, match=r"(?s)not symmetric.*were the inputs"):
        PREDICTORS[name](square, targets())


@pytest.mark.slow
@plain
def test_times_come_first():
    training, ensemble = (
        PREDICTORS[n](kernel(), targets()) for n in ("mse", "ensemble")
    )
    with pytest.raises(ValueError, match="The time comes before the kernel"):
        training.test_outputs(k_test_train(), 1.0)
    with pytest.raises(ValueError, match="Times come before kernels"):
        ensemble.mean(eqt.Kernel(k_test_train(), k_test_train()), k_test_train())
    with pytest.raises(TypeError, match=r"`state` is 1.0.*`states\(t\)`"):
        PREDICTORS["ode"](kernel(), targets()).test_outputs(1.0, k_test_train())
    with pytest.raises(TypeError, match="`loss` is an array of shape"):
        predict.GradientDescent(kernel(), targets(), half)


# Each hyperparameter that is one number: how it is passed.
SCALARS = {
    "relative_noise": lambda v: predict.GaussianProcess(
        kernel(), targets(), relative_noise=v
    ),
    "relative_noise, mse": lambda v: predict.GradientDescentMSE(
        kernel(), targets(), relative_noise=v
    ),
    "target_noise": lambda v: PREDICTORS["ensemble"](
        kernel(), targets(), target_noise=v
    ),
    "learning_rate": lambda v: PREDICTORS["ode"](kernel(), targets(), learning_rate=v),
    "momentum": lambda v: PREDICTORS["ode"](kernel(), targets(), momentum=v),
    "weight_decay": lambda v: PREDICTORS["ode"](kernel(), targets(), weight_decay=v),
    "weight_decay, flow": lambda v: predict.GradientFlow(weight_decay=v),
    "weight_decay, steps": lambda v: predict.GradientSteps(weight_decay=v),
    "momentum, steps": lambda v: predict.GradientSteps(momentum=v),
    "momentum, rate": lambda v: predict.max_learning_rate(kernel(), momentum=v),
    "noise": lambda v: predict.condition_number(kernel(), noise=v),
    "temperature": lambda v: predict.sampled_class_probabilities(
        k_test_train()[None], temperature=v
    ),
}


@pytest.mark.quick(3)
@plain
@pytest.mark.parametrize("case", SCALARS)
def test_one_number_has_no_axes(case):
    name, call = case.split(",")[0], SCALARS[case]
    for shape in ((1,), (1, 1), (3,)):
        with pytest.raises(ValueError, match=rf"`{name}` has shape \({shape[0]},.*one"):
            call(jnp.ones(shape, DTYPE))
    with pytest.raises(TypeError, match=f"`{name}` is '0.5'"):
        call("0.5")
    for bad in (-0.1, NAN, INF):
        with pytest.raises(RuntimeError, match=r"must be finite"):
            call(jnp.asarray(bad, DTYPE))
        with pytest.raises(RuntimeError):
            call(bad)
    call(jnp.asarray(0.5, DTYPE))
    eqx.filter_jit(lambda v: jax.tree.leaves(call(v)))(jnp.asarray(0.5, DTYPE))


@plain
@pytest.mark.parametrize("rule", [predict.GradientFlow, predict.GradientSteps])
def test_learning_rates_are_a_number_or_a_vector(rule):
    with pytest.raises(ValueError, match=r"`learning_rate` has shape \(1, 3\)"):
        rule(jnp.ones((1, 3), DTYPE))
    with pytest.raises(RuntimeError, match="`learning_rate` is -1"):
        rule(-1.0)
    with pytest.raises(RuntimeError, match="`learning_rate` must be finite"):
        rule(jnp.ones(3, DTYPE).at[1].set(-1))
    with pytest.raises(TypeError, match=r"`rule` is 0.1.*`GradientFlow`"):
        predict.GradientDescentMSE(kernel(), targets(), rule=0.1)


def test_the_traceback_is_that_of_the_caller():
    def right():
        return predict.GaussianProcess(kernel(), targets(), noise=0.1)

    def wrong(k, noise):
        return predict.GaussianProcess(k, targets(), noise=noise)

    right()
    for k, noise in (
        (kernel().at[0, 0].set(NAN), 0.1),
        (kernel().at[0, 1].set(5), 0.1),
        (kernel(), -0.1),
    ):
        with pytest.raises(RuntimeError) as caught:
            wrong(k, noise)
        text = "".join(traceback.format_exception(caught.value))
        assert "in wrong" in text
        assert "in right" not in text
        assert "equinox/api/debug" not in text


# ------------------------------------------------------------------------------------
# Kernels that rounding made indefinite.
# ------------------------------------------------------------------------------------


def _spoiled(seed, n, negative, noise):
    """A smooth kernel's eigenvalues, of which the least are rounding, and noise."""
    vectors = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    values = np.maximum(n * 0.3 ** np.arange(n), 0)
    values[-1] = -negative
    k = jnp.asarray((vectors * values) @ vectors.T, DTYPE)
    return (k + k.T) / 2, noise


def _refuses(make):
    message = ""
    try:
        make()
    except RuntimeError as error:
        message = str(error)
    return "not\npositive definite" in message


@pytest.mark.slow
@hyp.given(
    seed=st.integers(0, 2**31 - 1),
    n=st.just(12),
    ratio=st.sampled_from([0.3, 1.05, 3.0, 8.0, 13.0, 25.0, 40.0]),
)
@hyp.settings(max_examples=12)
def test_noise_must_be_large_against_rounding_for_all_predictors(seed, n, ratio):
    negative = 1e-4
    k, noise = _spoiled(seed, n, negative, ratio * negative)
    y = jr.normal(jr.key(seed), (n, 1), DTYPE)
    refused = {
        name: _refuses(lambda name=name: PREDICTORS[name](k, y, noise=noise))
        for name in PREDICTORS
        if name != "ode"
    }
    assert refused == dict.fromkeys(refused, ratio < 30)


def _waves(n):
    """A regression on one wide dimension: its kernel is nearly singular."""
    lin = nn.Linear(1, weight_std=1.5, bias_std=0.05)
    net = nn.Sequential([lin, nn.Relu(), lin, nn.Relu(), lin])
    x, star = (jnp.linspace(-31.4159, 31.4159, m, dtype=DTYPE)[:, None] for m in (n, 5))
    y = jnp.sin(x) + jnp.sin(2 * x)
    return eqt.kernel(net, x), y, eqt.kernel(net, star, x)


def _in_the_end(k, y, star, **noise):
    return {
        "gp": lambda: predict.GaussianProcess(k.ntk, y, **noise).mean(star.ntk),
        "mse": lambda: predict.GradientDescentMSE(k.ntk, y, **noise).test_outputs(
            jnp.inf, star.ntk
        ),
        "ensemble": lambda: predict.Ensemble(k, y, **noise).mean(jnp.inf, star),
    }


@pytest.mark.slow
@pytest.mark.precision("float64")
def test_nearly_singular_kernels_in_double_precision():
    # As solved by NumPy.
    expected = [0.692437363, 8.46165e-5, 0, -8.46165e-5, -0.692437363]
    for call in _in_the_end(*_waves(600), relative_noise=1e-4).values():
        np.testing.assert_allclose(call().ravel(), expected, atol=1e-9)


@pytest.mark.slow
@pytest.mark.precision("float32")
@pytest.mark.parametrize("n", [100, 600])
@pytest.mark.parametrize("relative_noise", [0.0, 1e-4])
def test_nearly_singular_kernels_in_single_precision(n, relative_noise):
    # Rounding is not small against the noise, and alone it moves outputs by a tenth.
    waves = _waves(n)
    calls = _in_the_end(*waves, relative_noise=relative_noise)
    assert {name: _refuses(call) for name, call in calls.items()} == dict.fromkeys(
        calls, True
    )
    # Of more noise, and what the first steps learn, less than that remains.
    k, y, star = waves
    doubles = [np.asarray(a, np.float64) for a in (k.ntk, y, star.ntk)]
    matrix, y64, star64 = doubles
    noise = 0.01 * np.trace(matrix) / n * np.eye(n)
    expected = star64 @ np.linalg.solve(matrix + noise, y64)
    for call in _in_the_end(*waves, relative_noise=0.01).values():
        np.testing.assert_allclose(call(), expected, atol=0.01)
    values, vectors = np.linalg.eigh(matrix)
    for t in (0.1, 1.0, 5.0):
        gain = -np.expm1(-t * values / n) / values
        expected = star64 @ (vectors * gain) @ vectors.T @ y64
        training = predict.GradientDescentMSE(k.ntk, y)
        found = training.test_outputs(t, star.ntk)
        np.testing.assert_allclose(found, expected, atol=0.01)
        found = predict.Ensemble(k, y).mean(t, star)
        np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.slow
def test_without_noise_nothing_is_learned_of_rounding(getkey):
    # Eigenvalues go down to rounding, and what they are there is not known. At first
    # hardly anything is learned along those; later on, it would be rounding.
    k, y, _, _ = problem(getkey())
    _, vectors = np.linalg.eigh(np.asarray(k, np.float64))
    negative, n = 40 * float(jnp.finfo(k.dtype).eps), y.size
    answers = []
    for smallest in (-negative, negative):  # what it might be without rounding
        values = np.array([smallest, 10 * negative, 1e-2, 0.1, 1.0, 3.0])
        spoiled = jnp.asarray((vectors * values) @ vectors.T, DTYPE)
        spoiled = (spoiled + spoiled.T) / 2
        answers.append(predict.GradientDescentMSE(spoiled, y))
        if smallest < 0:
            training, indefinite = answers[0], spoiled
    long, star = n / negative, indefinite[:3]
    for t in (1e-2, 1.0, 50.0, long / 40):
        spoiled, right = (training.test_outputs(t, star) for training in answers)
        assert_close(spoiled, right, 0.1)
    for t in (long / 10, 1e30, jnp.inf):
        with pytest.raises(
            RuntimeError, match=r"(?s)not\s+positive definite.*less long"
        ):
            training.test_outputs(t, star)
        with pytest.raises(
            RuntimeError, match=r"(?s)not\s+positive definite.*less long"
        ):
            training.train_outputs(jnp.asarray([0.0, t], DTYPE))
    with pytest.raises(RuntimeError, match="positive definite"):
        predict.GaussianProcess(indefinite, y)
    # What decays learns little along it, for ever.
    rule = predict.GradientFlow(weight_decay=0.1)
    decayed = predict.GradientDescentMSE(indefinite, y, rule=rule)
    noisy = predict.GradientDescentMSE(indefinite, y, noise=0.1 * n)
    found = decayed.test_outputs(jnp.inf, star)
    assert_close(found, noisy.test_outputs(jnp.inf, star), 1e-4)


@pytest.mark.slow
def test_equations_do_not_grow_along_rounding(getkey):
    # Along a negative eigenvalue, errors would grow exponentially: noise is added.
    k, y, _, _ = problem(getkey())
    values, vectors = np.linalg.eigh(np.asarray(k, np.float64))
    values[0] = -5e-6
    spoiled = jnp.asarray((vectors * values) @ vectors.T, DTYPE)
    spoiled = (spoiled + spoiled.T) / 2
    assert np.linalg.eigvalsh(np.asarray(spoiled, np.float64))[0] < -2e-6
    training = predict.GradientDescent(half, spoiled, y)
    used = np.asarray(training.data.kernel, np.float64)
    assert np.linalg.eigvalsh(used)[0] >= 0
    np.testing.assert_allclose(used, spoiled, atol=2e-5)
    # Nothing is added to what is one already.
    training = predict.GradientDescent(half, k, y)
    np.testing.assert_array_equal(training.data.kernel, k)


@pytest.mark.parametrize("trained", ["all", "last"])
def test_both_kernels_of_an_ensemble_must_be_kernels(getkey, trained):
    k, y, _, _ = problem(getkey())
    ntk = k if trained == "last" else k + jnp.eye(6, dtype=DTYPE)
    bad = eqt.Kernel(k - 2 * jnp.eye(6, dtype=DTYPE), ntk)
    with pytest.raises(RuntimeError, match=r"(?s)not\s+positive (semi-)?def.*smallest"):
        predict.Ensemble(bad, y, trained=trained)


@pytest.mark.slow
def test_a_posterior_without_noise_does_not_invert_rounding(getkey):
    k, y, _, _ = problem(getkey())
    twice = jnp.asarray([0, 1, 2, 3, 4, 5, 0, 1])
    k, y = k[twice][:, twice], y[twice]
    tiny = by_precision(float64=1e-17, float32=1e-9)  # below rounding: no noise at all
    for noise in (0.0, tiny):
        with pytest.raises(RuntimeError, match="positive definite"):
            predict.GaussianProcess(k, y, noise=noise)
    mean = predict.GaussianProcess(k, y, noise=1e-3).mean(k)
    np.testing.assert_allclose(mean, y, atol=2e-2)


@pytest.mark.slow
def test_equations_are_not_solved_with_what_is_no_kernel(getkey):
    k, y, _, _ = problem(getkey())
    with pytest.raises(RuntimeError, match=r"(?s)not positive semi-definite.*smallest"):
        predict.GradientDescent(half, k - 2 * jnp.eye(6, dtype=DTYPE), y)
    singular = k.at[0].set(k[1]).at[:, 0].set(k[:, 1]).at[0, 0].set(k[1, 1])
    predict.GradientDescent(half, singular, y).states(1.0)


@pytest.mark.slow
def test_samples_of_blocks_that_do_not_belong_together_are_refused(getkey):
    k, y, star, star_star = problem(getkey())
    posterior = predict.GaussianProcess(k, y)
    with pytest.raises(RuntimeError, match="`k_test_train` and `k_test_test` blocks"):
        posterior.sample(10 * star, star_star, key=getkey())


# ------------------------------------------------------------------------------------
# Losses and labels.
# ------------------------------------------------------------------------------------


@plain
def test_losses_do_not_broadcast():
    with pytest.raises(ValueError, match=r"`outputs` has shape \(4, 2\).*\(4,\)"):
        predict.half_mean_squared_error(targets(), targets()[:, 0])
    with pytest.raises(ValueError, match=r"`labels` has shape \(3,\).*\(4,\)"):
        predict.cross_entropy(targets(), jnp.zeros(3, int))
    with pytest.raises(ValueError, match=r"`labels` has shape \(4,\) and dtype float"):
        predict.cross_entropy(targets(), targets()[:, 0])
    found = predict.cross_entropy(targets(), [0, 1, 1, 0])
    np.testing.assert_allclose(
        found, predict.cross_entropy(targets(), jnp.asarray([0, 1, 1, 0]))
    )


@plain
def test_labels_are_classes():
    np.testing.assert_allclose(predict.encode_labels([0, 1], 2, DTYPE)[0], [0.5, -0.5])
    for bad in ([0, 3], [-1, 0]):
        with pytest.raises(RuntimeError, match="from 0 to 2"):
            predict.encode_labels(bad, 3)
    with pytest.raises(RuntimeError, match="`variance` must be positive"):
        predict.class_probabilities(targets(), jnp.zeros(4, DTYPE))
    with pytest.raises(ValueError, match=r"`labels` has shape \(3,\).*\(4,\)"):
        predict.expected_calibration_error(targets(), jnp.zeros(3, int))


@pytest.mark.quick(1)
@pytest.mark.precision("float32")
@pytest.mark.parametrize("noise", [1.0, 0.0])
@pytest.mark.parametrize("n", [300, 40])
def test_the_noise_that_a_message_names_mends(n, noise):
    """Also where a factorisation rounds more than the kernel, which is exact here."""
    k, y = jnp.full((n, n), 1e6, jnp.float32), jnp.ones(n, jnp.float32)
    with pytest.raises(RuntimeError, match="not\npositive definite") as caught:
        predict.GaussianProcess(k, y, noise=noise)
    said = str(caught.value)
    more = float(said.split("`noise=")[-1].split("`")[0])
    predict.GaussianProcess(k, y, noise=noise + more)
    # As far as `n` times the rounding of one number is not needed.
    assert more < n * 1e6 * n * np.finfo(np.float32).eps / 4
    assert ("GramOperator" in said) == (noise > 0)
