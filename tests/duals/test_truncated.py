"""Truncated moments of two variables that coincide, or nearly."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, strategies as st

from eqtangents.duals._truncated import joint_moments, truncated_moments
from precision import DTYPE


@pytest.fixture(scope="module")
def joint():
    return jax.jit(joint_moments, static_argnums=0)


@given(
    bound=st.floats(0, 3),
    steps=st.integers(-2, 2),
    rest=st.floats(-1, 1),
    opposite=st.booleans(),
)
def test_rounding_changes_moments_of_coinciding_variables_by_rounding(
    joint, bound, steps, rest, opposite
):
    """A program that computes a bound or a correlation twice may round it differently.

    So it may find the deficit zero in one place and not in another, or below zero.
    """
    h = jnp.asarray(bound, DTYPE)
    eps = float(jnp.finfo(h.dtype).eps)
    k = h * (1 + steps * eps)
    correlation = jnp.asarray(-1.0 if opposite else 1.0, DTYPE)
    found = joint(2, h, k, correlation, jnp.asarray(rest * eps * eps, DTYPE))
    alone = truncated_moments(4, h)
    for (m, n), moment in found.items():
        # Of opposite variables one alone is above its bound.
        expected = 0 if opposite else alone[m + n]
        # Moments are sums of terms as large as powers of the bound.
        size = (1 + bound**2) ** ((m + n) / 2)
        assert abs(float(moment - expected)) < 8 * eps * size, (m, n)
