"""Pooling over windows, against the sums over all pairs of positions."""

import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from precision import by_precision
from work import work


CONV = nn.Conv(1, 3, padding="SAME", weight_std=1.3, bias_std=0.1)
PADDINGS = ["VALID", "SAME", "CIRCULAR"]


def dense(layers, x):
    """The kernels of all pairs of positions, NNGP and NTK."""
    kernel = eqt.kernel(nn.Sequential(layers), x)
    return kernel.nngp, kernel.ntk


def windows_of(size, kernel, stride, padding):
    """How often each output reads each input."""
    low = max((-(-size // stride) - 1) * stride + kernel - size, 0) // 2
    low = 0 if padding == "VALID" else low
    count = (size - kernel) // stride + 1 if padding == "VALID" else -(-size // stride)
    reads = np.zeros((count, size))
    for q, i in np.ndindex(count, kernel):
        place = q * stride + i - low
        if padding == "CIRCULAR":
            reads[q, place % size] += 1
        elif 0 <= place < size:
            reads[q, place] += 1
    return reads


@hyp.given(
    size=st.integers(1, 9),
    kernel=st.integers(1, 9),
    stride=st.integers(1, 5),
    padding=st.sampled_from(PADDINGS),
    conv_after=st.booleans(),
)
@hyp.settings(max_examples=12)
def test_all_pairs_of_positions_are_summed(size, kernel, stride, padding, conv_after):
    hyp.assume(padding != "VALID" or kernel <= size)
    x = jr.normal(jr.key(size), (3, 2, size))
    layers = [CONV, nn.Relu()]
    reads = windows_of(size, kernel, stride, padding)
    after = [CONV] if conv_after else []
    found = dense([*layers, nn.SumPool(kernel, stride, padding), *after], x)
    nngp, ntk = (
        np.einsum("pu,abuv,qv->abpq", reads, cov, reads) for cov in dense(layers, x)
    )
    if conv_after:
        taps = lambda cov: sum(
            np.pad(cov, [(0, 0)] * 2 + [(1, 1)] * 2)[..., i : i + n, i : i + n]
            for n in [cov.shape[-1]]
            for i in range(3)
        )
        nngp, ntk = (1.3**2 / 3 * taps(cov) for cov in (nngp, ntk))
        nngp = nngp + 0.1**2
        ntk = ntk + nngp
    for one, other in zip(found, (nngp, ntk), strict=True):
        rtol = by_precision(float64=1e-10, float32=2e-5)
        atol = rtol * np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("padding", PADDINGS)
def test_work_grows_with_the_window_and_not_with_its_square(padding):
    x = jax.ShapeDtypeStruct((2, 1, 48), jnp.float32)

    def pooled(count):
        net = nn.Sequential([CONV, nn.AvgPool(count, 1, padding), nn.Flatten()])
        return work(lambda x1, x2: eqt.kernel(net, x1, x2).ntk, x, x)

    few, some, many = map(pooled, (2, 7, 12))
    assert many - some < 2 * (some - few)
