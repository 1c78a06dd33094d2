"""Derivatives of kernels, of order one and two, in hyperparameters and inputs."""

import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn, predict
from eqtangents.duals._sampled import slope
from precision import DTYPE


pytestmark = pytest.mark.precision("float64")

# How each is made, and whether its kernel has second derivatives where inputs coincide:
# that of a kink has none, and that of a jump not even first ones.
ACTIVATIONS = {
    "abs": (nn.Abs, True),
    "ab relu": (lambda: nn.ABRelu(-0.3, 1.2), True),
    "cos": (nn.Cos, True),
    "elu": (nn.Elu, True),
    "erf": (lambda: nn.Erf(1.1, 0.7, 0.2), True),
    "exp": (lambda: nn.Exp(1.0, 0.5), True),
    "exp normalized": (nn.ExpNormalized, True),
    "gabor": (nn.Gabor, True),
    "gaussian": (lambda: nn.Gaussian(1.0, -0.5), True),
    "gelu": (nn.Gelu, True),
    "hard tanh": (nn.HardTanh, True),
    "hermite": (lambda: nn.Hermite(3), True),
    "leaky relu": (lambda: nn.LeakyRelu(0.1), True),
    "monomial": (lambda: nn.Monomial(2), True),
    "polynomial": (lambda: nn.Polynomial([0.3, -1.0, 0.5]), True),
    "rbf": (lambda: nn.Rbf(0.7), True),
    "rectified square": (lambda: nn.RectifiedMonomial(2), True),
    "relu": (nn.Relu, True),
    "sigmoid like": (nn.SigmoidLike, True),
    "sign": (nn.Sign, False),
    "sin": (lambda: nn.Sin(1.0, 1.5, 0.3), True),
    "softplus": (nn.Softplus, True),
    "step": (lambda: nn.RectifiedMonomial(0), False),
    "tanh": (nn.Tanh, True),
}
each = pytest.mark.parametrize("name", ACTIVATIONS)


def network(name, w, b=0.4):
    linear = nn.Linear(1, weight_std=w, bias_std=b)
    return nn.Sequential([linear, ACTIVATIONS[name][0](), linear])


def with_derivatives(function):
    """A function of a vector, its derivatives and their derivatives, compiled once."""
    first = jax.jacrev(function)
    return jax.jit(lambda v: (function(v), first(v), jax.jacfwd(first)(v)))


def assert_derivatives(orders, v, rtol=2e-6):
    """Those of one order are differences of those of the order below."""
    step = 2e-5
    _, *exact = orders(v)
    moved = [(orders(v + m), orders(v - m)) for m in step * np.eye(v.size)]
    for order in (0, 1):
        rows = [(up[order] - down[order]) / (2 * step) for up, down in moved]
        scale = max(1.0, np.abs(exact[order]).max())
        found = np.stack(rows, -1)
        np.testing.assert_allclose(exact[order], found, rtol=0, atol=rtol * scale)


@pytest.mark.slow
@each
def test_derivatives_are_differences(name):
    def entry(v):
        w, b, x, y = v[0], v[1], v[2:5], v[5:8]
        k = eqt.kernel(network(name, w, b), x[None], y[None])
        return jnp.stack([k.nngp[0, 0], k.ntk[0, 0]])

    orders = with_derivatives(entry)

    @hyp.given(seed=st.integers(0, 2**31 - 1))
    @hyp.settings(max_examples=4)
    def at(seed):
        v = jr.normal(jr.key(seed), (8,), DTYPE)
        v = v.at[:2].set(jnp.asarray([1.3, 0.4], DTYPE))
        assert_derivatives(orders, v)
        *_, hessian = orders(v)
        atol = 1e-9 * jnp.abs(hessian).max()
        np.testing.assert_allclose(hessian, hessian.swapaxes(1, 2), atol=atol)

    at()


@pytest.mark.slow
@each
@pytest.mark.sampled(2)
def test_hyperparameters_where_inputs_coincide(name):
    """Along them the inputs stay one, so that nothing is singular."""
    x = jr.normal(jr.key(3), (4,), DTYPE)
    x = jnp.stack([x, x, -x, 0 * x])

    def total(v):
        k = eqt.kernel(network(name, v[0], v[1]), x)
        weights = jnp.arange(16.0, dtype=DTYPE).reshape(4, 4) + 1
        return jnp.vdot(weights, k.nngp) + jnp.vdot(weights, k.ntk)

    assert_derivatives(with_derivatives(total), jnp.asarray([1.3, 0.4], DTYPE))


