"""Weights that are shared in time."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents.testing import check_layer
from precision import by_precision
from work import work


ACTIVATIONS = {"erf": nn.Erf, "relu": nn.Relu, "tanh": nn.Tanh}


def elman(width=16, activation="erf", **options):
    return nn.Recurrent(
        nn.Linear(width, weight_std=1.2, bias_std=0.3),
        nn.Linear(width, weight_std=0.8, bias_std=0.4),
        ACTIVATIONS[activation](),
        **options,
    )


def assert_close(a, b, rtol=None):
    rtol = by_precision(float64=1e-10, float32=3e-5) if rtol is None else rtol
    scale = max(float(np.abs(b).max()), 1e-30)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


def written_out(activation, x1, x2):
    """Both kernels of the states at all pairs of times of two sequences."""

    def variances(x):
        state, before = 0.0, []
        for t in range(x.shape[1]):
            before.append(added(state, np.vdot(x[:, t], x[:, t])))
            state = activation.dual.diagonal(jnp.asarray(before[-1])[None])[0]
        return before

    def added(state, product):
        return 1.44 * state + 0.09 + 0.64 * product / x1.shape[0] + 0.16

    one, other = variances(x1), variances(x2)
    nngp, ntk = np.zeros((2, len(one), len(other)))
    for s, t in np.ndindex(nngp.shape):
        inner = s > 0 and t > 0
        state = (nngp[s - 1, t - 1], ntk[s - 1, t - 1]) if inner else (0.0, 0.0)
        before = added(state[0], np.vdot(x1[:, s], x2[:, t]))
        arguments = (jnp.asarray(v) for v in (before, one[s], other[t]))
        value, slope = activation.dual(*arguments)
        nngp[s, t], ntk[s, t] = value, slope * (before + 1.44 * state[1])
    return nngp, ntk


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_kernels_are_the_recursion_over_all_pairs_of_times(name):
    x = jr.normal(jr.key(0), (2, 3, 4))
    found = eqt.kernel(elman(activation=name), x)
    for i, j in np.ndindex(2, 2):
        nngp, ntk = written_out(ACTIVATIONS[name](), x[i], x[j])
        rtol = by_precision(float64=1e-7, float32=1e-3)
        assert_close(found.nngp[i, j], nngp, rtol)
        assert_close(found.ntk[i, j], ntk, rtol)


@pytest.mark.slow
def test_what_follows_picks_the_pairs_of_times():
    x = jr.normal(jr.key(0), (3, 2, 5))
    whole = eqt.kernel(elman(), x)
    last = eqt.kernel(nn.Sequential([elman(), nn.Last()]), x)
    assert_close(last.ntk, whole.ntk[:, :, -1, -1])
    pooled = eqt.kernel(nn.Sequential([elman(), nn.GlobalAvgPool()]), x)
    assert_close(pooled.ntk, whole.ntk.mean((2, 3)))
    backwards = eqt.kernel(elman(reverse=True), x[:, :, ::-1])
    assert_close(backwards.ntk[:, :, ::-1, ::-1], whole.ntk)
    # The weights of both directions are independent; channels stand side by side.
    both = nn.Sequential(
        [
            nn.FanOut(2),
            nn.Parallel([elman(), elman(reverse=True)]),
            nn.FanInConcat(),
        ]
    )
    reverse = eqt.kernel(elman(reverse=True), x)
    assert_close(eqt.ntk(both, x), (whole.ntk + reverse.ntk) / 2)


@pytest.mark.slow
def test_sequences_of_unequal_lengths():
    x, lengths = jr.normal(jr.key(0), (3, 2, 4)), np.array([2, 4, 3])
    mask = jnp.arange(4)[None] < lengths[:, None]
    whole = eqt.kernel(elman(), x)
    net = nn.Sequential([elman(), nn.Last()])
    ends = np.ix_(range(3), range(3))
    last = lengths - 1
    expected = whole.ntk[(*ends, last[:, None], last[None])]
    assert_close(eqt.ntk(net, nn.Masked(x, mask)), expected)
    # The end of a sequence that begins late is its last position.
    late = jnp.stack(
        [jnp.roll(one, 4 - n, 1) for one, n in zip(x, lengths, strict=True)]
    )
    found = eqt.ntk(net, nn.Masked(late, mask[:, ::-1]))
    assert_close(found, expected)
    model = net.init((2, 4), key=jr.key(1))
    for i, n in enumerate(lengths):
        out = model(nn.Masked(x[i], mask[i]))
        assert_close(out.value, model(x[i, :, :n]), 1e-5)


@pytest.mark.slow
def test_layers_are_stacked_and_repeated():
    x = jr.normal(jr.key(0), (2, 3, 4))
    block = nn.Sequential([elman(), nn.Conv(16, 3, padding="SAME")])
    repeated = nn.Sequential([nn.Linear(16), nn.Repeat(block, 2), nn.GlobalAvgPool()])
    written = nn.Sequential([nn.Linear(16), block, block, nn.GlobalAvgPool()])
    assert_close(eqt.ntk(repeated, x), eqt.ntk(written, x))


@pytest.mark.slow
def test_parts_add_up():
    x = jr.normal(jr.key(0), (2, 3, 3))
    net = nn.Sequential([elman(), nn.GlobalAvgPool(), nn.Linear(1)])
    parts = jax.tree.leaves(eqt.ntk_by_leaf(net, x))
    assert len(parts) == 5
    assert_close(sum(parts), eqt.ntk(net, x))
    tied = eqt.ntk_by_leaf(net, x).layers[0].hidden.weight
    assert tied.min() != 0


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["erf", "relu"])
def test_the_laws_of_layers(name, reverse):
    net = elman(48, name, reverse=reverse)
    check_layer(net, (48, 3))
    check_layer(nn.Sequential([elman(48, name), nn.Last()]), (48, 3))


@pytest.mark.slow
@pytest.mark.parametrize("readout", [nn.Last(), nn.GlobalAvgPool()])
def test_wide_networks_approach_the_kernel_at_the_rate_of_their_width(readout, getkey):
    x, widths = jr.normal(getkey(), (2, 3, 3)), (32, 128, 512)
    errors, draws = [], 40
    for width in widths:
        net = nn.Sequential([elman(width), readout, nn.Linear(1)])
        expected = eqt.kernel(net, x)
        keys = jr.split(getkey(), draws)

        @jax.jit
        def of_one(key, net=net):
            return eqt.empirical_kernel(net.init(x.shape[1:], key=key), x)

        samples = [of_one(key) for key in keys]
        ntk = jnp.stack([sample.ntk for sample in samples])
        error = ntk.std(0, ddof=1) / draws**0.5
        bias = 6 / width * np.abs(expected.ntk).max()
        assert (np.abs(ntk.mean(0) - expected.ntk) < 5 * error + bias).all()
        errors.append(float(jnp.sqrt(((ntk - expected.ntk[None]) ** 2).mean())))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert -0.65 < slope < -0.35


@pytest.mark.slow
def test_gradients_are_finite_and_those_of_differences():
    x = jr.normal(jr.key(0), (2, 2, 3))
    net = nn.Sequential([elman(activation="relu"), nn.GlobalAvgPool()])
    total = lambda s: eqt.ntk(net, s * x)[0, 1]
    slope, step = jax.grad(total)(1.0), by_precision(float64=1e-5, float32=1e-2)
    difference = (total(1 + step) - total(1 - step)) / (2 * step)
    rtol = by_precision(float64=1e-6, float32=2e-2)
    np.testing.assert_allclose(slope, difference, rtol=rtol)


@pytest.mark.slow
def test_cost_grows_with_the_length_as_it_is_said():
    def cost(readout, length):
        x = jnp.ones((2, 3, length))
        return work(lambda: eqt.ntk(nn.Sequential([elman(), readout]), x))

    assert cost(nn.Last(), 64) < 2.2 * cost(nn.Last(), 32)
    assert cost(nn.GlobalAvgPool(), 64) < 4.4 * cost(nn.GlobalAvgPool(), 32)


def test_what_has_no_kernel_is_refused():
    x = jnp.ones((2, 3, 4))
    bent = nn.Sequential([nn.Linear(16), nn.Relu()])
    with pytest.raises(nn.LayerError, match="needs Gaussian `inputs`"):
        eqt.ntk(nn.Recurrent(nn.Linear(16), bent, nn.Erf()), x)
    with pytest.raises(nn.LayerError, match="takes sequences"):
        eqt.ntk(elman(), x[..., 0])
    with pytest.raises(nn.LayerError, match="as many"):
        eqt.ntk(nn.Recurrent(nn.Linear(8), nn.Linear(16), nn.Erf()), x)
    with pytest.raises(nn.LayerError, match="as many"):
        nn.Recurrent(nn.Linear(8), nn.Linear(16), nn.Erf()).init((3, 4), key=jr.key(0))
    readout = nn.Linear(16, parameterization=nn.MuP(readout=True))
    with pytest.raises(nn.LayerError, match="parameterisation of a readout"):
        eqt.ntk(nn.Recurrent(readout, nn.Linear(16), nn.Erf()), x)
    with pytest.raises(nn.LayerError, match="one spatial axis"):
        eqt.ntk(nn.Sequential([nn.Linear(8), nn.Last()]), x[..., None])
    model = elman().init((3, 4), key=jr.key(0))
    assert eqx.filter_vmap(model)(x).shape == (2, 16, 4)


def test_activations_are_functions_of_each_channel(without_jaxtyping):
    with pytest.raises(ValueError, match="must be a function of each channel"):
        nn.Recurrent(nn.Linear(8), nn.Linear(8), nn.Linear(8))
