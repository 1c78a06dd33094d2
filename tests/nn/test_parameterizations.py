"""Parameterisations: what they have in common, and that nothing is ignored."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from precision import by_precision


HIDDEN, READOUT = nn.MuP(), nn.MuP(readout=True)


def fully_connected(w, hidden=HIDDEN, readout=READOUT):
    options = {"weight_std": 1.3, "bias_std": 0.4, "parameterization": hidden}
    last = {"weight_std": 1.2, "bias_std": 0.5, "parameterization": readout}
    layers = [nn.Linear(w, **options), nn.Relu(), nn.Linear(w, **options), nn.Erf()]
    return nn.Sequential([*layers, nn.Linear(1, **last)])


def convolutional(w, hidden=HIDDEN, readout=READOUT):
    options = {"weight_std": 1.4, "bias_std": 0.2, "parameterization": hidden}
    return nn.Sequential(
        [
            nn.Conv(w, 3, padding="SAME", **options),
            nn.Relu(),
            nn.ConvTranspose(w, 2, 2, **options),
            nn.Erf(),
            nn.ConvLocal(w, 3, 2, **options),
            nn.Relu(),
            nn.GlobalAvgPool(),
            nn.Linear(1, parameterization=readout),
        ]
    )


def read_out_by_convolution(w, hidden=HIDDEN, readout=READOUT):
    """The readout has a window, and is pooled after."""
    return nn.Sequential(
        [
            nn.Conv(w, 2, parameterization=hidden),
            nn.Relu(),
            nn.Conv(1, 3, weight_std=1.2, bias_std=0.3, parameterization=readout),
            nn.GlobalAvgPool(),
            nn.Flatten(),
            nn.Identity(),
        ]
    )


def is_affine(layer):
    return isinstance(layer, nn.AbstractAffine)


NETWORKS = {
    "fully connected": (fully_connected, (4,)),
    "convolutional": (convolutional, (3, 5)),
    "read out by convolution": (read_out_by_convolution, (2, 6)),
}
each = pytest.mark.parametrize(
    ("network", "shape"), NETWORKS.values(), ids=NETWORKS.keys()
)


@pytest.mark.slow
@each
def test_maximal_updates_have_the_tangent_kernel_of_ntk_and_only_biases_else(
    network, shape, getkey
):
    x = jr.normal(getkey(), (3, *shape))
    maximal, ntk = network(7), network(7, nn.NTK(), nn.NTK())
    rtol = by_precision(float64=1e-12, float32=1e-5)
    np.testing.assert_allclose(eqt.ntk(maximal, x), eqt.ntk(ntk, x), rtol=rtol)
    last = [one for one in maximal.layers if is_affine(one)][-1]
    bias = 0.0 if last.bias_std is None else last.bias_std**2
    np.testing.assert_allclose(eqt.nngp(maximal, x), np.full((3, 3), bias), rtol=rtol)


@pytest.mark.slow
def test_maximal_updates_by_their_definition(getkey):
    """At the scales of table 1 of arXiv:2011.14522, for layers of one width."""
    n = 2000
    options = {"weight_std": 1.5, "bias_std": 0.5}
    hidden = nn.Linear(n, parameterization=HIDDEN, **options)
    readout = nn.Linear(3, parameterization=READOUT, **options)
    first, between, last = (
        layer.init((channels,), key=getkey())
        for layer, channels in ((hidden, 4), (hidden, n), (readout, n))
    )
    for one in (first, between, last):
        assert jnp.std(one.weight) == pytest.approx(n**-0.5, rel=0.05)
    for one, std in ((first, n**-0.5), (between, n**-0.5)):
        assert jnp.std(one.bias) == pytest.approx(std, rel=0.05)
    x, h = jr.normal(getkey(), (4,)), jr.normal(getkey(), (n,))
    root = n**0.5
    for layer, value, by_hand in (
        (first, x, 1.5 * root / 2 * first.weight @ x + 0.5 * root * first.bias),
        (between, h, 1.5 * between.weight @ h + 0.5 * root * between.bias),
        (last, h, 1.5 / root * last.weight @ h + 0.5 * last.bias),
    ):
        np.testing.assert_allclose(layer(value), by_hand, rtol=1e-3, atol=1e-4)


WIDTHS, DRAWS = 2 ** np.arange(4, 9), 96


@pytest.mark.precision("float32")
@pytest.mark.slow
@each
def test_drawn_networks_approach_both_kernels(network, shape, getkey):
    """The tangent kernel at the rate -1/2, the covariance at the rate -1."""
    x = jr.normal(getkey(), (3, *shape))
    errors, variances = [], []
    for width in map(int, WIDTHS):
        net = network(width)
        limit = jax.tree.map(np.asarray, eqt.kernel(net, x))

        def one(key, net=net):
            model = net.init(shape, key=key)
            parameters, rest = eqx.partition(model, eqx.is_inexact_array)

            def outputs(parameters):
                return jax.vmap(eqx.combine(parameters, rest))(x)[:, 0]

            leaves = jax.tree.leaves(jax.jacrev(outputs)(parameters))
            rows = jnp.concatenate([leaf.reshape(3, -1) for leaf in leaves], 1)
            f = outputs(parameters)
            return rows @ rows.T, jnp.outer(f, f)

        some = eqx.filter_jit(jax.vmap(one))
        keys = jr.split(getkey(), (DRAWS // 16, 16))
        draws = [jax.tree.map(np.asarray, some(k)) for k in keys]
        ntk, nngp = (np.concatenate(d).astype(float) for d in zip(*draws, strict=True))
        scale = np.abs(limit.ntk).max()
        errors.append(np.sqrt(np.mean((ntk - limit.ntk) ** 2)) / scale)
        stderr = ntk.std(0) / DRAWS**0.5
        excess = np.abs(ntk.mean(0) - limit.ntk) - 5 * stderr
        assert excess.max() < 2 * scale / width, f"width {width}: {excess / scale}"
        stderr = nngp.std(0) / DRAWS**0.5
        excess = np.abs(nngp.mean(0) - limit.nngp) - 5 * stderr
        assert excess.max() < 2 * scale / width, f"width {width}: {excess / scale}"
        # Without the bias, which stays, outputs fade.
        no_bias = jr.split(getkey(), DRAWS)
        i = max(i for i, one in enumerate(net.layers) if is_affine(one))
        bare = eqx.tree_at(
            lambda one, i=i: one.layers[i].bias_std,
            net,
            None,
            is_leaf=lambda leaf: leaf is None,
        )
        outputs_of = lambda k, n=bare: jax.vmap(n.init(shape, key=k))(x)[:, 0]
        f = eqx.filter_jit(jax.vmap(outputs_of))(no_bias)
        variances.append(float(jnp.mean(f**2)))
    slope, _ = np.polyfit(np.log2(WIDTHS), np.log2(errors), 1)
    assert slope == pytest.approx(-0.5, abs=0.15), errors
    slope, _ = np.polyfit(np.log2(WIDTHS), np.log2(variances), 1)
    assert slope == pytest.approx(-1.0, abs=0.2), variances


@pytest.mark.precision("float64")
@pytest.mark.slow
def test_layers_of_different_widths_count_by_their_widths(getkey):
    """As gradients of drawn networks do, at every width."""
    x = jr.normal(getkey(), (2, 3))
    first = nn.Linear(600, parameterization=HIDDEN)
    second = nn.Linear(300, parameterization=HIDDEN)
    net = nn.Sequential([first, second, nn.Linear(1, parameterization=READOUT)])
    expected = (600 / 300 + 300 / 300 + 1) * (x @ x.T) / 3
    np.testing.assert_allclose(eqt.ntk(net, x), expected)

    @eqx.filter_jit
    @eqx.filter_grad
    def slopes(model, x):
        return model(x)[0]

    models = [net.init((3,), key=getkey()) for _ in range(16)]
    drawn = []
    for model in models:
        rows = [jax.tree.leaves(slopes(model, one)) for one in x]
        rows = jnp.stack([jnp.concatenate([a.ravel() for a in row]) for row in rows])
        drawn.append(rows @ rows.T)
    drawn = np.stack(drawn)
    error = 5 * drawn.std(0) / 4
    assert np.all(np.abs(drawn.mean(0) - expected) < error), (drawn.mean(0), expected)


def test_tangent_kernels_before_the_readout_grow_with_the_width(getkey):
    x = jr.normal(getkey(), (3, 4))
    wide, narrow = (eqt.ntk(nn.Linear(w, parameterization=HIDDEN), x) for w in (64, 16))
    np.testing.assert_allclose(wide, 4 * narrow, rtol=1e-5)


@pytest.mark.parametrize("ours", [nn.NTK(), nn.Standard(), HIDDEN], ids=str)
def test_the_scale_of_the_function_is_not_rounded(ours):
    """All make one function of deviations, whether these are numbers or arrays."""
    for std in (0.3, 1.7, np.pi):
        std = jnp.asarray(std, jnp.float32)
        for scale in (ours.weights, ours.biases):
            assert scale(std, nn.Fans(7, 7, 5)).of_function == std


@pytest.mark.parametrize("ours", ["ntk", "standard"])
def test_names_are_objects(ours, getkey):
    named = nn.Linear(3, bias_std=0.5, parameterization=ours)
    given = {"ntk": nn.NTK(), "standard": nn.Standard()}[ours]
    assert named == nn.Linear(3, bias_std=0.5, parameterization=given)
    multiplied = nn.Linear(3, parameterization="standard", width_multipliers=(3, 2))
    assert multiplied == nn.Linear(3, parameterization=nn.Standard((3, 2)))


class MeanField(nn.AbstractParameterization):
    """One of a user's own: everything is divided by the width, and drawn wider."""

    @property
    def vanishing(self):
        return False

    def channels(self, out):
        return out

    def weights(self, std, fans):
        return nn.ParameterScale(std / fans.inputs**0.5, fans.inputs**0.5)

    def biases(self, std, fans):
        return nn.ParameterScale(std, 1.0)


