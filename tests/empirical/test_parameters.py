"""Which arrays count as parameters, and the state of models, in every function."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array, Float

import eqtangents as eqt
from eqtangents import nn
from precision import by_precision


X = np.linspace(-1.0, 1.0, 12).reshape(4, 3)


def atol():
    return by_precision(float64=1e-9, float32=1e-4)


def batch():
    return jnp.asarray(X, jnp.zeros(()).dtype)


def layers(given):
    """Every kind of hyperparameter, as `given` makes of a number."""
    return [
        nn.Linear(3, weight_std=given(1.5), bias_std=given(0.3)),
        nn.LayerNorm(eps=given(1e-3)),
        nn.ABRelu(given(0.2), given(1.1)),
        nn.Linear(3, weight_std=given(0.9), parameterization="standard"),
        nn.Polynomial((given(0.1), given(1.0), given(0.2))),
        nn.Residual(nn.Linear(3, weight_std=given(0.7))),
        nn.Repeat(nn.Sequential([nn.Linear(3), nn.Erf(given(1.0), given(0.8))]), 2),
    ]


class Wrapped(eqx.Module):
    """A model of a user's, with a layer of ours inside."""

    scale: Float[Array, ""]
    inner: dict[str, nn.Sequential]

    def __call__(self, x):
        return self.scale * self.inner["net"](x)


class Scale(nn.AbstractLayer):
    """A layer of a user's, with a parameter and a hyperparameter."""

    gain: Float[Array, ""]
    power: float | Float[Array, ""]

    def init(self, input_shape, *, key=None):
        return self

    def __call__(self, x, *, key=None):
        return self.gain**self.power * x

    def propagate(self, covariance):
        return covariance


def few_layers(given):
    return [nn.Linear(3, weight_std=given(1.5), bias_std=given(0.3)), layers(given)[2]]


def networks(layers):
    """Networks with hyperparameters as numbers, and the same with arrays."""

    def number(value):
        return value

    for given in (number, jnp.asarray):
        net = nn.Sequential(layers(given)).init((3,), key=jr.key(0))
        scaled = Scale(jnp.asarray(2.0), given(1.5))
        yield Wrapped(jnp.asarray(1.2), {"net": nn.Sequential([net, scaled])})


def trained(tree):
    return len(jax.tree.leaves(tree))


