"""Finite networks approach the kernels at the rate -1/2 in their width."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn


def mlp(w):
    return nn.Sequential(
        [
            nn.Linear(w, weight_std=1.5, bias_std=0.3),
            nn.Relu(),
            nn.Linear(w, weight_std=1.2, bias_std=0.2),
            nn.Erf(),
            nn.Linear(1, weight_std=1.1),
        ]
    )


def conv_net(w):
    return nn.Sequential(
        [
            nn.Conv(w, 3, 2, "SAME", weight_std=1.4, bias_std=0.2),
            nn.LeakyRelu(0.2),
            nn.Conv(w, 2, padding="CIRCULAR", dilation=2, weight_std=1.4),
            nn.Relu(),
            nn.GlobalAvgPool(),
            nn.Linear(1),
        ]
    )


def pooled_residual(w):
    block = nn.Sequential([nn.Relu(), nn.Conv(w, (3,), padding="SAME", weight_std=1.3)])
    return nn.Sequential(
        [
            nn.Conv(w, (3,), padding="SAME", bias_std=0.1),
            nn.Residual(block),
            nn.AvgPool((3,), (2,), "SAME", normalize_edges=True),
            nn.Residual(block, nn.Conv(w, (1,))),
            nn.Relu(),
            nn.Flatten(),
            nn.Linear(1),
        ]
    )


def branches(w):
    gate = nn.Sequential([nn.Linear(w, weight_std=1.3), nn.Erf()])
    return nn.Sequential(
        [
            nn.Linear(w),
            nn.FanOut(2),
            nn.Parallel([gate, nn.Linear(w, bias_std=0.5)]),
            nn.FanInProd(),
            nn.FanOut(2),
            nn.Parallel(
                [nn.Linear(w), nn.Sequential([nn.Linear(w), nn.ABRelu(0.5, -1.0)])]
            ),
            nn.FanInConcat(),
            nn.Repeat(nn.Linear(2 * w), 2),
            nn.Linear(1),
        ]
    )


def standard(w):
    options = {"weight_std": 1.3, "bias_std": 0.3, "parameterization": "standard"}
    return nn.Sequential(
        [
            nn.Linear(w, width_multipliers=(1, 2), **options),
            nn.Relu(),
            nn.Linear(1, width_multipliers=(2, 1), **options),
        ]
    )


NETWORKS = {
    "mlp": (mlp, (4,)),
    "conv": (conv_net, (3, 5, 4)),
    "pooled_residual": (pooled_residual, (2, 6)),
    "branches": (branches, (3,)),
    "standard": (standard, (4,)),
}
WIDTHS = 2 ** np.arange(5, 9)
SAMPLES = 96

# Statistics do not depend on the precision: it is enough to sample once.
pytestmark = [pytest.mark.precision("float32"), pytest.mark.slow]


def empirical_ntk(net, x, key):
    """NTK of one draw of the parameters, by its definition."""
    model = net.init(x.shape[1:], key=key)
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)

    def outputs(parameters):
        return jax.vmap(eqx.combine(parameters, rest))(x)[:, 0]

    leaves = jax.tree.leaves(jax.jacrev(outputs)(parameters))
    jacobian = jnp.concatenate([leaf.reshape(x.shape[0], -1) for leaf in leaves], 1)
    return jacobian @ jacobian.T


def sampled(function, keys, at_a_time):
    """`function` of many keys. In a loop of JAX's, convolutions would be slow."""
    some = eqx.filter_jit(jax.vmap(function))
    draws = [some(keys[i : i + at_a_time]) for i in range(0, len(keys), at_a_time)]
    return np.concatenate(draws).astype(np.float64)


@pytest.mark.parametrize(("network", "shape"), NETWORKS.values(), ids=NETWORKS.keys())
def test_ntk_is_approached_at_rate_one_half(network, shape, getkey):
    x = jr.normal(getkey(), (3, *shape))
    errors = []
    for width in map(int, WIDTHS):
        net = network(width)
        limit = np.asarray(eqt.ntk(net, x), np.float64)
        keys = jr.split(getkey(), SAMPLES)
        ntks = sampled(lambda key, net=net: empirical_ntk(net, x, key), keys, 12)
        scale = np.abs(limit).max()
        errors.append(np.sqrt(np.mean((ntks - limit) ** 2)) / scale)
        # The mean has a bias of order 1 / width beside the error of sampling.
        stderr = ntks.std(0) / SAMPLES**0.5
        excess = np.abs(ntks.mean(0) - limit) - 5 * stderr
        assert excess.max() < 0.5 * scale / width, f"width {width}: {excess / scale}"
    slope, _ = np.polyfit(np.log2(WIDTHS), np.log2(errors), 1)
    assert slope == pytest.approx(-0.5, abs=0.12), f"errors {errors}"


@pytest.mark.parametrize(("network", "shape"), NETWORKS.values(), ids=NETWORKS.keys())
def test_outputs_have_the_covariance_of_the_nngp(network, shape, getkey):
    x = jr.normal(getkey(), (3, *shape))
    width, draws = 64, 4000
    net = network(width)
    limit = np.asarray(eqt.nngp(net, x), np.float64)

    def output(key):
        return jax.vmap(net.init(x.shape[1:], key=key))(x)[:, 0]

    f = sampled(output, jr.split(getkey(), draws), 100)
    products = f[:, :, None] * f[:, None]
    stderr = products.std(0) / draws**0.5
    excess = np.abs(products.mean(0) - limit) - 5 * stderr
    assert excess.max() < 0.3 * np.abs(limit).max() / width
