"""Parts of the tangent kernel: which parameters are trained, and how fast."""

import equinox as eqx
import hypothesis as hyp
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents.covariance import Affine
from precision import by_precision
from random_networks import networks


def linear(out=16, bias_std=0.3, weight_std=1.4):
    return nn.Linear(out, weight_std=weight_std, bias_std=bias_std)


def conv(out=16):
    return nn.Conv(out, 3, padding="SAME", weight_std=1.3, bias_std=0.2)


NETWORKS = {
    "mlp": (
        # The same layers over and over: they are one scan.
        nn.Sequential([linear(), *[nn.Relu(), linear()] * 3, nn.Erf(), linear(1)]),
        (5,),
    ),
    "repeat": (
        nn.Sequential(
            [
                conv(),
                nn.Repeat(
                    nn.Sequential(
                        [nn.Residual(nn.Sequential([nn.Relu(), conv()])), conv()]
                    ),
                    2,
                ),
                nn.GlobalAvgPool(),
            ]
        ),
        (2, 5),
    ),
    "gains": (
        nn.Sequential(
            [
                linear(),
                nn.LayerNorm(use_weight=True, use_bias=True),
                nn.Relu(),
                nn.Linear(16, parameterization="standard"),
                nn.RMSNorm(use_weight=True),
                nn.Relu(),
                nn.Linear(1),
            ]
        ),
        (5,),
    ),
    "attention": (
        nn.Sequential(
            [
                conv(),
                nn.GlobalSelfAttention(
                    8,
                    key_channels=4,
                    value_channels=4,
                    heads=2,
                    bias_std=0.3,
                    positional=nn.PositionalEmbedding(std=0.5, on_values=True),
                ),
                nn.Flatten(),
                linear(1),
            ]
        ),
        (2, 4),
    ),
}
each_network = pytest.mark.parametrize(
    ("net", "shape"), NETWORKS.values(), ids=NETWORKS.keys()
)


def drawn(net, shape):
    """The network with parameters, and these alone, without hyperparameters."""
    model = net.init(shape, key=jr.key(1))
    return model, eqt.linearize(model).params


def rates_like(params, key):
    """Learning rates for each parameter, some of them zero."""
    leaves, structure = jax.tree.flatten(params)
    which = np.arange(1, len(leaves) + 1) % 3
    rates = np.asarray(jr.uniform(key, which.shape)) * which
    return structure.unflatten([float(rate) for rate in rates])


def assert_parts(net, x):
    """The parts add up to the whole, and rates multiply them."""
    whole = eqt.ntk(net, x)
    parts = eqt.ntk_by_leaf(net, x)
    _, params = drawn(net, x.shape[1:])
    assert jax.tree.structure(parts) == jax.tree.structure(params)
    rates = rates_like(params, jr.key(2))
    weighted = jax.tree.map(lambda part, rate: rate * part, parts, rates)
    given = eqt.ntk(net, x, trainable=rates)
    scale = np.abs(whole).max()
    rtol = by_precision(float64=1e-12, float32=1e-5)
    for found, sums in ((whole, parts), (given, weighted)):
        np.testing.assert_allclose(
            sum(jax.tree.leaves(sums)), found, rtol=rtol, atol=rtol * scale
        )


@pytest.mark.slow
@each_network
def test_parts_add_up(net, shape):
    assert_parts(net, jr.normal(jr.key(0), (3, *shape)))


@pytest.mark.slow
@hyp.given(networks())
@hyp.settings(max_examples=20)
def test_parts_add_up_whatever_the_network(network):
    net, shape = network.net, network.input_shape
    model = net.init(shape, key=jr.key(1))
    hyp.assume(any(map(eqx.is_inexact_array, jax.tree.leaves(model))))
    assert_parts(net, jr.normal(jr.key(0), (2, *shape)))


