"""The kernels of random networks against a plain evaluation of the same formulas."""

import math

import hypothesis as hyp
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

import brute_force
import eqtangents as eqt
from precision import by_precision
from random_networks import Network, networks


EXAMPLES = 20
seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 3)


def _batch(network: Network, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, *network.input_shape))


def _rtol() -> float:
    """Relative to the largest entry.

    Where rounding parts equal inputs by one ulp, the derivative of a rectifier moves by
    the square root of that.
    """
    return by_precision(float64=1e-7, float32=1e-4)


def _check_against_brute_force(network: Network, x1: np.ndarray, x2: np.ndarray | None):
    dtype = jnp.result_type(float)
    x1_jax, x2_jax = (None if x is None else jnp.asarray(x, dtype) for x in (x1, x2))
    kernel = eqt.kernel(network.net, x1_jax, x2_jax)
    ((nngp, ntk),) = brute_force.kernels(network.net, x1, x2)
    for name, actual, expected in (
        ("nngp", kernel.nngp, nngp),
        ("ntk", kernel.ntk, ntk),
    ):
        assert actual.dtype == dtype
        assert actual.shape == expected.shape
        atol = _rtol() * np.abs(expected).max(initial=0)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=name)
    return kernel


@hyp.given(network=networks(), n1=sizes, n2=sizes, seed=seeds)
@hyp.settings(deadline=None, max_examples=EXAMPLES)
@pytest.mark.slow
def test_cross_kernel_is_the_brute_force_one(network, n1, n2, seed):
    x1, x2 = _batch(network, n1, seed), _batch(network, n2, seed + 1)
    _check_against_brute_force(network, x1, x2)


@hyp.given(network=networks(), n=sizes, seed=seeds)
@hyp.settings(deadline=None, max_examples=EXAMPLES)
@pytest.mark.slow
def test_gram_matrix_is_the_brute_force_one_and_is_a_gram_matrix(network, n, seed):
    kernel = _check_against_brute_force(network, _batch(network, n, seed), None)
    for name in ("nngp", "ntk"):
        gram = np.asarray(getattr(kernel, name))
        rank = (gram.ndim - 2) // 2
        swap = (1, 0, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
        np.testing.assert_array_equal(gram, gram.transpose(swap), err_msg=name)
        positions = math.prod(gram.shape[2 : 2 + rank])
        matrix = gram.reshape(n, n, positions, positions).transpose(0, 2, 1, 3)
        matrix = matrix.reshape(n * positions, n * positions).astype(np.float64)
        eigenvalues = np.linalg.eigvalsh(matrix)
        assert eigenvalues[0] >= -_rtol() * eigenvalues[-1], name
