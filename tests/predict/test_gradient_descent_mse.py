import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import scipy.linalg

from eqtangents.predict import (
    GaussianProcess,
    GradientDescentMSE,
    GradientFlow,
    GradientSteps,
    max_learning_rate,
)
from precision import DTYPE, is_double
from predict_problems import assert_close, assert_gradient, problem, tolerance


def times():
    return jnp.asarray([0.0, 1.0, 7.0, 50.0], DTYPE)


# One rule of each kind; learning rates are far below the largest for the problems here.
RULES = {
    "flow": lambda: GradientFlow(2.0),
    "flow, schedule": lambda: GradientFlow(jnp.asarray([3.0, 0.0, 1.0, 2.0], DTYPE)),
    "flow, decay": lambda: GradientFlow(2.0, weight_decay=0.05),
    "steps": lambda: GradientSteps(2.0),
    "steps, schedule": lambda: GradientSteps(jnp.asarray([3.0, 0.0, 1.0, 2.0], DTYPE)),
    "steps, decay": lambda: GradientSteps(2.0, weight_decay=0.05),
    "momentum": lambda: GradientSteps(1.0, momentum=0.8),
    "momentum, decay": lambda: GradientSteps(1.0, momentum=0.8, weight_decay=0.05),
    "Nesterov": lambda: GradientSteps(1.0, momentum=0.8, nesterov=True),
    "Nesterov, schedule": lambda: GradientSteps(
        jnp.asarray([3.0, 0.5, 1.0], DTYPE), momentum=0.8, nesterov=True
    ),
}
each_rule = pytest.mark.parametrize("rule", RULES, indirect=True)
FEW = ("flow, decay", "Nesterov, schedule")
few_rules = pytest.mark.parametrize("rule", FEW, indirect=True)


@pytest.fixture
def rule(request):
    return RULES[request.param]()


# ------------------------------------------------------------------------------------
# Rules.
# ------------------------------------------------------------------------------------


def _trained(rule, jacobian, y, steps):
    """Parameters of a linear model after so many steps of `optax.sgd`."""
    rates = jnp.atleast_1d(jnp.asarray(rule.learning_rate, DTYPE))
    rate = lambda i: rates[jnp.minimum(i, rates.shape[0] - 1)]
    optimiser = optax.sgd(
        rate, momentum=jnp.asarray(rule.momentum, DTYPE), nesterov=rule.nesterov
    )

    def loss(params):
        decay = jnp.asarray(rule.weight_decay, DTYPE) * jnp.sum(params**2) / 2
        return jnp.mean((jacobian @ params - y) ** 2) / 2 + decay

    @jax.jit
    def step(params, state):
        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    params = jnp.zeros((jacobian.shape[1], y.shape[1]), DTYPE)
    state = optimiser.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


@pytest.mark.parametrize("name", [name for name in RULES if "flow" not in name])
@pytest.mark.slow
def test_steps_are_those_of_optax(getkey, name):
    features, features_test = (jr.normal(getkey(), (n, 9), DTYPE) for n in (6, 4))
    y = jr.normal(getkey(), (6, 2), DTYPE)
    training = GradientDescentMSE(features @ features.T, y, rule=RULES[name]())
    for steps in (1, 2, 20):
        params = _trained(RULES[name](), features, y, steps)
        # Rounding is of the size of what is learned, which may be small.
        expected = features_test @ params
        outputs = training.test_outputs(steps, features_test @ features.T)
        assert_close(outputs, expected, 10 * tolerance())
        # Between steps nothing happens.
        later = training.test_outputs(steps + 0.7, features_test @ features.T)
        np.testing.assert_array_equal(later, outputs)
        assert_close(training.train_outputs(steps), features @ params, 10 * tolerance())


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", [name for name in RULES if "flow" in name])
def test_flow_solves_its_equation(getkey, name):
    k, y, k_star, _ = problem(getkey())
    rule = RULES[name]()
    outputs = GradientDescentMSE(k, y, rule=rule).test_outputs(times(), k_star)
    # d/dt of the weights is -rate ((K / N + decay) w - y / N), at any time.
    rates = np.atleast_1d(rule.learning_rate)
    matrix = np.asarray(k, float) / y.size + float(rule.weight_decay) * np.eye(len(k))
    for t, output in zip(times(), outputs, strict=True):
        spent = np.clip(float(t) - np.arange(len(rates)), 0, 1)
        spent[-1] = max(float(t) - len(rates) + 1, 0)
        forgotten = scipy.linalg.expm(-matrix * float(np.sum(rates * spent)))
        weights = np.linalg.solve(matrix, y / y.size - forgotten @ (y / y.size))
        assert_close(output, k_star @ weights)


