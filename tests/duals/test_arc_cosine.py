"""Derivatives of arc-cosine kernels, of inputs that nearly coincide as well."""

import math

import hypothesis as hyp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from eqtangents.duals._arc_cosine import arc_cosine
from eqtangents.duals._pair import Pair, deviation
from precision import DTYPE, by_precision


@pytest.fixture(scope="module")
def derivatives():
    """Those of order one to three of the kernel of order one, in `k, s, s'`."""

    def value(v, gap):
        left, right = (deviation(v[i : i + 1] ** 2) for i in (1, 2))
        return arc_cosine(Pair(v[:1], gap[None]), left, right)[0][0]

    first = jax.grad(value)
    second = jax.jacfwd(first)
    third = jax.jacfwd(second)
    return jax.jit(lambda v, gap: (first(v, gap), second(v, gap), third(v, gap)))


def exact(k, s, t, sine, theta, cosecant):
    """The same, from the derivatives in `k`: the kernel grows as `k` and `s` together.

    So `k f_k + s f_s` is `f` of whatever grows so, and is zero of what stays the same.
    """
    first = np.array([math.pi - theta, sine * t, sine * s])
    second, third = np.zeros((3, 3)), np.zeros((3, 3, 3))
    second[0, 0] = cosecant / (s * t)
    third[0, 0, 0] = k * cosecant**3 / (s * t) ** 3
    for i, std in ((1, s), (2, t)):
        second[0, i] = -k * second[0, 0] / std
        second[i, i] = -k * second[0, i] / std
        third[0, 0, i] = -(second[0, 0] + k * third[0, 0, 0]) / std
        third[0, i, i] = -(second[0, i] + k * third[0, 0, i]) / std
        third[i, i, i] = -(second[i, i] + k * third[0, i, i]) / std
    second[1, 2] = (first[2] - k * second[0, 2]) / s
    third[0, 1, 2] = -k * third[0, 0, 2] / s
    third[1, 1, 2] = -k * third[0, 1, 2] / s
    third[1, 2, 2] = -k * third[0, 1, 2] / t
    for at in np.ndindex(3, 3, 3):
        third[at] = third[tuple(sorted(at))]
        second[at[:2]] = second[tuple(sorted(at[:2]))]
    return [one / (2 * math.pi) for one in (first, second, third)]


@given(
    digits=st.floats(0.01, 36),
    left=st.floats(0.3, 3),
    right=st.floats(0.3, 3),
)
def test_derivatives_are_right_up_to_the_smallest_gaps(
    derivatives, digits, left, right
):
    """Where an angle could be rounding alone, its cosecant counts as zero."""
    s, t = (float(jnp.asarray(one, DTYPE)) for one in (left, right))
    apart = 10.0**-digits
    eps = float(jnp.finfo(jnp.result_type(DTYPE)).eps)
    hyp.assume(not 4 * eps < apart < 16 * eps)  # Where rounding decides on that.
    sine, k = math.sqrt(apart * (2 - apart)), (1 - apart) * s * t
    theta = 2 * math.asin(math.sqrt(apart / 2))
    cosecant = 1 / sine if apart > 8 * eps else 0.0
    found = derivatives(
        jnp.asarray([k, s, t], DTYPE), jnp.asarray(apart * s * t, DTYPE)
    )
    close = by_precision(float64=1e-10, float32=1e-4)
    for one, right in zip(found, exact(k, s, t, sine, theta, cosecant), strict=True):
        size = max(1.0, np.abs(right).max())
        np.testing.assert_allclose(one, right, rtol=0, atol=close * size)
