import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.scipy.stats import norm

from eqtangents.predict import (
    class_probabilities,
    decode_labels,
    encode_labels,
    expected_calibration_error,
    sampled_class_probabilities,
)
from precision import DTYPE, is_double


@pytest.mark.usefixtures("without_jaxtyping")
def test_labels_survive_encoding():
    labels = jnp.asarray([3, 0, 2, 2])
    targets = encode_labels(labels, 4, DTYPE)
    np.testing.assert_allclose(jnp.sum(targets, axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(jnp.max(targets, axis=1), 0.75)
    np.testing.assert_array_equal(decode_labels(targets), labels)
    with pytest.raises(ValueError, match="`labels` has dtype float"):
        encode_labels(targets[:, 0], 4)


@pytest.mark.slow
def test_two_classes_are_a_probit(getkey):
    mean = jr.normal(getkey(), (5, 2), DTYPE)
    variance = jr.uniform(getkey(), (5, 2), DTYPE, 0.1, 2.0)
    found = class_probabilities(mean, variance)
    distance = (mean[:, 0] - mean[:, 1]) / jnp.sqrt(jnp.sum(variance, axis=1))
    np.testing.assert_allclose(found[:, 0], norm.cdf(distance), atol=1e-4)
    np.testing.assert_allclose(jnp.sum(found, axis=1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("each", [False, True], ids=["one variance", "one each"])
def test_probabilities_are_frequencies(getkey, each):
    mean, draws = jr.normal(getkey(), (3, 5), DTYPE), 100_000
    variance = jr.uniform(getkey(), (3, 5) if each else (3,), DTYPE, 0.2, 2.0)
    deviation = jnp.sqrt(
        variance if each else jnp.broadcast_to(variance[:, None], (3, 5))
    )
    samples = jr.normal(getkey(), (draws, 3, 5), DTYPE) * deviation[None] + mean[None]
    expected = sampled_class_probabilities(samples)
    found = class_probabilities(mean, variance)
    error = jnp.sqrt(found * (1 - found) / draws)
    assert jnp.max(jnp.abs(found - expected) / error) < 4


@pytest.mark.slow
def test_certain_outputs_give_certain_classes():
    mean = jnp.asarray([[0.0, 1.0, -1.0]], DTYPE)
    found = class_probabilities(mean, jnp.asarray([1e-6], DTYPE))
    np.testing.assert_allclose(found, [[0, 1, 0]], atol=1e-6)
    gradient = jax.grad(lambda m: class_probabilities(m, m[:, 0] + 1e-6)[0, 1])(mean)
    assert jnp.all(jnp.isfinite(gradient))


def test_temperature(getkey):
    samples = jr.normal(getkey(), (7, 3, 4), DTYPE)
    found = sampled_class_probabilities(samples, temperature=0.5)
    expected = jnp.mean(jax.nn.softmax(2 * samples), axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-7 if is_double() else 1e-4)


def test_calibration_error_by_hand():
    # Confidence 0.9 and right half of the time; confidence 0.6 and always right.
    probabilities = jnp.asarray([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], DTYPE)
    labels = jnp.asarray([0, 1, 1, 1])
    found = expected_calibration_error(probabilities, labels, bins=10)
    np.testing.assert_allclose(found, (0.4 + 0.4) / 2, rtol=1e-5)
    right = jnp.asarray([[1.0, 0.0], [0.0, 1.0]], DTYPE)
    assert expected_calibration_error(right, jnp.asarray([0, 1])) == 0


@pytest.mark.usefixtures("without_jaxtyping")
def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"`variance` has shape \(2,\).*\(3,\)"):
        class_probabilities(jnp.zeros((3, 4), DTYPE), jnp.ones(2, DTYPE))
