import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from eqtangents.predict import (
    GradientDescent,
    GradientDescentMSE,
    GradientFlow,
    GradientSteps,
    cross_entropy,
    half_mean_squared_error,
)
from predict_problems import DTYPE, X64, assert_close, assert_gradient, problem


if not X64:  # The same laws, with less precision.
    pytestmark = pytest.mark.exhaustive


TIMES = jnp.asarray([0.0, 1.0, 7.0, 50.0], DTYPE)
TIGHT = {"rtol": 1e-9, "atol": 1e-9} if X64 else {"rtol": 1e-5, "atol": 1e-5}
RTOL = 1e-7 if X64 else 1e-3
LABELS = jnp.asarray([0, 2, 1, 1, 0, 2])


def test_squared_error_is_the_closed_form(getkey):
    k, y, k_star, _ = problem(getkey())
    start, start_star = jr.normal(getkey(), (2, 6, 3), DTYPE)
    start_star = start_star[:4]
    training = GradientDescent(
        half_mean_squared_error, k, y, learning_rate=1.5, weight_decay=0.02, **TIGHT
    )
    states = training.states(TIMES, training.start(start))
    rule = GradientFlow(1.5, weight_decay=0.02)
    closed = GradientDescentMSE(k, y, rule=rule)
    assert_close(states.outputs, closed.train_outputs(TIMES, start), RTOL)
    assert_close(states.weights, closed.weights(TIMES, start), RTOL)
    outputs = training.test_outputs(states, k_star, start_star)
    assert_close(outputs, closed.test_outputs(TIMES, k_star, start, start_star), RTOL)
    end = training.converged(training.start(start), tolerance=1e-7 if X64 else 1e-3)
    expected = closed.train_outputs(jnp.inf, start)
    assert_close(end.outputs, expected, 1e-5 if X64 else 1e-2)
    trajectory = training.trajectory(50.0, training.start(start))
    for i, t in enumerate(TIMES):
        # Interpolation is of lower order than the steps.
        assert_close(
            trajectory(t).outputs, states.outputs[i], 1e4 * RTOL if X64 else 1e-2
        )


def test_momentum_is_that_of_many_small_steps(getkey):
    # A learning rate h^2 and a friction h for a step of length h.
    k, y, k_star, _ = problem(getkey())
    errors = []
    training = GradientDescent(
        half_mean_squared_error, k, y, momentum=0.6, learning_rate=0.8, **TIGHT
    )
    states = training.states(12.0)
    for h in (1 / 16, 1 / 32):
        rule = GradientSteps(0.8 * h**2, momentum=1 - 0.4 * h)
        outputs = GradientDescentMSE(k, y, rule=rule).test_outputs(12 / h, k_star)
        error = outputs - training.test_outputs(states, k_star)
        errors.append(float(jnp.max(jnp.abs(error))))
    assert errors[0] < 0.05
    np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.1)


def _logistic(k, y, **options):
    return GradientDescent(
        cross_entropy, k, y, output_shape=(3,), learning_rate=3.0, **TIGHT, **options
    )


def test_cross_entropy_is_that_of_training_a_linear_model(getkey):
    features, features_star = (jr.normal(getkey(), (n, 9), DTYPE) for n in (6, 4))
    training = _logistic(features @ features.T, LABELS)
    states = training.states(20.0)

    loss = lambda params: jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(features @ params, LABELS)
    )
    rate = 1 / 200
    params = jax.lax.fori_loop(
        0,
        round(20 / rate),
        lambda _, params: params - 3 * rate * jax.grad(loss)(params),
        jnp.zeros((9, 3), DTYPE),
    )
    # Steps are off by their length.
    assert_close(states.outputs, features @ params, 5e-3)
    outputs = training.test_outputs(states, features_star @ features.T)
    assert_close(outputs, features_star @ params, 5e-3)


def test_labels_may_be_integers_or_one_hot(getkey):
    k, _, _, _ = problem(getkey())
    one_hot = jax.nn.one_hot(LABELS, 3, dtype=DTYPE)
    states = [_logistic(k, y).states(TIMES) for y in (LABELS, one_hot)]
    assert_close(states[0].outputs, states[1].outputs)


@pytest.mark.parametrize("momentum", [None, 0.7])
def test_resumes_where_it_was(getkey, momentum):
    k, _, k_star, _ = problem(getkey())
    training = _logistic(k, LABELS, momentum=momentum)
    states = training.states(TIMES)
    resumed = training.states(TIMES[2:], training.states(TIMES[1]))
    for whole, parts in zip(
        jax.tree.leaves(states), jax.tree.leaves(resumed), strict=True
    ):
        assert_close(parts, whole[2:], 10 * RTOL)
    outputs = training.test_outputs(states, k_star)
    assert_close(training.test_outputs(resumed, k_star), outputs[2:], 10 * RTOL)
    assert outputs.shape == (4, 4, 3)


