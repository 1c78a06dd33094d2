"""Layers of finite width: parameters, forward passes, and what they refuse."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn


KEY = jr.key(0)


@pytest.mark.parametrize("stride", [1, (2, 1)])
@pytest.mark.parametrize("padding", ["VALID", "SAME", "CIRCULAR"])
def test_conv_is_equinox_s(padding, stride, getkey):
    x = jr.normal(getkey(), (3, 6, 8))
    ours = nn.Conv(
        5, (3, 2), stride, padding, dilation=(1, 2), weight_std=2.0, bias_std=0.5
    )
    ours = ours.init(x.shape, key=getkey())
    theirs = eqx.nn.Conv2d(
        3,
        5,
        (3, 2),
        stride,
        padding="VALID" if padding == "VALID" else "SAME",
        dilation=(1, 2),
        padding_mode="CIRCULAR" if padding == "CIRCULAR" else "ZEROS",
        key=getkey(),
    )
    weight = 2.0 / np.sqrt(18) * ours.weight
    bias = 0.5 * ours.bias[:, None, None]
    theirs = eqx.tree_at(lambda c: (c.weight, c.bias), theirs, (weight, bias))
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)


def test_linear_is_equinox_s_at_every_position(getkey):
    x = jr.normal(getkey(), (3, 2, 4))
    ours = nn.Linear(5, bias_std=0.5).init(x.shape, key=getkey())
    by_hand = jnp.einsum("oi,ipq->opq", ours.weight / np.sqrt(3), x)
    np.testing.assert_allclose(
        ours(x), by_hand + 0.5 * ours.bias[:, None, None], atol=1e-5
    )


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_pools_are_equinox_s(padding, getkey):
    x = jr.normal(getkey(), (3, 6, 7))
    below, above = {"VALID": ((0, 0), (0, 0)), "SAME": ((0, 1), (0, 1))}[padding]
    theirs = eqx.nn.AvgPool2d((3, 2), (2, 1), padding=(below, above))(x)
    layer = nn.AvgPool((3, 2), (2, 1), padding)
    np.testing.assert_allclose(layer(x), theirs, atol=1e-5)
    np.testing.assert_allclose(
        nn.SumPool((3, 2), (2, 1), padding)(x), 6 * theirs, atol=1e-5
    )
    normalized = nn.AvgPool((3, 2), (2, 1), padding, normalize_edges=True)
    np.testing.assert_allclose(
        normalized(jnp.ones_like(x)), jnp.ones_like(theirs), atol=1e-6
    )


def test_circular_pool_wraps():
    x = jnp.arange(4.0)[None]
    pooled = nn.SumPool((3,), padding="CIRCULAR")(x)
    np.testing.assert_allclose(pooled, [[3 + 0 + 1, 0 + 1 + 2, 1 + 2 + 3, 2 + 3 + 0]])


def test_standard_parameterization_is_the_same_function_at_its_own_scale(getkey):
    options = {"weight_std": 1.5, "bias_std": 0.5, "parameterization": "standard"}
    layer = nn.Linear(4000, width_multipliers=(4, 1), **options)
    layer = layer.init((16,), key=getkey())
    assert jnp.std(layer.weight) == pytest.approx(1.5 * np.sqrt(4 / 16), rel=0.02)
    assert jnp.std(layer.bias) == pytest.approx(0.5, rel=0.05)
    x = jr.normal(getkey(), (16,))
    expected = layer.weight @ x / 2 + layer.bias
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert nn.Linear(3, width_multipliers=(1, 2), **options).init(
        (5,), key=KEY
    ).weight.shape == (6, 5)


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (nn.Relu(), lambda x: np.maximum(x, 0)),
        (nn.LeakyRelu(0.3), lambda x: np.where(x < 0, 0.3 * x, x)),
        (nn.Abs(), np.abs),
        (nn.ABRelu(-2.0, 0.5), lambda x: np.where(x < 0, -2 * x, 0.5 * x)),
        (
            nn.Erf(2.0, 0.5, 1.0),
            lambda x: 2 * np.asarray(jax.scipy.special.erf(x / 2)) + 1,
        ),
        (nn.Identity(), lambda x: x),
    ],
)
def test_activations(layer, function):
    x = jnp.linspace(-3, 3, 13)[None]
    np.testing.assert_allclose(layer(x), function(np.asarray(x)), atol=1e-6)


def test_branches(getkey):
    x = jr.normal(getkey(), (3, 4))
    two = (x, 2 * x)
    np.testing.assert_allclose(nn.FanInSum()(two), 3 * x, rtol=1e-5)
    np.testing.assert_allclose(nn.FanInProd()(two), 2 * x * x, rtol=1e-5)
    np.testing.assert_allclose(nn.FanInMax()(two), jnp.maximum(x, 2 * x), rtol=1e-5)
    np.testing.assert_allclose(nn.FanInMin()(two), jnp.minimum(x, 2 * x), rtol=1e-5)
    assert nn.FanInConcat(0)(two).shape == (6, 4)
    assert nn.FanInConcat(-1)(two).shape == (3, 8)
    assert len(nn.FanOut(3)(x)) == 3
    model = nn.Residual(nn.Conv(3, (3,), padding="SAME")).init(x.shape, key=getkey())
    np.testing.assert_allclose(model(x), model.main(x) + x, rtol=1e-5)


@pytest.mark.slow
def test_a_model_trains(getkey):
    x, y = jr.normal(getkey(), (8, 2, 6)), jr.normal(getkey(), (8,))
    net = nn.Sequential(
        [
            nn.Conv(16, (3,), weight_std=1.5, bias_std=0.1),
            nn.Repeat(nn.Sequential([nn.Relu(), nn.Conv(16, (3,), padding="SAME")]), 2),
            nn.Flatten(),
            nn.Linear(1),
        ]
    )
    model = net.init(x.shape[1:], key=getkey())

    @eqx.filter_jit
    def loss(model):
        return jnp.mean((jax.vmap(model)(x)[:, 0] - y) ** 2)

    before = loss(model)
    for _ in range(20):
        gradient = eqx.filter_grad(loss)(model)
        model = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient))
    assert loss(model) < 0.5 * before


IMAGES, VECTORS = (2, 3, 8, 8), (2, 3)  # shapes of batches
CONV = nn.Conv(4, 3)


def kernel_of(*layers, x=IMAGES, x2=None, dtype=float):
    net = nn.Sequential(layers)
    batch = lambda shape: None if shape is None else jnp.ones(shape, dtype)
    return lambda: eqt.kernel(net, batch(x), batch(x2))


def model_of(*layers, x=IMAGES):
    net = nn.Sequential(layers)
    return lambda: net.init(x[1:], key=KEY)(jnp.ones(x[1:]))


REFUSED = {
    "no parameters": (
        lambda: nn.Sequential([CONV])(jnp.ones(IMAGES[1:])),
        r"layers[0] (Conv): has no parameters yet. Call `model = net.init",
    ),
    "no parameters in a repeat": (
        lambda: nn.Sequential([nn.Repeat(CONV, 2)])(jnp.ones(IMAGES[1:])),
        "layers[0] (Repeat): has no parameters",
    ),
    "no key": (
        lambda: nn.Sequential([nn.Relu(), CONV]).init((3, 8, 8)),
        "layers[1] (Conv): `init` draws parameters, but was given no key",
    ),
    "one axis": (kernel_of(nn.Relu(), x=(3,)), "`x1` has shape (3,)"),
    "integers": (
        kernel_of(nn.Linear(1), x=VECTORS, dtype=int),
        "floating-point",
    ),
    "channels of x2": (
        kernel_of(nn.Linear(1), x=VECTORS, x2=(2, 4)),
        "One example of `x1` has shape (3,)",
    ),
    "nonlinearity on the pooled input": (
        kernel_of(nn.GlobalAvgPool(), nn.Relu()),
        "layers[1] (Relu): needs a Gaussian input",
    ),
    "negative degree": (lambda: nn.Monomial(-1), "Monomial: `degree` is -1"),
    "two nonlinearities": (
        kernel_of(CONV, nn.Residual(nn.Sequential([nn.Relu(), nn.Erf(), CONV]))),
        "layers[1].main.layers[1] (Erf): needs a Gaussian input",
    ),
    "window of the kernel": (
        kernel_of(nn.Sequential([nn.Conv(1, 9)])),
        "layers[0].layers[0] (Conv): its window covers 9 positions of spatial axis 0",
    ),
    "window of the model": (
        model_of(CONV, nn.AvgPool(7)),
        "layers[1] (AvgPool): its window covers 7 positions",
    ),
    "spatial axes": (kernel_of(CONV, x=VECTORS), "layers[0] (Conv): moves a window"),
    "rank": (
        kernel_of(nn.Conv(4, (3,))),
        "layers[0] (Conv): `kernel_size=(3,)` is for 1 spatial axes",
    ),
    "batch given to a model": (
        lambda: nn.Linear(2).init((3,), key=KEY)(jnp.ones((5, 3))),
        "Linear: takes 3 channels",
    ),
    "rank given to a model": (
        lambda: CONV.init((3, 8, 8), key=KEY)(jnp.ones(IMAGES)),
        "Conv: takes 3 channels and 2 spatial axes",
    ),
    "shapes of branches": (
        kernel_of(nn.Residual(CONV)),
        "layers[0] (Residual): joins branches whose outputs have shapes "
        "(4, 6, 6), (3, 8, 8)",
    ),
    "shapes of a model's branches": (
        model_of(nn.Residual(CONV)),
        "layers[0] (Residual): joins branches whose outputs have shapes",
    ),
    "correlated sum": (
        kernel_of(nn.Linear(3), nn.Residual(nn.Identity())),
        "correlated",
    ),
    "correlated product": (
        kernel_of(nn.FanOut(2), nn.FanInProd()),
        "layers[1] (FanInProd): multiplies branches that are correlated",
    ),
    "largest of what is one": (
        kernel_of(nn.FanOut(2), nn.FanInMax()),
        "layers[1] (FanInMax): joins branches that are correlated",
    ),
    "largest of three": (
        kernel_of(
            nn.FanOut(3), nn.Parallel([nn.Linear(2) for _ in range(3)]), nn.FanInMax()
        ),
        "layers[2] (FanInMax): compares 3 branches",
    ),
    "smallest of what is not Gaussian": (
        kernel_of(
            nn.Linear(2),
            nn.FanOut(2),
            nn.Parallel([nn.Relu(), nn.Linear(2)]),
            nn.FanInMin(),
        ),
        "layers[3] (FanInMin): compares branches of which one is not Gaussian",
    ),
    "count of branches": (
        kernel_of(nn.FanOut(2), nn.Parallel([nn.Identity()])),
        "layers[1] (Parallel): has 1 branches, but gets 2 inputs",
    ),
    "branches where one is needed": (
        kernel_of(nn.FanOut(2), nn.Linear(1)),
        "layers[1] (Linear): takes one input, but gets 2",
    ),
    "one where branches are needed": (
        kernel_of(nn.FanInSum()),
        "layers[0] (FanInSum): takes the outputs of several branches",
    ),
    "axis": (
        kernel_of(nn.FanOut(2), nn.Parallel([CONV, CONV]), nn.FanInConcat(3)),
        "layers[2] (FanInConcat): `axis=3`",
    ),
    "repeat that shrinks": (
        kernel_of(nn.Repeat(nn.Conv(3, 3), 2)),
        "layers[0] (Repeat): its layer must keep the size",
    ),
    "initialised repeat that shrinks": (
        model_of(nn.Repeat(nn.Conv(3, 3), 2)),
        "layers[0] (Repeat): its layer must keep the shape",
    ),
    "second pass of a repeat": (
        kernel_of(nn.Linear(3), nn.Repeat(nn.Relu(), 2)),
        "layers[1].layer (Relu): needs a Gaussian input",
    ),
    "class for a layer": (lambda: nn.Sequential([nn.Relu]), "is not a layer"),
    "negative repeat": (lambda: nn.Repeat(nn.Relu(), -1), "must not be negative"),
    "kernel size": (lambda: nn.Conv(1, 0), "`kernel_size` is 0"),
    "fan out": (lambda: nn.FanOut(0), "must be at least 1"),
}


@pytest.mark.parametrize(("attempt", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_and_says_where_and_why(attempt, message, without_jaxtyping):
    with pytest.raises(ValueError, match=re.escape(message)):
        attempt()


SUMMABLE = {
    "weights": [],
    "odd function": [nn.Erf()],
    "root mean square": [nn.RMSNorm()],
    "product": [
        nn.FanOut(2),
        nn.Parallel([nn.LayerNorm(), nn.Sequential([nn.Linear(8), nn.Linear(8)])]),
        nn.FanInProd(),
    ],
    "side by side": [
        nn.FanOut(2),
        nn.Parallel([nn.Linear(8), nn.Linear(8)]),
        nn.FanInConcat(),
    ],
}
NOT_SUMMABLE = {
    "function with a mean": [nn.Relu()],
    "mean taken off": [nn.LayerNorm()],
    "mean of groups taken off": [nn.GroupNorm(2)],
    "positions among channels": [nn.Flatten()],
    "twice the same": [
        nn.FanOut(2),
        nn.Parallel([nn.Erf(), nn.Identity()]),
        nn.FanInConcat(),
    ],
    "mean taken off one part of a sum": [
        nn.FanOut(2),
        nn.Parallel([nn.LayerNorm(), nn.Sequential([nn.Erf(), nn.Linear(8)])]),
        nn.FanInSum(),
    ],
}


def summed(layers):
    return nn.Sequential([nn.Linear(8), *layers, nn.ChannelSum()])


@pytest.mark.parametrize("layers", SUMMABLE.values(), ids=SUMMABLE)
def test_channels_of_mean_zero_are_summed(layers, getkey):
    x = jr.normal(getkey(), (3, 4, 2))
    net = summed(layers)
    kernel = eqt.kernel(nn.Sequential([net, nn.GlobalAvgPool()]), x)
    without = nn.Sequential([nn.Linear(8), *layers, nn.GlobalAvgPool()])
    assert eqt.kernel(without, x).nngp.shape == kernel.nngp.shape
    np.testing.assert_array_equal(eqt.kernel(without, x).ntk, kernel.ntk)
    model = net.init(x.shape[1:], key=getkey())
    before = nn.Sequential(model.layers[:-1])(x[0])
    expected = before.sum(0, keepdims=True) / np.sqrt(before.shape[0])
    np.testing.assert_allclose(model(x[0]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", NOT_SUMMABLE.values(), ids=NOT_SUMMABLE)
def test_sums_of_other_channels_are_refused(layers, getkey):
    x = jr.normal(getkey(), (3, 4, 2))
    with pytest.raises(nn.LayerError, match="sums channels that are not known to have"):
        eqt.kernel(summed(layers), x)