@pytest.mark.slow
def test_the_readout_alone_is_the_covariance_of_what_it_reads():
    net, shape = NETWORKS["mlp"]
    x = jr.normal(jr.key(0), (4, *shape))
    model, _ = drawn(net, shape)
    nothing = jax.tree.map(lambda _: False, model)
    last = eqx.tree_at(lambda net: net.layers[-1], nothing, True)
    hidden = nn.Sequential(net.layers[:-1])
    readout = eqt.kernel(net, x, trainable=last)
    rtol = by_precision(float64=1e-12, float32=1e-5)
    expected = 1.4**2 * eqt.nngp(hidden, x) + 0.3**2
    np.testing.assert_allclose(readout.ntk, expected, rtol=rtol)
    np.testing.assert_allclose(readout.nngp, eqt.nngp(net, x), rtol=rtol)
    # A tree made before there are parameters says the same.
    early = jax.tree.map(lambda _: False, net)
    early = eqx.tree_at(lambda net: net.layers[-1], early, True)
    same = eqt.ntk(net, x, trainable=early)
    np.testing.assert_allclose(same, readout.ntk, rtol=rtol)
    diagonal = eqt.ntk_diagonal(net, x, trainable=last)
    np.testing.assert_allclose(diagonal, jnp.diag(readout.ntk), rtol=rtol)
    tiled = eqt.gram(net, x, tile=3, trainable=last)
    np.testing.assert_allclose(tiled, readout.ntk, rtol=rtol)


@pytest.mark.slow
def test_copies_have_rates_of_their_own():
    block = nn.Sequential([nn.Relu(), linear()])
    repeated = nn.Sequential([linear(), nn.Repeat(block, 3)])
    written = nn.Sequential([linear(), block, block, block])
    x = jr.normal(jr.key(0), (3, 4))
    rates = jnp.array([0.5, 0.0, 2.0])
    kernels = []
    for net, places, given in (
        (repeated, lambda net: net.layers[1].copies, rates),
        (written, lambda net: net.layers[1:], tuple(rates)),
    ):
        nothing = jax.tree.map(lambda _: False, drawn(net, x.shape[1:])[1])
        trainable = eqx.tree_at(places, nothing, given)
        kernels.append(eqt.ntk(net, x, trainable=trainable))
    rtol = by_precision(float64=1e-12, float32=1e-5)
    np.testing.assert_allclose(*kernels, rtol=rtol)


@pytest.mark.slow
def test_learning_rates_are_differentiated_in():
    net, shape = NETWORKS["mlp"]
    x = jr.normal(jr.key(0), (3, *shape))
    _, params = drawn(net, shape)
    ones = jax.tree.map(lambda _: jnp.ones(()), params)
    slopes = jax.jacfwd(lambda rates: eqt.ntk(net, x, trainable=rates))(ones)
    parts = eqt.ntk_by_leaf(net, x)
    rtol = by_precision(float64=1e-12, float32=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol),
        slopes,
        parts,
    )


@pytest.mark.slow
def test_rates_of_networks_of_finite_width():
    net, shape = NETWORKS["mlp"]
    x = jr.normal(jr.key(0), (3, *shape))
    model, params = drawn(net, shape)
    rates = rates_like(params, jr.key(2))
    parts = eqt.empirical_ntk_by_leaf(model, x)
    weighted = jax.tree.map(lambda part, rate: rate * part, parts, rates)
    rtol = by_precision(float64=1e-10, float32=1e-4)
    for options in ({}, {"implementation": "jacobian"}):
        found = eqt.empirical_ntk(model, x, trainable=rates, **options)
        expected = sum(jax.tree.leaves(weighted))
        np.testing.assert_allclose(found, expected, rtol=rtol)
    options = {"trainable": rates, "kernels": "ntk"}
    drawn_twice = eqt.monte_carlo(net, x, None, jr.key(3), 2, **options)
    assert drawn_twice.mean.shape == (3, 3)
    with pytest.raises(ValueError, match="does not keep parameters apart"):
        eqt.empirical_ntk(model, x, trainable=rates, implementation="vector_products")
    with pytest.raises(TypeError, match="or a tree of booleans"):
        eqt.linearize(model, trainable=rates)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "gains", "attention"])
