"""Attention to some positions alone, against its formulas written out."""

import jax
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn


pytestmark = pytest.mark.precision("float64")

LINEAR = nn.Linear(1, weight_std=1.2, bias_std=0.3)
# The key at the query and the one before it, of four positions.
REACH, NEAR = ((1, 0),), np.eye(4) + np.eye(4, k=-1)


def attention(width=1, **options):
    sizes = {"key_channels": width, "value_channels": width, "heads": width}
    return nn.GlobalSelfAttention(width, **sizes, **options)


def kernels_before(x):
    kernel = eqt.kernel(LINEAR, x)
    return np.asarray(kernel.nngp), np.asarray(kernel.ntk)


def test_softmax_over_keys_in_reach():
    x = jr.normal(jr.key(0), (2, 3, 4))
    nngp, ntk = kernels_before(x)
    own = np.stack([nngp[i, i] for i in range(2)])
    weights = NEAR * np.exp(own)
    weights /= weights.sum(-1, keepdims=True)
    attended = lambda k: np.einsum("iqp,ijpr,jsr->ijqs", weights, k, weights)
    net = nn.Sequential([LINEAR, attention(bias_std=0.2, reach=REACH)])
    kernel = eqt.kernel(net, x)
    np.testing.assert_allclose(kernel.nngp, attended(nngp) + 0.04, 1e-10)
    wanted = attended(ntk) + 0.04 + 2 * attended(nngp)
    np.testing.assert_allclose(kernel.ntk, wanted, 1e-10)


def test_sums_over_keys_in_reach():
    x = jr.normal(jr.key(0), (2, 3, 4))
    nngp, ntk = kernels_before(x)
    summed = lambda k: np.einsum("qp,ijpr,sr->ijqs", NEAR, k, NEAR)
    options = {"linear_scaling": False, "mechanism": "identity", "reach": REACH}
    kernel = eqt.kernel(nn.Sequential([LINEAR, attention(**options)]), x)
    np.testing.assert_allclose(kernel.nngp, summed(nngp**2) * nngp, 1e-10)
    wanted = 2 * summed(ntk * nngp) * nngp + summed(nngp**2) * (ntk + 4 * nngp)
    np.testing.assert_allclose(kernel.ntk, wanted, 1e-10)


@pytest.mark.slow
def test_causal_networks_do_not_see_what_comes_later():
    net = attention(2, reach=((None, 0),)).init((3, 4), key=jr.key(1))
    slopes = jax.jacobian(net)(jr.normal(jr.key(0), (3, 4)))
    seen = np.abs(slopes).max((0, 2)) > 0
    np.testing.assert_array_equal(seen, np.tril(np.ones((4, 4), bool)))


def test_pairs_are_for_each_axis():
    x = jr.normal(jr.key(0), (2, 3, 4))
    with pytest.raises(nn.LayerError, match="is for 2 spatial axes, but its input"):
        eqt.kernel(attention(reach=((1, 0), (1, 0))), x)
    with pytest.raises(TypeError, match="is causal"):
        attention(causal=True)
