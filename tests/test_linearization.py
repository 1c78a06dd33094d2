"""Taylor expansions of networks in their parameters."""

import itertools
import math

import equinox as eqx
import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax import lax

import eqtangents as eqt
from eqtangents import nn
from precision import by_precision


def nested(function, center, step, order):
    """The Taylor polynomial by nested forward mode."""
    along = lambda t: function(
        jax.tree.map(lambda p, d: p + jnp.asarray(t, p.dtype) * d, center, step)
    )
    total, derivative = 0.0, along
    for k in range(order + 1):
        total = total + derivative(0.0) / math.factorial(k)
        derivative = lambda t, f=derivative: jax.jvp(f, (t,), (1.0,))[1]
    return total


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (sine(x), x), lambda x, ct: (ct * jnp.cos(x),))

x = np.array([0.3, -0.7, 1.1])
FUNCTIONS = {
    "relu": lambda w: jax.nn.relu(w @ x),
    "tanh": lambda w: jnp.tanh(w @ jnp.tanh(w @ x)),
    "softplus": lambda w: jax.nn.softplus(w @ x),
    "gelu": lambda w: jax.nn.gelu(w @ x),
    "softmax": lambda w: jax.nn.softmax(w @ x),
    "layer_norm": lambda w: jax.nn.standardize(w @ x),
    "arccos": lambda w: jnp.arccos(0.1 * w @ x),
    "arctan2": lambda w: jnp.arctan2(w, 1 + w * w),
    "quotient": lambda w: w / (2 + w**2),
    "power": lambda w: jnp.exp(w) ** w,
    "root": lambda w: jnp.sqrt(1 + w**2),
    "gamma": lambda w: jax.scipy.special.gammaln(w * w + 1),
    "largest": lambda w: jnp.max(w @ w, axis=1),
    "sort": lambda w: jnp.sort(w @ w, axis=1),
    "where": lambda w: jnp.where(w > 0, jnp.exp(w), w),
    "gather": lambda w: (w @ w)[np.array([0, 2, 0])],
    "cumprod": lambda w: jnp.cumprod(w),
    "inverse": lambda w: jnp.linalg.inv(w + 3 * jnp.eye(3)),
    "scan": lambda w: lax.scan(lambda c, _: (jnp.tanh(w @ c), c), x, None, length=3)[1],
    "loop": lambda w: lax.fori_loop(0, 3, lambda i, c: jnp.sin(w @ c), jnp.asarray(x)),
    "cond": lambda w: lax.cond(w[0, 0] > 0, lambda w: w @ w @ w, jnp.sin, w),
    "while": lambda w: lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(w @ c[1])), (0, jnp.asarray(x))
    )[1],
    "checkpoint": lambda w: jax.checkpoint(lambda w: jnp.tanh(w @ x))(w),
    "stop_gradient": lambda w: lax.stop_gradient(w) * w,
    "max_pool": lambda w: lax.reduce_window(
        w @ w, -jnp.inf, lax.max, (2, 2), (1, 1), "VALID"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("order", [0, 1, pytest.param(4, marks=pytest.mark.slow)])
def test_polynomial_is_that_of_nested_derivatives(name, order, getkey):
    function = FUNCTIONS[name]
    center, step = jr.normal(getkey(), (3, 3)), 0.3 * jr.normal(getkey(), (3, 3))
    expanded = eqt.taylorize(lambda w: function(w), order, center)
    truth = np.asarray(nested(function, center, step, order))
    scale, rtol = np.abs(truth).max(), by_precision(float64=1e-9, float32=2e-4)
    np.testing.assert_allclose(
        expanded(center + step), truth, rtol=0, atol=rtol * scale
    )


def test_custom_reverse_rules_are_used(getkey):
    w, step = jr.normal(getkey(), (3, 3)), jr.normal(getkey(), (3, 3))
    for order in (1, 2, 5):
        with_rule = eqt.taylorize(lambda w: sine(w @ x), order, w)
        without = eqt.taylorize(lambda w: jnp.sin(w @ x), order, w)
        np.testing.assert_allclose(with_rule(w + step), without(w + step), rtol=1e-5)


def mlp():
    return nn.Sequential(
        [nn.Linear(8, bias_std=0.3), nn.Erf(), nn.Repeat(nn.Linear(8), 2), nn.Linear(2)]
    )


def moved(model, key, scale):
    def move(leaf):
        return leaf + scale * jr.normal(key, leaf.shape)

    return jax.tree.map(lambda p: move(p) if eqx.is_inexact_array(p) else p, model)


def at(expanded, model):
    return eqx.tree_at(
        lambda e: e.params, expanded, eqx.filter(model, eqx.is_inexact_array)
    )


@pytest.mark.slow
def test_errors_shrink_with_the_order(getkey):
    model = mlp().init((3,), key=getkey())
    errors = []
    for order in range(7):
        other = moved(model, jr.key(1), 0.1)
        expanded = eqx.filter_jit(
            eqx.filter_vmap(at(eqt.taylorize(model, order), other))
        )
        xs = jr.normal(jr.key(2), (4, 3))
        errors.append(float(jnp.abs(expanded(xs) - jax.vmap(other)(xs)).max()))
    # Geometric until rounding takes over.
    floor = by_precision(float64=1e-12, float32=1e-5)
    assert all(b < max(0.6 * a, floor) for a, b in itertools.pairwise(errors))


@pytest.mark.slow
@hyp.given(order=st.integers(0, 3), seed=st.integers(0, 2**31 - 1))
@hyp.settings(max_examples=5)
def test_value_at_the_center_is_that_of_the_network(order, seed):
    model = mlp().init((3,), key=jr.key(seed))
    x = jr.normal(jr.key(seed + 1), (3,))
    np.testing.assert_allclose(eqt.taylorize(model, order)(x), model(x), rtol=1e-5)


@pytest.mark.slow
def test_gradient_is_that_of_the_network_at_the_center(getkey):
    model, x = mlp().init((3,), key=getkey()), jr.normal(getkey(), (3,))
    gradient = lambda net: jax.tree.leaves(
        eqx.filter_grad(lambda net: jnp.sum(net(x) ** 2))(net)
    )
    for order in (1, 3):
        ours = gradient(eqt.taylorize(model, order))
        for a, b in zip(ours, gradient(model), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_moves_the_parameters_alone(getkey):
    model, xs = mlp().init((3,), key=getkey()), jr.normal(getkey(), (8, 3))
    tangent = eqt.linearize(model)
    optimiser = optax.adamw(1e-2, weight_decay=0.5)
    state = optimiser.init(eqx.filter(tangent, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(tangent, state):
        loss = lambda tangent: jnp.mean(jax.vmap(tangent)(xs) ** 2)
        value, gradient = eqx.filter_value_and_grad(loss)(tangent)
        params = eqx.filter(tangent, eqx.is_inexact_array)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(gradient, state, params)
        return eqx.apply_updates(tangent, updates), state, value

    losses = []
    for _ in range(20):
        tangent, state, value = step(tangent, state)
        losses.append(float(value))
    assert losses[-1] < 0.8 * losses[0]
    # Neither training nor weight decay has moved the point of expansion.
    back = at(tangent, model)
    np.testing.assert_allclose(jax.vmap(back)(xs), jax.vmap(model)(xs), rtol=1e-5)
    count = len(jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
    assert len(jax.tree.leaves(eqx.filter(tangent, eqx.is_inexact_array))) == count


@pytest.mark.slow
def test_trainable_leaves_are_chosen(getkey):
    model, x = mlp().init((3,), key=getkey()), jr.normal(getkey(), (3,))
    spec = eqx.tree_at(
        lambda m: m.layers[-1].weight, jax.tree.map(lambda _: False, model), True
    )
    tangent = eqt.linearize(model, trainable=spec)
    (weight,) = jax.tree.leaves(tangent.params)
    other = eqx.tree_at(lambda m: m.layers[-1].weight, model, 2 * weight)
    doubled = eqx.tree_at(lambda t: t.params.layers[-1].weight, tangent, 2 * weight)
    # The network is linear in its last weights, so that nothing is lost.
    np.testing.assert_allclose(doubled(x), other(x), rtol=1e-5)
    np.testing.assert_allclose(doubled.model(x), other(x), rtol=1e-6)


def test_functions_of_trees(getkey):
    params = {
        "w": jr.normal(getkey(), (3,)),
        "n": jnp.array(2),
        "c": lax.complex(jnp.zeros(3), jnp.ones(3)),
    }
    function = lambda p, x, *, shift: {"y": p["w"] ** 2 * x + shift, "c": p["c"] ** 2}
    tangent = eqt.linearize(function, params)
    new = {**params, "w": params["w"] + 1.0, "c": 2 * params["c"]}
    out = tangent(new, 2.0, shift=1.0)
    w = params["w"]
    np.testing.assert_allclose(out["y"], 2 * (w**2 + 2 * w) + 1, rtol=1e-5)
    np.testing.assert_allclose(out["c"], -3 * jnp.ones(3), rtol=1e-5)


def test_errors_say_what_to_do(getkey, without_jaxtyping):
    model = mlp().init((3,), key=getkey())
    with pytest.raises(ValueError, match="must not be negative"):
        eqt.taylorize(model, -1)
    with pytest.raises(ValueError, match="No leaf"):
        eqt.linearize(mlp())
    with pytest.raises(ValueError, match="cannot be called"):
        eqt.linearize(jnp.ones(3))
    with pytest.raises(ValueError, match="point of expansion"):
        eqt.linearize(lambda p: p["a"], {"a": jnp.ones(2)})({"b": jnp.ones(2)})