@pytest.mark.quick(8)
@each_rule
def test_gain_at_zero_curvature_is_its_limit(rule):
    gain = eqx.filter_jit(lambda curvature, t: rule.gain(curvature, t))
    tiny = jnp.asarray([0.0, 1e-12 if is_double() else 1e-7], DTYPE)
    for t in times():
        limit, near = gain(tiny, t)
        np.testing.assert_allclose(limit, near, rtol=1e-4)
    assert gain(tiny, times()[-1])[0] > 0
    decay = float(rule.weight_decay)
    expected = 1 / decay if decay else 0
    np.testing.assert_allclose(gain(tiny, jnp.inf)[0], expected, rtol=1e-6)


def test_many_small_steps_are_not_lost_in_rounding():
    curvature = jnp.asarray([1e-3, 1.0, 3.0], DTYPE)
    steps = GradientSteps(1e-6).gain(curvature, 1e6)
    flow = GradientFlow(1e-6).gain(curvature, 1e6)
    np.testing.assert_allclose(steps, flow, rtol=3e-6 if is_double() else 1e-4)


@pytest.mark.slow
def test_steps_diverge_exactly_above_the_largest_learning_rate(getkey):
    k, y, _, _ = problem(getkey())
    for options in ({}, {"momentum": 0.7}, {"momentum": 0.7, "nesterov": True}):
        limit = max_learning_rate(k, n_targets=y.size, **options)
        for factor, converges in ((0.99, True), (1.01, False)):
            rule = GradientSteps(factor * limit, **options)
            outputs = GradientDescentMSE(k, y, rule=rule).train_outputs(5e3)
            assert (jnp.max(jnp.abs(outputs - y)) < 1e-2) == converges
            final = rule.gain(jnp.linalg.eigvalsh(k) / y.size, jnp.inf)
            assert jnp.all(jnp.isfinite(final)) == converges


# ------------------------------------------------------------------------------------
# Laws of the predictor.
# ------------------------------------------------------------------------------------


@pytest.mark.slow
@few_rules
def test_starts_at_the_initial_outputs(getkey, rule):
    k, y, k_star, _ = problem(getkey())
    training = GradientDescentMSE(k, y, rule=rule)
    start, start_star = jr.normal(getkey(), (2, 6, 3), DTYPE)
    start_star = start_star[:4]
    assert_close(training.train_outputs(0, start), start)
    outputs = training.test_outputs(0, k_star, start, start_star)
    np.testing.assert_array_equal(outputs, start_star)


@pytest.mark.slow
@each_rule
def test_ends_at_kernel_ridge_regression(getkey, rule):
    k, y, k_star, _ = problem(getkey())
    training = GradientDescentMSE(k, y, rule=rule)
    start = jr.normal(getkey(), y.shape, DTYPE)
    ridge = GaussianProcess(k, y - start, noise=rule.weight_decay * y.size)
    for t in (jnp.inf, 1e5):
        outputs = training.test_outputs(t, k_star, start, 0.5)
        assert_close(outputs, 0.5 + ridge.mean(k_star), 10 * tolerance())
        assert_close(
            training.train_outputs(t, start), start + ridge.mean(k), 10 * tolerance()
        )


@pytest.mark.slow
@few_rules
def test_training_examples_are_examples(getkey, rule):
    k, y, _, _ = problem(getkey())
    start = jr.normal(getkey(), y.shape, DTYPE)
    for noise in (0.0, 0.3, jnp.linspace(0, 1, 6, dtype=DTYPE)):
        training = GradientDescentMSE(k, y, rule=rule, noise=noise)
        outputs = training.test_outputs(times(), k, start, start)
        assert_close(training.train_outputs(times(), start), outputs, 10 * tolerance())
        weights = training.weights(times(), start)
        moved = start[None] + jnp.einsum("ij,tjc->tic", k, weights)
        assert_close(outputs, moved)


@pytest.mark.slow
def test_noise_is_weight_decay(getkey):
    k, y, k_star, _ = problem(getkey())
    noise = 0.7
    decay = noise / y.size
    for make in (GradientFlow, GradientSteps):
        noisy = GradientDescentMSE(k, y, rule=make(1.5), noise=noise)
        decayed = GradientDescentMSE(k, y, rule=make(1.5, weight_decay=decay))
        assert_close(
            noisy.test_outputs(times(), k_star), decayed.test_outputs(times(), k_star)
        )