@each
@pytest.mark.quick(1)
def test_inputs_at_special_points(name):
    """What exists is right: the covariance of a function's slope, by differences."""
    x = jr.normal(jr.key(5), (3,), DTYPE)
    places = {"coincident": x, "opposite": -x, "zero": 0 * x}

    def entry(x, y):
        return eqt.nngp(network(name, 1.3), x[None], y[None])[0, 0]

    gradient = jax.grad(entry)
    both = lambda y: (gradient(x, y), jax.jacfwd(gradient, 1)(x, y))
    step = 1e-4
    moves = step * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    points = jnp.stack([y + m for y in places.values() for m in moves])
    found = jax.jit(jax.vmap(both))(points)
    gradients, derivatives = (np.split(np.asarray(a), 3) for a in found)
    for place, slopes, (exact, *_) in zip(places, gradients, derivatives, strict=True):
        assert np.all(np.isfinite(exact))
        if place == "coincident" and not ACTIVATIONS[name][1]:
            continue  # No derivative exists there, and it is finite.
        rows = (slopes[1:4] - slopes[4:]) / (2 * step)
        atol = 2e-4 * max(1.0, np.abs(exact).max())
        np.testing.assert_allclose(exact, rows.T, rtol=0, atol=atol)


BENT_AT_ZERO = {
    *("abs", "ab relu", "leaky relu", "relu", "sign", "step"),
    "exp normalized",  # its own size is that of the input
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n not in BENT_AT_ZERO])
def test_inputs_of_zero_without_biases(name):
    """They have slopes in the covariance and in their variance, and no correlation.

    `E f(u) f(v)` has the slopes `f'(0) E f'(v)` and `f''(0) E f(v) / 2` there.
    """
    layer = ACTIVATIONS[name][0]()
    zero, v = jnp.zeros((), DTYPE), jnp.asarray(1.7, DTYPE)
    z = np.linspace(-9, 9, 100_001)
    weights = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
    x = jnp.asarray(v**0.5 * z, DTYPE)
    means = [f(x) @ weights for f in (layer.function, slope(layer.function))]
    # The second derivative may be another on either side of zero.
    beside = slope(layer.function)(jnp.asarray([1e-7, -1e-7, 0.0], DTYPE))
    bend = (beside[0] - beside[1]) / 4e-7
    exact = beside[2] * means[1], bend * means[0]
    dual = lambda k, var: layer.dual(k, var, v)[0]
    swapped = lambda k, var: layer.dual(k, v, var)[0]
    for value in (dual, swapped):
        slopes = jax.grad(value, (0, 1))(zero, zero)
        np.testing.assert_allclose(slopes, exact, rtol=2e-4, atol=1e-6)


NETWORKS = {
    "convolutions": lambda w: [
        nn.Conv(2, 3, padding="SAME", weight_std=w),
        nn.Relu(),
        nn.Conv(2, 3, padding="CIRCULAR", weight_std=w),
        nn.Relu(),
        nn.GlobalAvgPool(),
    ],
    "pooling and residual": lambda w: [
        nn.Conv(2, 3, padding="SAME", weight_std=w),
        nn.Residual(nn.Sequential([nn.Relu(), nn.Conv(2, 3, padding="SAME")])),
        nn.AvgPool(2, 2),
        nn.Relu(),
        nn.Flatten(),
    ],
    "repeat": lambda w: [
        nn.Flatten(),
        nn.Linear(2, weight_std=w, bias_std=0.3),
        nn.Repeat(nn.Sequential([nn.Relu(), nn.Linear(2, weight_std=w)]), 3),
    ],
    "layer norm": lambda w: [
        nn.Flatten(),
        nn.Linear(2, weight_std=w, bias_std=0.3),
        nn.LayerNorm(),
        nn.Relu(),
        nn.Linear(1),
    ],
    "product": lambda w: [
        nn.Flatten(),
        nn.FanOut(2),
        nn.Parallel(
            [
                nn.Sequential([nn.Linear(2, weight_std=w, bias_std=0.2), nn.Relu()]),
                nn.Sequential([nn.Linear(2, weight_std=w, bias_std=0.1), nn.Erf()]),
            ]
        ),
        nn.FanInProd(),
        nn.Linear(1),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_second_derivatives_through_layers(name):
    x1, x2 = (jr.normal(jr.key(i), (2, 2, 4), DTYPE) for i in (0, 1))
    direction = jr.normal(jr.key(2), x1.shape, DTYPE)

    def total(v):
        net = nn.Sequential(NETWORKS[name](v[0]))
        k = eqt.kernel(net, x1 + v[1] * direction, x2)
        return jnp.sum(k.nngp) + jnp.sum(k.ntk[0])

    assert_derivatives(with_derivatives(total), jnp.asarray([1.2, 0.1], DTYPE))


@pytest.mark.slow
@pytest.mark.precision("float64")
@pytest.mark.parametrize("name", ["relu", "erf", "gelu", "tanh", "rectified square"])
def test_hessian_of_the_evidence_in_single_precision(name):
    x = jr.normal(jr.key(0), (12, 5), DTYPE)

    def evidence(w, dtype):
        inputs = x.astype(dtype)
        k = eqt.nngp(network(name, w.astype(dtype)), inputs)
        posterior = predict.GaussianProcess(k, inputs[:, :1], noise=0.1)
        return posterior.log_marginal_likelihood()

    w = jnp.asarray(1.3, DTYPE)
    second = jax.jit(jax.hessian(evidence), static_argnums=1)
    found = {t: second(w.astype(t), t) for t in ("float32", "float64")}
    np.testing.assert_allclose(found["float32"], found["float64"], rtol=1e-3)