USES = {
    "ntk": lambda model, **o: eqt.empirical_ntk(model, batch(), trace_axes=(), **o),
    "kernel": lambda model, **o: eqt.empirical_kernel(model, batch(), **o).ntk,
    "by_leaf": lambda model, **o: sum(
        jax.tree.leaves(eqt.empirical_ntk_by_leaf(model, batch(), **o))
    ),
    "operator": lambda model, **o: eqt.NTKOperator(model, batch(), **o).as_matrix(),
    "explain": lambda model, **o: np.asarray(
        len(eqt.explain_empirical_ntk(model, batch(), **o).names)
    ),
    "monte_carlo": lambda model, **o: (
        eqt.monte_carlo(
            lambda key: model, batch(), None, jr.key(0), 2, kernels="ntk", **o
        ).mean
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("expand", [eqt.linearize, eqt.taylorize])
def test_hyperparameters_do_not_move(expand):
    order = () if expand is eqt.linearize else (2,)
    numbers, arrays = (expand(net, *order).params for net in networks(layers))
    paths = [jax.tree_util.tree_leaves_with_path(tree) for tree in (numbers, arrays)]
    assert [str(p) for p, _ in paths[0]] == [str(p) for p, _ in paths[1]]
    assert trained(numbers) == 7  # weights, a bias, scale and gain
    _, net = networks(layers)
    everything = expand(net, *order, trainable=eqx.is_inexact_array).params
    assert trained(everything) == 7 + 15  # those of `Repeat` twice


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_hyperparameters_are_no_parameters(use):
    numbers, arrays = networks(few_layers)
    expected = USES[use](numbers)
    np.testing.assert_allclose(USES[use](arrays), expected, rtol=1e-4, atol=atol())
    if use != "monte_carlo":
        everything = USES[use](arrays, trainable=eqx.is_inexact_array)
        assert np.max(np.abs(everything - expected)) > 0.01, "asked for, they are"


@pytest.mark.slow
def test_sampled_network_with_array_hyperparameters(getkey):
    by_hand = 1.0  # 1/2 from each layer of weights, for `x @ x / d = 1`
    layers = [nn.Linear(64), nn.Relu(), nn.Linear(1, weight_std=jnp.asarray(1.0))]
    found = eqt.monte_carlo(
        nn.Sequential(layers), jnp.ones((1, 4)), None, getkey(), 200, batch_size=200
    )
    assert jnp.abs(found.mean.ntk - by_hand) < 5 * found.standard_error.ntk
    assert found.standard_error.ntk < 0.03


def test_functions_within_a_layer_are_given(getkey):
    """As the kernel of infinite width takes them."""
    slope = eqx.Partial(lambda slope, x: slope * x, jnp.asarray(1.3))
    model = nn.Sequential([nn.Linear(2), nn.Elementwise(slope)])
    model = model.init((3,), key=getkey())
    assert trained(eqt.linearize(model).params) == 1


FUNCTION = lambda p, x: p["w"] @ x + p["b"] + p["n"]
PARAMS = {"w": np.ones((2, 3)), "b": np.zeros(2), "n": 1}
BIAS = [
    {"w": False, "b": True, "n": False},
    lambda leaf: eqx.is_inexact_array(leaf) and leaf.ndim == 1,
]


@pytest.mark.parametrize("trainable", BIAS, ids=["tree", "test"])
def test_trainable_applies_to_params(trainable):
    params = jax.tree.map(jnp.asarray, PARAMS)
    params = {**params, "w": params["w"].astype(jnp.zeros(()).dtype)}
    params["b"] = params["b"].astype(params["w"].dtype)
    args = (FUNCTION, batch(), None, params)
    options = {"trainable": trainable, "trace_axes": ()}
    # One bias for each output, derivative one.
    eye = np.broadcast_to(np.eye(2), (4, 4, 2, 2))
    np.testing.assert_allclose(eqt.empirical_ntk(*args, **options), eye, atol=atol())
    np.testing.assert_allclose(
        eqt.empirical_kernel(*args, **options).ntk, eye, atol=atol()
    )
    (part,) = jax.tree.leaves(eqt.empirical_ntk_by_leaf(*args, **options))
    np.testing.assert_allclose(part, eye, atol=atol())
    matrix = eqt.NTKOperator(*args, trainable=trainable).as_matrix()
    np.testing.assert_allclose(matrix, np.kron(np.ones((4, 4)), np.eye(2)), atol=atol())
    assert eqt.explain_empirical_ntk(*args, **options).names == ["['b']"]
    x, other = batch()[0], {"w": 2 * params["w"], "b": 1 + params["b"], "n": 5}
    for tangent in (
        eqt.linearize(FUNCTION, params, trainable=trainable),
        eqt.taylorize(FUNCTION, 2, params, trainable=trainable),
    ):
        moved = FUNCTION({**params, "b": other["b"]}, x)
        np.testing.assert_allclose(tangent(other, x), moved, atol=atol())


def with_state():
    keys = jr.split(jr.key(0))
    layers = [
        eqx.nn.Linear(3, 5, key=keys[0]),
        eqx.nn.BatchNorm(5, "batch", mode="batch"),
        eqx.nn.Linear(5, 2, key=keys[1]),
    ]
    model, state = eqx.nn.make_with_state(eqx.nn.Sequential)(layers)
    # Statistics that are not those at initialisation.
    outputs = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    _, state = outputs(batch(), state)
    return eqx.nn.inference_mode(model), state, model


@pytest.mark.slow
def test_state_is_passed_along(without_jaxtyping):
    model, state, _ = with_state()
    x = batch()
    closure = lambda m, x: m(x, state)[0]
    right = eqt.empirical_kernel(closure, x, None, model, trace_axes=())
    found = eqt.empirical_kernel(model, x, state=state, trace_axes=())
    np.testing.assert_allclose(found.ntk, right.ntk, atol=atol())
    np.testing.assert_allclose(found.nngp, right.nngp, atol=atol())
    parts = eqt.empirical_ntk_by_leaf(model, x, state=state, trace_axes=())
    np.testing.assert_allclose(sum(jax.tree.leaves(parts)), right.ntk, atol=atol())
    matrix = right.ntk.transpose(0, 2, 1, 3).reshape(8, 8)
    operator = eqt.NTKOperator(model, x, state=state)
    np.testing.assert_allclose(operator.as_matrix(), matrix, atol=atol())
    assert len(eqt.explain_empirical_ntk(model, x, state=state).names) == 6
    sampled = eqt.monte_carlo(lambda key: (model, state), x, None, jr.key(0), 2)
    expected = jnp.einsum("ijaa->ij", right.ntk) / 2
    np.testing.assert_allclose(sampled.mean.ntk, expected, atol=atol())
    np.testing.assert_allclose(sampled.standard_error.ntk, 0 * expected, atol=atol())


@pytest.mark.slow
def test_state_of_polynomials(without_jaxtyping):
    model, state, _ = with_state()
    x = batch()[0]
    moved = jax.tree.map(lambda p: 1.1 * p if eqx.is_inexact_array(p) else p, model)
    right = eqt.linearize(lambda m, x: m(x, state)[0], model)(moved, x)
    tangent = eqt.linearize(model, state=state)
    np.testing.assert_allclose(tangent(x), model(x, state)[0], atol=atol())
    step = eqx.filter(moved, eqx.is_inexact_array)
    at_moved = eqx.tree_at(lambda t: t.params, tangent, step)
    np.testing.assert_allclose(at_moved(x), right, atol=atol())
    # It is no parameter: what trains or casts finds `params` alone.
    assert trained(eqx.filter(tangent, eqx.is_inexact_array)) == trained(step)
    later, _ = eqt.linearize(model)(x, state)
    np.testing.assert_allclose(later, model(x, state)[0], atol=atol())


@pytest.mark.slow
def test_missing_state_is_said(without_jaxtyping):
    model, state, training = with_state()
    x = batch()
    for call in (
        lambda: eqt.empirical_ntk(model, x),
        lambda: eqt.empirical_nngp(model, x),
        lambda: eqt.empirical_kernel(model, x),
        lambda: eqt.empirical_ntk_by_leaf(model, x),
        lambda: eqt.explain_empirical_ntk(model, x),
        lambda: eqt.NTKOperator(model, x),
        lambda: eqt.linearize(model)(x[0]),
        lambda: eqt.taylorize(model, 2)(x[0]),
        lambda: eqt.monte_carlo(lambda key: model, x, None, jr.key(0), 2),
    ):
        with pytest.raises(ValueError, match="state=state"):
            call()
    with pytest.raises(ValueError, match="inference_mode"):
        eqt.empirical_ntk(training, x, state=state)
    with pytest.raises(ValueError, match="second half as `state=`"):
        eqt.empirical_ntk((model, state), x)
    with pytest.raises(TypeError, match="make_with_state"):
        eqt.empirical_ntk(model, x, state=1)
    mlp = eqx.nn.MLP(3, 1, 4, 1, key=jr.key(0))
    with pytest.raises(ValueError, match="Leave `state` out"):
        eqt.empirical_ntk(mlp, x, state=state)
    with pytest.raises(ValueError, match="Leave `state` out"):
        eqt.empirical_ntk(lambda p, x, s: p @ x, x, None, jnp.ones((2, 3)), state=state)
