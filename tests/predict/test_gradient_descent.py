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
from precision import DTYPE, by_precision, is_double
from predict_problems import assert_close, assert_gradient, problem


def times():
    return jnp.asarray([0.0, 1.0, 7.0, 50.0], DTYPE)


def labels():
    return jnp.asarray([0, 2, 1, 1, 0, 2])


def tight():
    """Options of a solve that is nearly exact."""
    return dict.fromkeys(("rtol", "atol"), by_precision(float64=1e-9, float32=1e-5))


def tolerance():
    """The relative error of what such a solve gives."""
    return by_precision(float64=1e-7, float32=1e-3)


@pytest.mark.slow
def test_squared_error_is_the_closed_form(getkey):
    k, y, k_star, _ = problem(getkey())
    start, start_star = jr.normal(getkey(), (2, 6, 3), DTYPE)
    start_star = start_star[:4]
    training = GradientDescent(
        half_mean_squared_error, k, y, learning_rate=1.5, weight_decay=0.02, **tight()
    )
    states = training.states(times(), training.start(start))
    rule = GradientFlow(1.5, weight_decay=0.02)
    closed = GradientDescentMSE(k, y, rule=rule)
    assert_close(states.outputs, closed.train_outputs(times(), start), tolerance())
    assert_close(states.weights, closed.weights(times(), start), tolerance())
    outputs = training.test_outputs(states, k_star, start_star)
    assert_close(
        outputs, closed.test_outputs(times(), k_star, start, start_star), tolerance()
    )
    end = training.converged(
        training.start(start), tolerance=1e-7 if is_double() else 1e-3
    )
    expected = closed.train_outputs(jnp.inf, start)
    assert_close(end.outputs, expected, 1e-5 if is_double() else 1e-2)
    trajectory = training.trajectory(50.0, training.start(start))
    for i, t in enumerate(times()):
        # Interpolation is of lower order than the steps.
        assert_close(
            trajectory(t).outputs,
            states.outputs[i],
            1e4 * tolerance() if is_double() else 1e-2,
        )


@pytest.mark.slow
def test_momentum_is_that_of_many_small_steps(getkey):
    # A learning rate h^2 and a friction h for a step of length h.
    k, y, k_star, _ = problem(getkey())
    errors = []
    training = GradientDescent(
        half_mean_squared_error, k, y, momentum=0.6, learning_rate=0.8, **tight()
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
        cross_entropy, k, y, output_shape=(3,), learning_rate=3.0, **tight(), **options
    )


@pytest.mark.slow
def test_cross_entropy_is_that_of_training_a_linear_model(getkey):
    features, features_star = (jr.normal(getkey(), (n, 9), DTYPE) for n in (6, 4))
    training = _logistic(features @ features.T, labels())
    states = training.states(20.0)

    loss = lambda params: jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(features @ params, labels())
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


@pytest.mark.slow
def test_labels_may_be_integers_or_one_hot(getkey):
    k, _, _, _ = problem(getkey())
    one_hot = jax.nn.one_hot(labels(), 3, dtype=DTYPE)
    states = [_logistic(k, y).states(times()) for y in (labels(), one_hot)]
    assert_close(states[0].outputs, states[1].outputs)


@pytest.mark.parametrize("momentum", [None, 0.7])
@pytest.mark.slow
def test_resumes_where_it_was(getkey, momentum):
    k, _, k_star, _ = problem(getkey())
    training = _logistic(k, labels(), momentum=momentum)
    states = training.states(times())
    resumed = training.states(times()[2:], training.states(times()[1]))
    for whole, parts in zip(
        jax.tree.leaves(states), jax.tree.leaves(resumed), strict=True
    ):
        assert_close(parts, whole[2:], 10 * tolerance())
    outputs = training.test_outputs(states, k_star)
    assert_close(training.test_outputs(resumed, k_star), outputs[2:], 10 * tolerance())
    assert outputs.shape == (4, 4, 3)


