"""Variances of the taps of windows, and weights that are orthogonal."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import brute_force
import eqtangents as eqt
from eqtangents import nn
from eqtangents.solvers import random_features
from precision import by_precision


CENTRE = (0, 1, 0)
UNEQUAL = ((0.0, 2.0, 1.0), (0.0, 0.5, 0.0), (0.0, 0.0, 3.0))


def close(actual, expected, **tolerances):
    rtol = by_precision(float64=1e-11, float32=2e-5)
    scale = np.abs(expected).max()
    tolerances = {"rtol": 0, "atol": rtol * scale} | tolerances
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, **tolerances), actual, expected
    )


def kernels(net, x):
    both = eqt.kernel(net, x)
    return both.nngp, both.ntk


def all_close(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        close(one, other)


def network(*between):
    return nn.Sequential(
        [nn.Linear(8), nn.Relu(), *between, nn.Relu(), nn.GlobalAvgPool(), nn.Linear(1)]
    )


def masked(key, shape):
    x_key, mask_key = jr.split(key)
    mask = jr.bernoulli(mask_key, 0.7, (shape[0], *shape[2:]))
    return nn.Masked(jr.normal(x_key, shape), mask)


PLACES = {"valid": (1, "VALID"), "same": (2, "SAME"), "circular": (1, "CIRCULAR")}
placed = pytest.mark.parametrize(
    ("stride", "padding"), PLACES.values(), ids=PLACES.keys()
)


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_taps_of_one_variance_are_those_of_a_plain_convolution(
    parameterization, getkey
):
    """Whether they are known to be alike or not."""
    x = masked(getkey(), (2, 3, 5, 4))
    options = {"bias_std": 0.3, "parameterization": parameterization}
    plain = nn.Conv(8, 3, 1, "SAME", **options)
    expected = kernels(network(plain), x)
    for alike in ((2, 2, 2), jnp.full((3, 3), 0.7)):
        layer = nn.Conv(8, 3, 1, "SAME", tap_variances=alike, **options)
        all_close(kernels(network(layer), x), expected)


@pytest.mark.parametrize("variances", [UNEQUAL, (3, 0, 1)], ids=["plane", "axis"])
@placed
@pytest.mark.slow
def test_kernels_are_those_by_the_textbook(variances, stride, padding, getkey):
    x = jr.normal(getkey(), (2, 2, 4, 5))
    for parameterization in ("ntk", "standard"):
        for given in (variances, jnp.asarray(variances, x.dtype)):
            options = {"tap_variances": given, "parameterization": parameterization}
            conv = lambda s, p, o=options: nn.Conv(8, 3, s, p, bias_std=0.2, **o)
            layers = [conv(1, "SAME"), nn.Relu(), conv(stride, padding)]
            net = nn.Sequential([*layers, nn.GlobalAvgPool(), nn.Linear(1)])
            (expected,) = brute_force.kernels(net, x)
            all_close(kernels(net, x), expected)


@pytest.mark.quick(1)
@placed
def test_the_centre_alone_is_no_window(stride, padding, getkey):
    """With zeros around the input as well: none are read."""
    x = jr.normal(getkey(), (3, 2, 6, 5))
    delta = nn.Conv(8, 3, stride, padding, tap_variances=CENTRE, bias_std=0.4)
    picks = {"VALID": nn.Slice[1:-1, 1:-1], "CIRCULAR": nn.Slice[:, :]}
    # Of 6 and 5 positions, windows are centred at 1, 3, 5 and 0, 2, 4.
    pick = nn.Index(picks.get(padding, nn.Slice[1::2, ::2]))
    pointwise = nn.Linear(8, bias_std=0.4)
    all_close(kernels(network(delta), x), kernels(network(pick, pointwise), x))


@pytest.mark.slow
def test_deltas_cost_what_a_linear_layer_costs(getkey):
    """No window is read, and nothing is added up."""
    x = jr.normal(getkey(), (2, 3, 6, 6))

    def equations(layer):
        return str(jax.make_jaxpr(lambda x: eqt.nngp(network(layer), x))(x)).count("=")

    conv = lambda **options: equations(nn.Conv(8, 3, padding="SAME", **options))
    least, delta, whole = equations(nn.Linear(8)), conv(tap_variances=CENTRE), conv()
    assert delta - least < (whole - least) / 4


LAYERS = {
    "conv": lambda w, **options: nn.Conv(w, 3, padding="SAME", **options),
    "groups": lambda w, **options: nn.Conv(w, 3, groups=2, **options),
    "transpose": lambda w, **options: nn.ConvTranspose(w, 3, 2, "SAME", **options),
    "local": lambda w, **options: nn.ConvLocal(w, 3, padding="SAME", **options),
}


class Halved(nn.AbstractParameterization):
    """A parameterisation whose deviation is in the multiplier, and in what is drawn."""

    @property
    def vanishing(self):
        return False

    def channels(self, out):
        return out

    def weights(self, std, fans):
        return nn.ParameterScale(std**0.5, std**0.5)

    def biases(self, std, fans):
        return nn.ParameterScale(std, 1.0)


@pytest.mark.quick(1)
@pytest.mark.parametrize("layer", [LAYERS[name] for name in LAYERS if name != "groups"])
@pytest.mark.parametrize(
    "parameterization",
    ["ntk", "standard", nn.MuP(), Halved()],
    ids=["ntk", "standard", "mup", "halved"],
)
def test_gradients_of_a_linear_model_are_its_tangent_kernel(
    layer, parameterization, getkey
):
    """Exactly so, whatever was drawn: which taps train is what they multiply by."""
    x = jr.normal(getkey(), (3, 4, 5))
    options = {"bias_std": 0.5, "parameterization": parameterization}
    net = layer(2, tap_variances=(0, 1, 3), weight_std=1.3, **options)
    model = net.init(x.shape[1:], key=getkey())
    close(eqt.empirical_ntk(model, x), eqt.ntk(net, x))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_taps_are_drawn_with_their_variances(layer, getkey):
    for parameterization in ("ntk", "standard"):
        options = {"tap_variances": (0, 1, 3), "parameterization": parameterization}
        net = layer(64, weight_std=1.5, **options)
        model = net.init((64, 6), key=getkey())
        weight = model.weight.reshape(64, -1, 3, *model.weight.shape[3:])
        if isinstance(net, nn.ConvLocal):
            weight = model.weight.reshape(64, 64, 3, -1)
        spread = jnp.mean(weight**2, [a for a in range(weight.ndim) if a != 2])
        inputs = 3 * weight.shape[1]
        variances = np.array([0.0, 1.0, 3.0]) * 3 / 4 * 1.5**2 / inputs
        if parameterization == "ntk":
            variances = np.ones(3)
        np.testing.assert_allclose(spread, variances, rtol=0.1)


ORTHOGONAL = {"weight_init": "orthogonal"}


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_orthogonal_weights_keep_lengths(parameterization, getkey):
    """At any width, so that even narrow linear networks have the limit's NNGP."""
    options = ORTHOGONAL | {"weight_std": 1.3, "parameterization": parameterization}
    linear = lambda n: nn.Linear(n, **options)
    x = jr.normal(getkey(), (4, 5))
    net = nn.Sequential([linear(7), linear(7), linear(9)])
    out = jax.vmap(net.init((5,), key=getkey()))(x)
    close(out @ out.T / 9, eqt.nngp(net, x))
    # Delta-orthogonal convolutions do so at every position.
    x = jr.normal(getkey(), (3, 5, 6))
    conv = lambda n: nn.Conv(n, 3, padding="SAME", tap_variances=CENTRE, **options)
    net = nn.Sequential([conv(7), conv(8)])
    out = jax.vmap(net.init((5, 6), key=getkey()))(x)
    close(jnp.einsum("icp,jcq->ijpq", out, out) / 8, eqt.nngp(net, x))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_orthogonal_weights_of_each_tap_and_group(layer, getkey):
    net = layer(4, **ORTHOGONAL)
    weight = net.init((6, 5), key=getkey()).weight
    if isinstance(net, nn.ConvLocal):
        weight = weight.reshape(4, 6, 3, 5)
    groups = getattr(net, "groups", 1)
    weight = weight.reshape(groups, 4 // groups, *weight.shape[1:])
    gram = jnp.einsum("gai...,gbi...->...gab", weight, weight)
    rows, inputs = weight.shape[1:3]
    if rows > inputs:
        pytest.skip("columns are orthogonal")
    eye = np.broadcast_to(inputs * np.eye(rows), gram.shape)
    np.testing.assert_allclose(gram, eye, atol=1e-4)


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.precision("float32")
@pytest.mark.slow
def test_orthogonal_networks_have_the_kernels_of_normal_ones(parameterization):
    """In the mean over draws, within five standard errors and a bias of 1 / width."""
    options = ORTHOGONAL | {"parameterization": parameterization}
    delta = lambda w: nn.Conv(
        w, 3, padding="SAME", weight_std=1.4, tap_variances=CENTRE, **options
    )
    blurred = lambda w: nn.Conv(
        w, 3, padding="SAME", weight_std=1.4, tap_variances=(1, 2, 1), **options
    )
    network = lambda w: nn.Sequential(
        [
            *[part for _ in range(2) for part in (delta(w), nn.Relu())],
            *(blurred(w), nn.Erf(), nn.GlobalAvgPool()),
            *(nn.Linear(w, **options), nn.Relu(), nn.Linear(1, **options)),
        ]
    )
    _assert_drawn(network, jr.normal(jr.key(1), (3, 4, 5)))


@pytest.mark.precision("float32")
@pytest.mark.slow
def test_orthogonal_recurrent_networks_have_the_kernels_of_normal_ones():
    linear = lambda w: nn.Linear(w, weight_std=1.2, bias_std=0.1, **ORTHOGONAL)
    network = lambda w: nn.Sequential(
        [nn.Recurrent(linear(w), linear(w), nn.Erf()), nn.Last(), nn.Linear(1)]
    )
    _assert_drawn(network, jr.normal(jr.key(1), (3, 4, 6)))


def _assert_drawn(network, x, width=96, draws=128):
    net = network(width)
    limit = kernels(net, x)

    @eqx.filter_jit
    @jax.vmap
    def drawn(key):
        model = net.init(x.shape[1:], key=key)
        out = jax.vmap(model)(x)[:, 0]
        return jnp.outer(out, out), eqt.empirical_ntk(model, x).reshape(3, 3)

    samples = drawn(jr.split(jr.key(0), draws))
    for name, some, expected in zip(("nngp", "ntk"), samples, limit, strict=True):
        some = np.asarray(some, float)
        error = 5 * some.std(0) / draws**0.5
        bias = 2 / width * np.abs(expected).max()
        excess = np.abs(some.mean(0) - expected) - error - bias
        assert excess.max() < 0, (name, some.mean(0), expected)


@pytest.mark.precision("float64")
@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.slow
def test_derivatives_in_variances(parameterization, getkey):
    """Against differences, at zero too, to second order and mixed with the inputs."""
    x = jr.normal(getkey(), (2, 2, 4, 4))

    def total(variances, scale):
        conv = nn.Conv(
            8,
            (2, 2),
            padding="CIRCULAR",
            tap_variances=variances,
            parameterization=parameterization,
        )
        kernel = eqt.kernel(network(conv), scale * x)
        return (kernel.nngp + kernel.ntk).sum()

    at = jnp.array([[0.0, 1.0], [0.5, 2.0]])
    step, direction = 1e-5, jnp.array([[1.0, 0.3], [-0.2, 0.7]])
    grad = jax.grad(total)
    for function in (total, jax.grad(total, 1), lambda v, s: grad(v, s)[0]):
        function = jax.jit(function)  # which may be given variances below zero
        ends = [function(at + sign * step * direction, 1.1) for sign in (1, -1)]
        slope = jax.jvp(lambda v, f=function: f(v, 1.1), (at,), (direction,))[1]
        difference = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-7)
    assert np.isfinite(jax.grad(total)(jnp.array([[0.0, 1.0], [0.0, 0.0]]), 1.0)).all()