@pytest.mark.slow
def test_steps_approach_the_flow(getkey):
    k, y, k_star, _ = problem(getkey())
    flow = GradientDescentMSE(k, y).test_outputs(16.0, k_star)
    errors = []
    for rate in (1 / 4, 1 / 8, 1 / 16):
        training = GradientDescentMSE(k, y, rule=GradientSteps(rate))
        outputs = training.test_outputs(16 / rate, k_star)
        errors.append(float(jnp.max(jnp.abs(outputs - flow))))
    np.testing.assert_allclose(
        [errors[0] / errors[1], errors[1] / errors[2]], 2, rtol=0.05
    )


@pytest.mark.slow
def test_the_order_and_shape_of_times_do_not_matter(getkey):
    k, y, k_star, _ = problem(getkey(), outputs=())
    training = GradientDescentMSE(k, y)
    t = jnp.asarray([[3.0, jnp.inf, 0.0], [1.0, 2.0, 100.0]], DTYPE)
    outputs = training.test_outputs(t, k_star)
    assert outputs.shape == (2, 3, 4)
    for index in np.ndindex(2, 3):
        one = training.test_outputs(float(t[index]), k_star)
        assert_close(outputs[index], one)
    assert training.train_outputs(t).shape == (2, 3, 6)


@pytest.mark.slow
def test_a_singular_kernel_is_learned_where_it_can_be(getkey):
    # Two pairs of equal examples: targets are learned on average, and nothing blows up.
    k, y, k_star, _ = problem(getkey(), n_train=4)
    twice = jnp.asarray([0, 1, 2, 3, 0, 1])
    singular, y = k[twice][:, twice], jr.normal(getkey(), (6, 3), DTYPE)
    training = GradientDescentMSE(singular, y)
    expected = y.at[jnp.asarray([0, 4])].set((y[0] + y[4]) / 2)
    expected = expected.at[jnp.asarray([1, 5])].set((y[1] + y[5]) / 2)
    for t in (jnp.inf, 1e4, 1e30):
        assert_close(training.train_outputs(t), expected, 100 * tolerance())
    outputs = training.test_outputs(jnp.inf, k_star[:, twice])
    reduced = GaussianProcess(k, expected[:4]).mean(k_star)
    assert_close(outputs, reduced, 100 * tolerance())
    assert np.isfinite(training.weights(1e4)).all()


@pytest.mark.slow
def test_slightly_negative_eigenvalues_are_zeros(getkey):
    k, y, k_star, _ = problem(getkey())
    values, vectors = jnp.linalg.eigh(k)
    spoiled = [values.at[0].set(value) for value in (0.0, -1e-7)]
    outputs = [
        GradientDescentMSE((vectors * v[None]) @ vectors.T, y).test_outputs(
            times(), k_star
        )
        for v in spoiled
    ]
    np.testing.assert_allclose(*outputs, atol=1e-5)


@pytest.mark.slow
def test_small_eigenvalues_and_long_times_survive_rounding(getkey):
    # Noise far above rounding, but far below the number of examples times it.
    n = 300
    x = np.asarray(jr.normal(getkey(), (n + 20, 3), DTYPE), float)
    k = np.exp(-np.sum((x[:, None] - x[None]) ** 2, axis=-1) / 8) + 1
    y = np.sin(x[:n, :2])
    noise = 1e-9 if is_double() else 1e-2
    times = jnp.geomspace(1, 1e6, 5, dtype=DTYPE)
    training = GradientDescentMSE(
        jnp.asarray(k[:n, :n], DTYPE), jnp.asarray(y, DTYPE), noise=noise
    )
    outputs = training.test_outputs(times, jnp.asarray(k[n:, :n], DTYPE))
    values, vectors = np.linalg.eigh(k[:n, :n] + noise * np.eye(n))
    for t, ours in zip(times, outputs, strict=True):
        gain = -np.expm1(-float(t) * values / y.size) / values
        expected = k[n:, :n] @ (vectors * gain) @ vectors.T @ y
        np.testing.assert_allclose(ours, expected, atol=1e-6 if is_double() else 5e-3)


@pytest.mark.slow
def test_outputs_at_correlated_positions(getkey):
    k, y, k_star, _ = problem(getkey(), n_train=6, n_test=4)
    flat = GradientDescentMSE(k, y)
    split = lambda k: jnp.moveaxis(k.reshape(-1, 2, 3, 2), 1, 2)
    training = GradientDescentMSE(split(k), y.reshape(3, 2, 3))
    outputs = training.test_outputs(times(), split(k_star))
    assert_close(outputs, flat.test_outputs(times(), k_star).reshape(4, 2, 2, 3))
    outputs = training.train_outputs(times())
    assert_close(outputs, flat.train_outputs(times()).reshape(4, 3, 2, 3))


