"""Random features: their inner products are the kernel, the more so the more."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn, solvers
from precision import DTYPE
from solver_problems import batch, condition_number, network


def images(n, seed=0):
    return jr.normal(jr.key(seed), (n, 2, 5, 4), DTYPE)


def convolutional(*readout):
    layers = [
        nn.Conv(3, 3, 2, padding="SAME", bias_std=0.1),
        nn.Erf(),
        nn.Conv(3, (2, 1), dilation=1, padding="CIRCULAR", weight_std=1.3),
        *readout,
    ]
    return nn.Sequential(layers)


CASES = {
    "fully-connected": (lambda: network(), batch),
    "deep": (
        lambda: nn.Sequential(
            [
                *[nn.Linear(8, weight_std=1.4), nn.Relu()] * 2,
                nn.Linear(4, bias_std=0.2, parameterization="standard"),
                nn.Tanh(),
                nn.Linear(1),
            ]
        ),
        batch,
    ),
    "flattened": (lambda: convolutional(nn.Relu(), nn.Flatten(), nn.Linear(1)), images),
    "pooled": (lambda: convolutional(nn.AvgPool(2), nn.GlobalAvgPool()), images),
    "of inputs": (lambda: nn.Sequential([nn.Sin(), nn.Linear(1)]), batch),
}


def errors(net, x, kind, widths, repeats=12):
    """Root mean square of the relative error at each width."""
    expected = {"ntk": eqt.ntk, "nngp": eqt.nngp}[kind](net, x)

    def error(key, width):
        found = solvers.random_features(net, x, width, key, kind=kind)
        wrong = found @ found.T - expected
        return jnp.mean(wrong**2) / jnp.mean(expected**2)

    keys = jr.split(jr.key(0), repeats)
    of_width = lambda width: jnp.mean(jax.lax.map(lambda key: error(key, width), keys))
    return np.sqrt([of_width(width) for width in widths])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize(("make", "inputs"), CASES.values(), ids=CASES.keys())
def test_errors_fall_as_the_root_of_the_width(make, inputs, kind):
    widths = [2**5, 2**7, 2**9]
    found = errors(make(), inputs(5), kind, widths)
    if found[0] < 1e-4:  # nothing random follows weights
        assert np.all(found < 1e-4)
        return
    slope, _ = np.polyfit(np.log2(widths), np.log2(found), 1)
    assert slope == pytest.approx(-0.5, abs=0.15)
    assert found[-1] < 0.15


@pytest.mark.slow
def test_one_nonlinearity_is_without_bias():
    net, x = network(), batch(4)
    keys = jr.split(jr.key(1), 400)

    def estimate(key):
        found = solvers.random_features(net, x, 16, key)
        return found @ found.T

    found = jax.jit(lambda keys: jax.lax.map(estimate, keys))(keys)
    error = jnp.std(found, axis=0) / len(keys) ** 0.5
    wrong = jnp.abs(jnp.mean(found, axis=0) - eqt.ntk(net, x))
    assert jnp.all(wrong < 5 * error)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [1e-4, 1.0])
def test_features_precondition_as_well_as_they_know_the_kernel(noise):
    """Whatever the noise: without their error they would do harm where it is small."""
    net, x = network(), batch(60)
    kernel = eqt.ntk(net, x)
    operator = eqt.GramOperator(kernel, noise=noise)
    features = solvers.random_features(net, x, 20, jr.key(0))
    chosen = solvers.feature_preconditioner(operator, features, jr.key(1))
    error = jnp.linalg.norm(kernel - features @ features.T, 2)
    told = chosen.diagonal - noise
    assert jnp.all((told <= 1.0001 * error) & (told > error / 2))
    assert condition_number(chosen, operator) < 1.5 * (1 + 2 * error / noise)


REFUSED = [
    (lambda x, k: solvers.random_features(nn.LayerNorm(), x, 4, k), "no random"),
    (
        lambda x, k: solvers.random_features(
            nn.Sequential([nn.Linear(2), nn.LayerNorm()]), x, 4, k
        ),
        r"layers\[1\] \(LayerNorm\)",
    ),
    (lambda x, k: solvers.random_features(nn.Conv(1, 2), x, 4, k), "positions"),
    (lambda x, k: solvers.random_features(nn.Linear(1), x[0], 4, k), "positions"),
    (lambda x, k: solvers.random_features(nn.Linear(1), x, 0, k), "`width`"),
    (
        lambda x, k: solvers.random_features(nn.Linear(1), x, 4, k, kind="both"),
        "`kind`",
    ),
]


def test_features_of_other_examples_are_refused(without_jaxtyping):
    operator = eqt.GramOperator(jnp.eye(3, dtype=DTYPE), noise=1.0)
    with pytest.raises(ValueError, match="3 rows"):
        solvers.feature_preconditioner(operator, jnp.ones((4, 2)), jr.key(0))


@pytest.mark.precision("float64")
@pytest.mark.parametrize(("make", "match"), REFUSED)
def test_refusals(make, match, without_jaxtyping):
    with pytest.raises(ValueError, match=match):
        make(images(2), jr.key(0))