@pytest.mark.slow
def test_derivatives_in_inputs_are_those_by_unknown_variances(getkey):
    """Which are found operation by operation, without a transpose of our own."""
    x = jr.normal(getkey(), (2, 2, 4, 3))

    def slope(variances):
        conv = nn.Conv(8, 3, 2, "SAME", tap_variances=variances)
        return jax.grad(lambda x: eqt.ntk(network(conv), x).sum())(x)

    close(slope(UNEQUAL), slope(jnp.asarray(UNEQUAL, x.dtype)))


@pytest.mark.slow
def test_variances_may_be_mapped_and_shared(getkey):
    x = jr.normal(getkey(), (3, 2, 5))
    stack = jnp.array([[1.0, 2.0, 1.0], [0.0, 1.0, 0.0]])

    def ntk(variances):
        conv = lambda: nn.Conv(8, 3, padding="SAME", tap_variances=variances)
        return eqt.ntk(network(conv(), nn.Relu(), conv()), x)

    mapped = jax.vmap(ntk)(stack)
    close(mapped, jnp.stack([ntk(tuple(map(float, v))) for v in stack]))


@pytest.mark.slow
def test_variances_are_no_parameters(getkey):
    """Nor do they grow in number when copies are made, as of `Repeat`."""
    conv = nn.Conv(4, 3, padding="SAME", tap_variances=jnp.array([1.0, 2.0, 1.0]))
    x = jr.normal(getkey(), (2, 4, 5))
    block = nn.Sequential([nn.Relu(), conv])
    net = nn.Sequential([nn.Linear(4), nn.Repeat(block, 2), nn.Flatten(), nn.Linear(1)])
    parts = eqt.ntk_by_leaf(net, x)
    close(sum(jax.tree.leaves(parts)), eqt.ntk(net, x))
    model = net.init(x.shape[1:], key=getkey())
    fixed = eqx.tree_at(
        lambda net: net.layers[1].layer.layers[1].tap_variances, model, (1.0, 2.0, 1.0)
    )
    close(eqt.empirical_ntk(model, x), eqt.empirical_ntk(fixed, x))


@pytest.mark.slow
def test_features_of_a_linear_model_are_its_kernel(getkey):
    """Without nonlinearities nothing is random about them."""
    x = jr.normal(getkey(), (3, 2, 4, 4))
    for parameterization in ("ntk", "standard"):
        options = {"tap_variances": UNEQUAL, "parameterization": parameterization}
        conv = lambda o=options: nn.Conv(8, 3, padding="SAME", bias_std=0.2, **o)
        net = nn.Sequential([conv(), conv(), nn.Flatten()])
        features = random_features(net, x, 4, getkey())
        close(features @ features.T, eqt.ntk(net, x))


def test_derivatives_of_networks_in_variances_are_numbers(getkey):
    """Also in those that are zero, whose root has none."""
    x = jr.normal(getkey(), (2, 7))

    def squares(variances):
        net = nn.Conv(4, 3, tap_variances=variances, parameterization="standard")
        return jnp.sum(net.init(x.shape, key=jr.key(0))(x) ** 2)

    slopes = jax.grad(squares)(jnp.array([0.0, 1.0, 2.0]))
    assert jnp.all(jnp.isfinite(slopes))
    assert jnp.any(slopes != 0)
