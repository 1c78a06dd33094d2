"""What single precision can be trusted with: kernels against those in double."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from precision import DTYPE


pytestmark = pytest.mark.precision("float64")  # each test uses both


def critical(activation, weight_std, depth, bias_std=None):
    linear = nn.Linear(1, weight_std=weight_std, bias_std=bias_std)
    block = nn.Sequential([activation, linear])
    return nn.Sequential([linear, nn.Repeat(block, depth)])


CRITICAL = {
    "relu": lambda depth: critical(nn.Relu(), 2**0.5, depth),
    "erf": lambda depth: critical(nn.Erf(np.pi**0.5 / 2), 1.0, depth),
    "tanh": lambda depth: critical(nn.Tanh(), 1.0, depth),
    "chaotic erf": lambda depth: critical(nn.Erf(), 1.3, min(depth, 100), 0.2),
}


def errors(net, *inputs):
    """The largest of each kernel, relative to its largest entry."""
    single, double = (
        eqt.kernel(net, *(x.astype(t) for x in inputs)) for t in ("float32", "float64")
    )
    pairs = (single.nngp, double.nngp), (single.ntk, double.ntk)
    pairs = [[np.asarray(k, np.float64) for k in pair] for pair in pairs]
    return [np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in pairs]


@pytest.mark.slow
@pytest.mark.parametrize("name", CRITICAL)
@pytest.mark.parametrize(("depth", "limit"), [(1_000, 1e-4), (10_000, 1e-3)])
def test_deep_networks(name, depth, limit):
    x = jr.normal(jr.key(0), (6, 8), DTYPE)
    assert max(errors(CRITICAL[name](depth), x)) < limit
    assert max(errors(CRITICAL[name](depth), x[:3], x[2:])) < limit


@pytest.mark.slow
def test_nearly_collinear_inputs():
    x = jnp.linspace(-31.4, 31.4, 40, dtype=DTYPE)[:, None]
    linear = nn.Linear(1, weight_std=1.5, bias_std=0.05)
    net = nn.Sequential([linear, nn.Relu(), linear, nn.Relu(), linear])
    assert max(errors(net, x)) < 1e-5
    single = np.asarray(eqt.nngp(net, x.astype("float32")), np.float64)
    values = np.linalg.eigvalsh(single)
    assert values[0] > -4 * 40 * np.finfo(np.float32).eps * values[-1]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e4, 1e9])
@pytest.mark.parametrize(
    "activation", [nn.Erf(), nn.Gelu(), nn.Relu(), nn.Gaussian(1.0, -0.5)], ids=str
)
def test_variances_of_any_size(activation, scale):
    x = scale * jr.randint(jr.key(1), (4, 30), 0, 256).astype("float64")
    net = nn.Sequential([nn.Linear(8), activation, nn.Linear(1)])
    assert max(errors(net, x)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "largest"),
    [(nn.Erf, 1e2), (nn.Gelu, 1e2), (nn.Relu, 1e2), (nn.Tanh, 1.0)],
)
@pytest.mark.parametrize("bias_std", [None, 0.3])
def test_inputs_of_very_different_norms(activation, largest, bias_std):
    """Each entry, relative to what it may be at most, whatever is beside it."""
    norms = jnp.geomspace(1e-3, largest, 6, dtype=DTYPE)[:, None]
    x = norms * jr.normal(jr.key(2), (6, 8), DTYPE)
    linear = nn.Linear(8, weight_std=1.2, bias_std=bias_std)
    net = nn.Sequential([linear, activation(), linear, nn.Relu(), linear])
    single, double = (eqt.kernel(net, y[:4], y[2:]) for y in (x.astype("float32"), x))
    own = eqt.kernel_diagonal(net, x)
    for name in ("nngp", "ntk"):
        size = jnp.sqrt(getattr(own, name))
        error = jnp.abs(getattr(single, name).astype(DTYPE) - getattr(double, name))
        assert jnp.max(error / (size[:4, None] * size[None, 2:])) < 1e-5


@pytest.mark.slow
def test_one_example_is_itself():
    x = 5 * jr.normal(jr.key(0), (6, 10), DTYPE)
    linear = nn.Linear(8, weight_std=1.5, bias_std=0.3)
    net = nn.Sequential([linear, nn.Gabor(), linear, nn.Relu(), linear])
    assert max(errors(net, x)) < 1e-6
    single = x.astype("float32")
    kernels, own = eqt.kernel(net, single), eqt.kernel_diagonal(net, single)
    np.testing.assert_allclose(jnp.diagonal(kernels.nngp), own.nngp, rtol=2e-7)
    np.testing.assert_allclose(jnp.diagonal(kernels.ntk), own.ntk, rtol=1e-6)


@pytest.mark.parametrize("activation", [nn.Gabor, nn.Gaussian, nn.Erf, nn.Gelu])
def test_entries_far_below_their_bound_keep_their_digits(activation):
    """Functions of wide inputs are hardly correlated."""
    x = jax.nn.relu(jr.normal(jr.key(0), (6, 40), DTYPE) - 0.3)
    net = nn.Sequential([nn.Linear(8, weight_std=30.0), activation(), nn.Linear(8)])
    single, double = (eqt.kernel(net, y[:3], y[3:]) for y in (x.astype("float32"), x))
    np.testing.assert_allclose(single.nngp, double.nngp, rtol=3e-6)
    np.testing.assert_allclose(single.ntk, double.ntk, rtol=3e-6)


def test_overflow_is_infinite():
    linear = nn.Linear(1)
    block = nn.Residual(nn.Sequential([nn.Relu(), linear]))
    net = nn.Sequential([linear, nn.Repeat(block, 400)])
    kernels = eqt.kernel(net, jnp.ones((1, 3), "float32"))
    assert jnp.isposinf(kernels.nngp).all()
    assert jnp.isposinf(kernels.ntk).all()