# ------------------------------------------------------------------------------------
# Transformations.
# ------------------------------------------------------------------------------------


def _outputs(k, y, k_star, start, t, rate, decay, *, make):
    training = GradientDescentMSE(
        (k + k.T) / 2, y, rule=make(rate, weight_decay=decay), noise=0.1
    )
    out = training.test_outputs(t, k_star, start)
    return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.cos(training.train_outputs(t, start)))


NAMES = ["k", "y", "k*", "start", "t", "learning rate", "weight decay"]


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("repeated", [False, True], ids=["", "repeated eigenvalues"])
@pytest.mark.slow
@pytest.mark.precision("float64")  # finite differences need it
def test_gradient_of_the_flow_is_that_of_finite_differences(getkey, index, repeated):
    k, y, k_star, _ = problem(getkey())
    if repeated:
        k = 1.5 * jnp.eye(6, dtype=DTYPE).at[0, 0].set(2)
    start = jr.normal(getkey(), y.shape, DTYPE)
    constants = (jnp.asarray(c, DTYPE) for c in (9.0, 1.1, 0.02))
    arguments = (k, y, k_star, start, *constants)
    direction = jr.normal(getkey(), arguments[index].shape, DTYPE)
    function = eqx.Partial(_outputs, make=GradientFlow)
    assert_gradient(function, arguments, index, direction)


@pytest.mark.parametrize("index", [0, 5], ids=["k", "learning rate"])
@pytest.mark.slow
@pytest.mark.precision("float64")  # finite differences need it
def test_gradient_of_steps_is_that_of_finite_differences(getkey, index):
    k, y, k_star, _ = problem(getkey())
    start = jr.normal(getkey(), y.shape, DTYPE)
    arguments = (k, y, k_star, start, 9, *jnp.asarray([1.1, 0.02], DTYPE))
    direction = jr.normal(getkey(), arguments[index].shape, DTYPE)
    make = lambda *args, **options: GradientSteps(*args, momentum=0.5, **options)
    assert_gradient(eqx.Partial(_outputs, make=make), arguments, index, direction)


@pytest.mark.slow
def test_jit_and_vmap(getkey):
    problems = [problem(getkey())[:3] for _ in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)

    def outputs(k, y, k_star):
        return GradientDescentMSE(k, y, relative_noise=0.1).test_outputs(
            times(), k_star
        )

    for many, one in zip(jax.jit(jax.vmap(outputs))(*stacked), problems, strict=True):
        assert_close(many, outputs(*one))


# ------------------------------------------------------------------------------------
# Errors.
# ------------------------------------------------------------------------------------


def test_an_indefinite_kernel_is_refused_with_the_noise_that_mends_it(getkey):
    k, y, k_star, _ = problem(getkey())
    bad = k - 2 * jnp.eye(6, dtype=DTYPE)
    smallest = float(jnp.linalg.eigvalsh(bad)[0])
    with pytest.raises(RuntimeError, match="smallest eigenvalue is") as caught:
        GradientDescentMSE(bad, y)
    assert f"smallest eigenvalue is {smallest:.3g}" in str(caught.value)
    mend = float(str(caught.value).split("`noise=")[1].split("`")[0])
    # The noise must be large against what is negative.
    assert -30 * smallest < mend < -40 * smallest
    GaussianProcess(bad, y, noise=mend).mean(k_star)
    with pytest.raises(RuntimeError, match="not\npositive definite"):
        eqx.filter_jit(GradientDescentMSE)(bad, y)


@pytest.mark.usefixtures("without_jaxtyping")
def test_what_does_not_fit_is_refused(getkey):
    k, y, k_star, _ = problem(getkey())
    training = GradientDescentMSE(k, y)
    with pytest.raises(ValueError, match=r"`k_test_train` has shape \(6, 4\).*transp"):
        training.test_outputs(1.0, k_star.T)
    with pytest.raises(ValueError, match=r"`start_train` has shape \(4, 3\).*\(6, 3\)"):
        training.train_outputs(1.0, y[:4])
    with pytest.raises(ValueError, match=r"`start_test` has shape \(6, 3\).*\(4, 3\)"):
        training.test_outputs(1.0, k_star, 0.0, y)
    with pytest.raises(ValueError, match="differs between outputs"):
        GradientDescentMSE(k, y, noise=jnp.ones((1, 3), DTYPE))
    with pytest.raises(ValueError, match=r"\(6, 6, 2, 3\).*\*positions, \*positions"):
        GradientDescentMSE(jnp.zeros((6, 6, 2, 3), DTYPE), y)