def test_velocities_are_derivatives(getkey):
    k, _, k_star, _ = problem(getkey())
    training = _logistic(k, LABELS, momentum=0.7)
    start = training.start(0.3, jr.normal(getkey(), (6, 3), DTYPE))
    speed_star = jr.normal(getkey(), (4, 3), DTYPE)
    step = 1e-3 if X64 else 3e-2
    states = training.states(jnp.asarray([5 - step, 5, 5 + step], DTYPE), start)
    slope = (states.outputs[2] - states.outputs[0]) / (2 * step)
    assert_close(states.outputs_velocity[1], slope, 1e-5 if X64 else 1e-2)
    # The start of the test examples moves on by itself, ever more slowly.
    outputs = training.test_outputs(states, k_star, 0.0, speed_star)
    coasted = outputs - training.test_outputs(states, k_star)
    distance = (1 - np.exp(-0.3 * 5)) / 0.3
    assert_close(coasted[1], distance * speed_star, 10 * RTOL)


def test_converges_to_the_minimum(getkey):
    k, _, _, _ = problem(getkey())
    decay = 0.05
    for momentum in (None, 0.7):
        training = _logistic(k, LABELS, weight_decay=decay, momentum=momentum)
        end = training.converged(tolerance=1e-7 if X64 else 1e-3)
        assert_close(end.outputs, k @ end.weights, RTOL if X64 else 1e-2)
        gradient = jax.grad(cross_entropy)(end.outputs, LABELS)
        left = gradient + decay * end.weights
        np.testing.assert_allclose(left, 0, atol=1e-7 if X64 else 1e-3)


def test_says_when_it_does_not_converge(getkey):
    k, y, _, _ = problem(getkey())
    values, vectors = jnp.linalg.eigh(k)
    k = (vectors * values.at[:3].multiply(1e-6)[None]) @ vectors.T
    training = GradientDescent(half_mean_squared_error, k, y, max_steps=200)
    with pytest.raises(RuntimeError, match="Training did not converge within"):
        training.converged()
    with pytest.raises(RuntimeError, match="was not followed to the end of `t`"):
        training.states(1e6)
    with pytest.raises(RuntimeError, match="was not followed to the end of `t`"):
        training.trajectory(1e6, max_steps=10)


@pytest.mark.parametrize(
    "times", [[1.0, 0.0], [-1.0, 0.0], [1.0, np.inf], [np.nan]], ids=str
)
def test_times_must_increase(getkey, times):
    k, y, _, _ = problem(getkey())
    training = GradientDescent(half_mean_squared_error, k, y)
    with pytest.raises(RuntimeError, match="`t` must be finite and increase"):
        training.states(jnp.asarray(times, DTYPE))


def test_any_solver_and_progress(getkey, capsys):
    k, y, _, _ = problem(getkey())
    training = GradientDescent(half_mean_squared_error, k, y, **TIGHT)
    other = eqx.tree_at(lambda t: t.solver, training, diffrax.Dopri8())
    outputs = other.states(TIMES, progress=diffrax.TextProgressMeter()).outputs
    assert_close(outputs, training.states(TIMES).outputs, RTOL)
    assert "100" in capsys.readouterr().out


@pytest.mark.parametrize("index", [0, 1, 2], ids=["k", "k*", "learning rate"])
def test_gradient_is_that_of_finite_differences(getkey, index):
    k, _, k_star, _ = problem(getkey())

    def function(k, k_star, rate):
        training = GradientDescent(
            cross_entropy,
            (k + k.T) / 2,
            LABELS,
            output_shape=(3,),
            learning_rate=rate,
            max_steps=1000,
            **TIGHT,
        )
        return jnp.sum(jnp.sin(training.test_outputs(training.states(5.0), k_star)))

    arguments = (k, k_star, jnp.asarray(2.0, DTYPE))
    direction = jr.normal(getkey(), arguments[index].shape, DTYPE)
    rtol = 1e-5 if X64 else 3e-2
    assert_gradient(function, arguments, index, direction, rtol=rtol)


@pytest.mark.usefixtures("without_jaxtyping")
def test_what_does_not_fit_is_refused(getkey):
    k, y, k_star, _ = problem(getkey())
    with pytest.raises(ValueError, match=r"is int.*`output_shape=\(n_classes,\)`"):
        GradientDescent(cross_entropy, k, LABELS)
    with pytest.raises(ValueError, match=r"`y_train` has shape \(4,\).*as many"):
        GradientDescent(cross_entropy, k, LABELS[:4], output_shape=(3,))
    training = GradientDescent(half_mean_squared_error, k, y)
    with pytest.raises(ValueError, match="without momentum has none"):
        training.start(0.0, y)
    with pytest.raises(ValueError, match="must have velocities if"):
        training.states(
            1.0, GradientDescent(half_mean_squared_error, k, y, momentum=0.5).start()
        )
    with pytest.raises(ValueError, match=r"`k_test_train` has shape \(6, 4\)"):
        training.test_outputs(training.start(), k_star.T)