def test_a_parameterization_of_ones_own_is_two_pairs_of_numbers(getkey):
    x = jr.normal(getkey(), (3, 8))
    layer = nn.Linear(1, weight_std=1.5, bias_std=0.3, parameterization=MeanField())
    kernel = eqt.kernel(layer, x)
    gram = 1.5**2 / 8 * x @ x.T
    np.testing.assert_allclose(kernel.nngp, gram + 0.09, rtol=1e-5)
    np.testing.assert_allclose(kernel.ntk, gram / 8 + 0.09, rtol=1e-5)
    model = layer.init((8,), key=getkey())
    # A linear model has one tangent kernel, whatever is drawn.
    drawn = eqt.empirical_ntk(model, x).reshape(3, 3)
    np.testing.assert_allclose(drawn, kernel.ntk, rtol=1e-5)


def mup(*after):
    layers = [nn.Linear(8, parameterization=HIDDEN), nn.Relu()]
    return nn.Sequential([*layers, nn.Linear(8, parameterization=READOUT), *after])


AFTER_A_READOUT = {
    "nonlinearity": nn.Relu(),
    "weights": nn.Linear(1),
    "weights with a readout": nn.Linear(1, parameterization=READOUT),
    "normalisation": nn.LayerNorm(),
    "attention": nn.GlobalSelfAttention(1, key_channels=1, value_channels=1, heads=1),
    "shortcut": nn.Residual(nn.Linear(8), nn.Linear(8)),
    "product": nn.Sequential(
        [nn.FanOut(2), nn.Parallel([nn.Identity(), nn.Identity()]), nn.FanInProd()]
    ),
    "joined": nn.Sequential(
        [
            nn.FanOut(2),
            nn.Parallel([nn.Identity(), nn.Scale(2.0)]),
            nn.FanInConcat(),
            nn.Erf(),
        ]
    ),
}