@pytest.mark.slow
def test_velocities_are_derivatives(getkey):
    k, _, k_star, _ = problem(getkey())
    training = _logistic(k, labels(), momentum=0.7)
    start = training.start(0.3, jr.normal(getkey(), (6, 3), DTYPE))
    speed_star = jr.normal(getkey(), (4, 3), DTYPE)
    step = 1e-3 if is_double() else 3e-2
    states = training.states(jnp.asarray([5 - step, 5, 5 + step], DTYPE), start)
    slope = (states.outputs[2] - states.outputs[0]) / (2 * step)
    assert_close(states.outputs_velocity[1], slope, 1e-5 if is_double() else 1e-2)
    # The start of the test examples moves on by itself, ever more slowly.
    outputs = training.test_outputs(states, k_star, 0.0, speed_star)
    coasted = outputs - training.test_outputs(states, k_star)
    distance = (1 - np.exp(-0.3 * 5)) / 0.3
    assert_close(coasted[1], distance * speed_star, 10 * tolerance())


@pytest.mark.slow
def test_converges_to_the_minimum(getkey):
    k, _, _, _ = problem(getkey())
    decay = 0.05
    for momentum in (None, 0.7):
        training = _logistic(k, labels(), weight_decay=decay, momentum=momentum)
        end = training.converged(tolerance=1e-7 if is_double() else 1e-3)
        assert_close(end.outputs, k @ end.weights, tolerance() if is_double() else 1e-2)
        gradient = jax.grad(cross_entropy)(end.outputs, labels())
        left = gradient + decay * end.weights
        np.testing.assert_allclose(left, 0, atol=1e-7 if is_double() else 1e-3)


@pytest.mark.slow
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


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    "times", [[1.0, 0.0], [-1.0, 0.0], [1.0, np.inf], [np.nan]], ids=str
)
def test_times_must_increase(getkey, times):
    k, y, _, _ = problem(getkey())
    training = GradientDescent(half_mean_squared_error, k, y)
    with pytest.raises(RuntimeError, match="`t` must be finite and increase"):
        training.states(jnp.asarray(times, DTYPE))


@pytest.mark.slow
def test_any_solver_and_progress(getkey, capsys):
    k, y, _, _ = problem(getkey())
    training = GradientDescent(half_mean_squared_error, k, y, **tight())
    other = eqx.tree_at(lambda t: t.solver, training, diffrax.Dopri8())
    outputs = other.states(times(), progress=diffrax.TextProgressMeter()).outputs
    assert_close(outputs, training.states(times()).outputs, tolerance())
    assert "100" in capsys.readouterr().out


@pytest.mark.parametrize("index", [0, 1, 2], ids=["k", "k*", "learning rate"])
@pytest.mark.slow
def test_gradient_is_that_of_finite_differences(getkey, index):
    k, _, k_star, _ = problem(getkey())

    def function(k, k_star, rate):
        training = GradientDescent(
            cross_entropy,
            (k + k.T) / 2,
            labels(),
            output_shape=(3,),
            learning_rate=rate,
            max_steps=1000,
            **tight(),
        )
        return jnp.sum(jnp.sin(training.test_outputs(training.states(5.0), k_star)))

    arguments = (k, k_star, jnp.asarray(2.0, DTYPE))
    direction = jr.normal(getkey(), arguments[index].shape, DTYPE)
    rtol = 1e-5 if is_double() else 3e-2
    assert_gradient(function, arguments, index, direction, rtol=rtol)


@pytest.mark.usefixtures("without_jaxtyping")
def test_what_does_not_fit_is_refused(getkey):
    k, y, k_star, _ = problem(getkey())
    with pytest.raises(ValueError, match=r"is int.*`output_shape=\(n_classes,\)`"):
        GradientDescent(cross_entropy, k, labels())
    with pytest.raises(ValueError, match=r"`y_train` has shape \(4,\).*as many"):
        GradientDescent(cross_entropy, k, labels()[:4], output_shape=(3,))
    training = GradientDescent(half_mean_squared_error, k, y)
    with pytest.raises(ValueError, match="without momentum has none"):
        training.start(0.0, y)
    with pytest.raises(ValueError, match="must have velocities if"):
        training.states(
            1.0, GradientDescent(half_mean_squared_error, k, y, momentum=0.5).start()
        )
    with pytest.raises(ValueError, match=r"`k_test_train` has shape \(6, 4\)"):
        training.test_outputs(training.start(), k_star.T)
