"""Sums under windows, along rows and axis by axis."""

import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents.covariance import Window
from eqtangents.covariance._window_sums import sums_by_axis, sums_by_rows
from precision import by_precision
from work import times_computed


@st.composite
def windows(draw):
    """Windows of any extent and stride, whose inputs fill a canvas."""
    size, stride, count = (draw(st.integers(1, most)) for most in (4, 3, 6))
    first = draw(st.integers(-4, 1))
    offsets = tuple(range(first, first + count))
    return Window(offsets, stride, size * stride, size, draw(st.booleans()))


@hyp.given(st.lists(windows(), min_size=1, max_size=3).map(tuple))
@hyp.settings(max_examples=20)
def test_rows_add_up_to_what_axes_do(windows):
    block = jr.normal(jr.key(0), (2, 3, *(window.size_in for window in windows)))
    sizes = tuple(window.size_out for window in windows)
    everywhere = [[None] * window.count for window in windows]
    expected = sums_by_axis(block, windows, sizes, everywhere)
    last = windows[-1]
    inputs = [np.arange(last.size_out) * last.stride + o for o in last.offsets]
    inside = [jnp.asarray((p >= 0) & (p < last.size_in)) for p in inputs]
    masks = [*everywhere[:-1], everywhere[-1] if last.periodic else inside]
    found = sums_by_rows(block, windows, sizes, masks)
    atol = by_precision(float64=1e-12, float32=1e-4)
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.precision("float32")
@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
def test_sums_along_rows_are_not_computed_for_each_row_of_a_large_window(padding):
    conv = nn.Conv(1, 5, padding=padding)
    net = nn.Sequential([conv, nn.Relu(), conv, nn.Relu(), nn.GlobalAvgPool()])
    x = jax.ShapeDtypeStruct((2, 1, 32, 32), jnp.float32)
    program = jax.jit(lambda x1, x2: eqt.kernel(net, x1, x2).ntk)
    times = times_computed(program.lower(x, x).compile().as_text(), ["add"])
    assert times
    assert max(times) < 2
