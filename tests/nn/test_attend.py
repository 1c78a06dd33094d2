"""Attention in parts: queries, keys and values of layers around it."""

import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn


pytestmark = pytest.mark.precision("float64")

W, KEY = 12, jr.key(0)
MASK = np.arange(5) < np.array([[5], [2], [4]])


def linear(std=1.0, bias_std=None, **options):
    return nn.Linear(W, weight_std=std, bias_std=bias_std, **options)


def in_parts(**options):
    """As `GlobalSelfAttention`, of which these are the parts."""
    layers = [linear(1.3), linear(0.8), nn.Attend(**options), linear(1.1, 0.3)]
    return nn.Wiring(layers, [[0], [0], [1, 1, 2], [3]])


def whole(**options):
    sizes = {"key_channels": W, "value_channels": W, "heads": 2, "bias_std": 0.3}
    stds = {"query_std": 1.3, "key_std": 1.3, "value_std": 0.8, "output_std": 1.1}
    return nn.GlobalSelfAttention(W, **sizes, **stds, **options)


CAUSAL = {"reach": ((None, 0),)}


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("options", [CAUSAL, {}, {"mechanism": "relu"}])
def test_the_kernel_is_that_of_the_whole(options, masked):
    x = jr.normal(KEY, (3, 4, 5))
    x = nn.Masked(x, MASK) if masked else x
    before = [nn.Conv(W, 2, padding="SAME"), nn.Relu()]
    ours, theirs = (
        eqt.kernel(nn.Sequential([*before, one(**options), nn.GlobalAvgPool()]), x)
        for one in (in_parts, whole)
    )
    np.testing.assert_allclose(ours.nngp, theirs.nngp, rtol=1e-10)
    np.testing.assert_allclose(ours.ntk, theirs.ntk, rtol=1e-10)


@pytest.mark.slow
def test_keys_of_another_branch_count_alike():
    """What remains is the bias; queries may be at other positions."""
    bias = np.where(np.eye(4, 5) > 0, -np.inf, np.linspace(0, 1, 5)[None])
    net = nn.Wiring(
        [linear(), linear(), linear(0.8), nn.Attend(bias=bias, heads=3)],
        [[0], [1], [1], [2, 3, 4]],
        inputs=2,
    )
    x, y = jr.normal(KEY, (3, 4, 4)), jr.normal(jr.key(1), (3, 2, 5))
    kernel = eqt.kernel(net, (x, y))
    weights = np.exp(bias) / np.exp(bias).sum(1, keepdims=True)
    values = eqt.kernel(linear(0.8), y)
    for ours, theirs in ((kernel.nngp, values.nngp), (kernel.ntk, values.ntk)):
        wanted = np.einsum("qp,ijpr,sr->ijqs", weights, theirs, weights)
        np.testing.assert_allclose(ours, wanted, rtol=1e-10)
    model = net.init((x.shape[1:], y.shape[1:]), key=KEY)
    assert jax.vmap(model)((x, y)).shape == (3, W, 4)


@pytest.mark.slow
@pytest.mark.precision("float32")
@pytest.mark.parametrize("tied", [True, False])
def test_drawn_networks_have_this_kernel(tied):
    wide = lambda **options: nn.Linear(64, weight_std=1.2, **options)
    layers = [wide(), wide(), wide(parameterization="standard")]
    layers += [nn.Attend(heads=2, **CAUSAL), nn.Relu(), nn.GlobalAvgPool()]
    attend = [1, 1, 3] if tied else [1, 2, 3]
    reads = [[0], [0], [0], attend, [4], [5], [6]]
    net = nn.Wiring([*layers, nn.Linear(1)], reads)
    x = jr.normal(KEY, (2, 3, 4))
    limit = eqt.kernel(net, x)
    drawn = eqt.monte_carlo(net, x, None, jr.key(1), 400)
    for name in ("nngp", "ntk"):
        expected, mean, error = (
            np.asarray(getattr(k, name))
            for k in (limit, drawn.mean, drawn.standard_error)
        )
        allowed = 5 * error + 8 / 64 * np.abs(expected).max()
        assert (np.abs(mean - expected) < allowed).all()


REFUSED = {
    "two inputs": ([linear(), nn.Attend()], [[0], [0, 1]], "gets 2 inputs"),
    "channels": (
        [linear(), nn.Linear(5), nn.Attend()],
        [[0], [0], [1, 2, 1]],
        "as many channels",
    ),
    "positions": (
        [linear(), nn.GlobalAvgPool(), nn.Attend()],
        [[0], [1], [1, 1, 2]],
        "the same positions",
    ),
    "heads": ([linear(), nn.Attend(heads=5)], [[0], [1, 1, 1]], "into 5 heads"),
    "bias": (
        [linear(), nn.Attend(bias=np.zeros((2, 2)))],
        [[0], [1, 1, 1]],
        "give an array of shape (4, 4)",
    ),
    "reach": (
        [linear(), nn.Index(slice(2)), linear(), nn.Attend(reach=1)],
        [[0], [1], [2], [3, 1, 1]],
        "between which there are no distances",
    ),
    "pairs": (
        [linear(), nn.Attend(reach=((1, 0), (1, 0)))],
        [[0], [1, 1, 1]],
        "for 2 spatial axes",
    ),
    "correlated": (
        [linear(), nn.Relu(), nn.Attend()],
        [[0], [1], [1, 2, 1]],
        "come from the same weights",
    ),
    "of the input": (
        [nn.Linear(3), nn.Attend()],
        [[0], [0, 1, 1]],
        "are no outputs of weights",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_limit_is_refused(case):
    layers, reads, said = case
    with pytest.raises(nn.LayerError, match=re.escape(said)):
        jax.eval_shape(
            lambda x: eqt.nngp(nn.Wiring(layers, reads), x), jnp.zeros((2, 3, 4))
        )