@pytest.mark.precision("float32")
@pytest.mark.parametrize(
    "after", AFTER_A_READOUT.values(), ids=list(AFTER_A_READOUT.keys())
)
def test_no_kernel_is_defined_after_a_readout(after, getkey):
    with pytest.raises(nn.LayerError, match="follows a readout"):
        eqt.kernel(mup(after), jr.normal(getkey(), (2, 8)))


@pytest.mark.precision("float32")
def test_a_readout_needs_an_input_that_is_wide(getkey):
    with pytest.raises(nn.LayerError, match="it reads the input of the network"):
        eqt.kernel(nn.Linear(1, parameterization=READOUT), jr.normal(getkey(), (2, 8)))
    repeated = nn.Sequential(
        [nn.Linear(8), nn.Repeat(nn.Linear(8, parameterization=READOUT), 2)]
    )
    with pytest.raises(nn.LayerError, match=r"layers\[1\]\.layer.*follows a readout"):
        eqt.kernel(repeated, jr.normal(getkey(), (2, 8)))


@pytest.mark.precision("float32")
@pytest.mark.parametrize("given", ["ntk", nn.NTK(), nn.MuP(), nn.Standard((3, 2))])
def test_multipliers_without_effect_are_refused(given):
    layers = (nn.Linear, lambda n, **o: nn.Conv(n, 3, **o))
    for layer in (*layers, lambda n, **o: nn.ConvLocal(n, 3, **o)):
        with pytest.raises(ValueError, match=r'no effect.*"standard"'):
            layer(10, width_multipliers=(3, 2), parameterization=given)


@pytest.mark.precision("float32")
def test_multipliers_are_positive(without_jaxtyping):
    with pytest.raises(ValueError, match=r"Standard: `width_multipliers`.*positive"):
        nn.Standard((0, 1))
    with pytest.raises(TypeError, match=r"MuP: takes no `last`"):
        nn.MuP(last=True)
