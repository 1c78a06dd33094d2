"""Small problems for the tests of predictors, and how close answers must be."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from precision import DTYPE, by_precision


def tolerance():
    """The relative error of a solve with the well-conditioned matrices below."""
    return by_precision(float64=1e-10, float32=2e-4)


def covariance(key, n, *, dtype=DTYPE):
    """A covariance with eigenvalues from about 1/2 to 5."""
    factor = jr.normal(key, (n, 2 * n), dtype)
    return factor @ factor.T / (2 * n) + 0.3 * jnp.eye(n, dtype=dtype)


def problem(key, n_train=6, n_test=4, outputs=(3,)):
    """Train-train, test-train and test-test blocks of one covariance, and targets."""
    key_kernel, key_y = jr.split(key)
    joint = covariance(key_kernel, n_train + n_test)
    y_train = jr.normal(key_y, (n_train, *outputs), DTYPE)
    k_test = joint[n_train:]
    return joint[:n_train, :n_train], y_train, k_test[:, :n_train], k_test[:, n_train:]


def assert_close(actual, expected, rtol=None, scale=0.0):
    """`scale`: size of the terms whose difference `expected` is, where larger."""
    expected = np.asarray(expected)
    rtol = tolerance() if rtol is None else rtol
    scale = np.max(np.abs(expected), initial=scale)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * scale)


def assert_gradient(function, arguments, index, direction, *, rtol=None):
    """That of `function` along `direction` in one argument is a difference quotient."""

    @jax.jit
    def along(step):
        moved = list(arguments)
        moved[index] = moved[index] + step * direction
        return function(*moved)

    zero, step = jnp.zeros((), DTYPE), by_precision(float64=1e-5, float32=1e-2)
    difference = (along(zero + step) - along(zero - step)) / (2 * step)
    rtol = by_precision(float64=1e-6, float32=2e-2) if rtol is None else rtol
    scale = max(1.0, float(jnp.abs(along(zero))))
    np.testing.assert_allclose(
        jax.grad(along)(zero), difference, rtol=rtol, atol=rtol * scale
    )