def test_parts_are_those_of_wide_networks(name, getkey):
    net, shape = NETWORKS[name]
    wide = 256 if name != "attention" else 32
    widened = jax.tree.map(
        lambda layer: _widened(layer, wide),
        net,
        is_leaf=lambda node: isinstance(node, WIDENED),
    )
    net = nn.Sequential([*widened.layers[:-1], net.layers[-1]])
    x = jr.normal(getkey(), (2, *shape))
    keys = jr.split(getkey(), 60)

    @jax.jit
    def of_one(key):
        return eqt.empirical_ntk_by_leaf(net.init(shape, key=key), x)

    samples = [of_one(key) for key in keys]
    found = jax.tree.map(lambda *parts: jnp.stack(parts), *samples)
    size = jnp.abs(eqt.ntk(net, x)).max()
    for parts, part in zip(
        jax.tree.leaves(found), jax.tree.leaves(eqt.ntk_by_leaf(net, x)), strict=True
    ):
        error = parts.std(0, ddof=1) / len(keys) ** 0.5
        slack = 5 * error + 3 / wide * size
        assert (np.abs(parts.mean(0) - part) < slack).all()


WIDENED = nn.Linear | nn.Conv | nn.GlobalSelfAttention


def _widened(layer, width):
    if isinstance(layer, nn.Linear) and layer.out_features > 1:
        return nn.Linear(
            width,
            weight_std=layer.weight_std,
            bias_std=layer.bias_std,
            parameterization=layer.parameterization,
        )
    if isinstance(layer, nn.GlobalSelfAttention):
        return nn.GlobalSelfAttention(
            width,
            key_channels=width,
            value_channels=width,
            heads=width,
            bias_std=layer.bias_std,
            positional=layer.positional,
        )
    return layer


class Doubled(nn.AbstractLayer):
    """A layer of someone else's, which does not know of learning rates."""

    weight: jax.Array | None = None

    def init(self, input_shape, *, key=None):
        return Doubled(jr.normal(key, (input_shape[0],) * 2))

    def __call__(self, x, *, key=None):
        return 2.0 * self.weight @ x / x.shape[0] ** 0.5

    def propagate(self, covariance):
        return Affine(
            covariance,
            scale=4.0,
            shift=0.0,
            weight_gradient=4.0,
            bias_gradient=0.0,
            channels=covariance.outline.channels,
        )


def test_what_does_not_fit_is_refused():
    net, x = nn.Sequential([linear(), nn.Relu(), linear()]), jnp.ones((2, 3))
    with pytest.raises(ValueError, match="does not fit the parameters, "):
        eqt.ntk(net, x, trainable=[True, False])
    with pytest.raises(TypeError, match=r"which are not negative"):
        eqt.ntk(net, x, trainable=-1.0)
    with pytest.raises(TypeError, match=r"has 'weight', but must be a test"):
        eqt.ntk(net, x, trainable="weight")
    with pytest.raises(ValueError, match="picks no parameter"):
        eqt.kernel(net, x, trainable=False)
    with pytest.raises(ValueError, match="one number for each parameter"):
        eqt.ntk(net, x, trainable=jnp.ones(3))
    with pytest.raises(ValueError, match="chooses itself"):
        eqt.gram(lambda a, b: a @ b.T, x, trainable=True)
    stranger = nn.Sequential([linear(), Doubled()])
    assert eqt.ntk(stranger, x, trainable=True).shape == (2, 2)
    with pytest.raises(nn.LayerError, match=r"layers\[1\] \(Doubled\): cannot tell"):
        eqt.ntk(stranger, x, trainable=0.5)
