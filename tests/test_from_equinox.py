"""Equinox's own models: the same functions, and their kernels."""

import math
import re
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn


KEY = jr.key(0)


class Swish(eqx.Module):
    beta: jax.Array

    def __call__(self, x, *, key=None):
        return x * jax.nn.sigmoid(self.beta * x)


def hard(x):
    return jnp.where(x < 1, jnp.sin(3 * x), 2.0)


def chain(*layers):
    """A `Sequential`, with all that takes no key in a `Lambda`."""
    takes_key = lambda f: isinstance(f, eqx.Module) and not isinstance(f, eqx.nn.PReLU)
    return eqx.nn.Sequential([f if takes_key(f) else eqx.nn.Lambda(f) for f in layers])


def conv1(*args, **options):
    return eqx.nn.Conv1d(2, 4, *args, key=KEY, **options)


def transpose1(*args, **options):
    return eqx.nn.ConvTranspose1d(2, 3, *args, key=KEY, **options)


# Models, each with the shape of an example; built in the precision of the test.
ZOO = {
    "linear": lambda: (eqx.nn.Linear(3, 2, key=KEY), (3,)),
    "mlp": lambda: (eqx.nn.MLP(3, 2, 5, 3, key=KEY), (3,)),
    "mlp by scan": lambda: (
        eqx.nn.MLP(3, 2, 5, 3, jnp.tanh, jax.nn.softplus, scan=True, key=KEY),
        (3,),
    ),
    "mlp of depth 0": lambda: (
        eqx.nn.MLP(3, 2, 5, 0, jnp.tanh, jnp.tanh, key=KEY),
        (3,),
    ),
    "mlp without biases": lambda: (
        eqx.nn.MLP(3, 2, 5, 1, use_bias=False, use_final_bias=False, key=KEY),
        (3,),
    ),
    "images": lambda: (
        chain(
            eqx.nn.Conv2d(3, 4, (3, 2), 2, ((1, 2), (0, 1)), key=KEY),
            jax.nn.gelu,
            eqx.nn.GroupNorm(2, 4),
            eqx.nn.MaxPool2d(2, 1, 1),
            eqx.nn.Conv2d(4, 6, 1, groups=2, use_bias=False, key=KEY),
            eqx.nn.AvgPool2d((2, 1), (1, 2), ((1, 0), (0, 0))),
            jnp.ravel,
            eqx.nn.Linear(60, 5, key=KEY),
            eqx.nn.LayerNorm(5),
            eqx.nn.Identity(),
        ),
        (3, 7, 6),
    ),
    "adaptive": lambda: (
        chain(
            eqx.nn.Conv3d(2, 3, 2, key=KEY),
            eqx.nn.AdaptiveAvgPool3d(1),
            lambda x: x.reshape(-1),
            eqx.nn.RMSNorm(3, use_bias=False),
        ),
        (2, 3, 2, 3),
    ),
    "nested": lambda: (
        chain(
            eqx.nn.Linear(3, 4, key=KEY),
            chain(eqx.nn.PReLU(), eqx.nn.Linear(4, 4, key=KEY)),
            nn.Residual(nn.Linear(4)).init((4,), key=KEY),
            Swish(jnp.asarray(1.5)),
            eqx.nn.Dropout(0.5, inference=True),
        ),
        (3,),
    ),
    "norm of everything": lambda: (
        eqx.nn.LayerNorm((2, 5), use_weight=False, use_bias=False),
        (2, 5),
    ),
    "same, strided": lambda: (conv1(3, 2, "SAME", dilation=2), (2, 6)),
    "same, lower": lambda: (conv1(4, 1, "SAME_LOWER"), (2, 6)),
    "circular": lambda: (conv1(4, 3, "SAME", padding_mode="CIRCULAR"), (2, 7)),
    "circular by number": lambda: (conv1(3, 1, 1, padding_mode="CIRCULAR"), (2, 5)),
    "reflecting nothing": lambda: (conv1(3, padding_mode="REFLECT"), (2, 5)),
    "transpose": lambda: (transpose1(3), (2, 4)),
    "transpose, doubled": lambda: (transpose1(4, 2, padding=1), (2, 4)),
    "transpose, odd": lambda: (transpose1(3, 2, padding=1, output_padding=1), (2, 4)),
    "transpose, same": lambda: (transpose1(4, 3, padding="SAME_LOWER"), (2, 4)),
    "transpose, sparse": lambda: (transpose1(1, 3, output_padding=1), (2, 4)),
    "transpose, circular": lambda: (
        transpose1(4, 2, padding="SAME", padding_mode="CIRCULAR"),
        (2, 4),
    ),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ZOO)
def test_same_function(name):
    model, shape = ZOO[name]()
    x = jr.normal(jr.key(1), shape)
    expected = model(x)
    for parameterization in ("standard", "ntk"):
        net = eqt.from_equinox(model, parameterization=parameterization)
        value = net(x)
        assert value.shape == expected.shape
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    drawn = net.init(shape, key=KEY)
    shapes = lambda net: [
        leaf.shape for leaf in jax.tree.leaves(net) if eqx.is_array(leaf)
    ]
    assert shapes(drawn) == shapes(net)


@pytest.mark.slow
def test_scalars_are_single_channels():
    model = eqx.nn.MLP("scalar", "scalar", 4, 1, key=KEY)
    x = jnp.asarray(0.7)
    net = eqt.from_equinox(model)
    np.testing.assert_allclose(net(x[None])[0], model(x), rtol=1e-5)


def test_draws_parameters_as_equinox_does():
    model = eqx.nn.Conv2d(6, 4000, 2, key=KEY)
    drawn = eqt.from_equinox(model).init((6, 4, 4), key=KEY)
    for ours, theirs in ((drawn.weight, model.weight), (drawn.bias, model.bias)):
        assert float(jnp.std(ours)) == pytest.approx(float(jnp.std(theirs)), rel=0.03)


# Functions, and the layers that they are.
FUNCTIONS = {
    "relu": lambda: (jax.nn.relu, nn.Relu()),
    "a rectifier": lambda: (
        lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)),
        nn.Relu(),
    ),
    "leaky": lambda: (lambda x: jax.nn.leaky_relu(x, 0.25), nn.ABRelu(0.25, 1.0)),
    "abs": lambda: (jnp.abs, nn.ABRelu(-1.0, 1.0)),
    "gelu": lambda: (lambda x: jax.nn.gelu(x, approximate=False), nn.Gelu()),
    "gelu by tanh": lambda: (jax.nn.gelu, nn.Gelu(approximate=True)),
    "tanh": lambda: (jnp.tanh, nn.Tanh()),
    "silu": lambda: (jax.nn.silu, nn.Silu()),
    "square": lambda: (jnp.square, nn.Monomial(2)),
    "identity": lambda: (lambda x: x, nn.Identity()),
    "twice": lambda: (lambda x: x * 2, nn.Scale(2.0)),
    "relu6": lambda: (jax.nn.relu6, nn.Relu6()),
    "softplus": lambda: (lambda x: jnp.logaddexp(x, 0), nn.Softplus()),
    "sigmoid": lambda: (lambda x: 1 / (1 + jnp.exp(-x)), nn.Sigmoid()),
    "celu": lambda: (jax.nn.celu, nn.Elu()),
    "selu": lambda: (lambda x: jax.nn.selu(x), nn.Selu()),
    "erf": lambda: (lambda x: jax.scipy.special.erf(x), nn.Erf()),
    "sine": lambda: (lambda x: jnp.sin(x), nn.Sin()),
    "cosine": lambda: (lambda x: jnp.cos(x), nn.Cos()),
    "exponential": lambda: (lambda x: jnp.exp(x), nn.Exp()),
    "sign": lambda: (lambda x: jnp.sign(x), nn.Sign()),
    "cube": lambda: (lambda x: x * x * x, nn.Monomial(3)),
    "rectified square": lambda: (
        lambda x: jax.nn.relu(x) ** 2,
        nn.RectifiedMonomial(2),
    ),
    "mean of a sequence": lambda: (lambda x: x.mean(1), nn.GlobalAvgPool()),
    "mean of an image": lambda: (lambda x: x.mean((1, 2)), nn.GlobalAvgPool()),
    "mean from the end": lambda: (lambda x: jnp.mean(x, (-2, -1)), nn.GlobalAvgPool()),
    "flatten": lambda: (lambda x: x.reshape(-1), nn.Flatten()),
}


@pytest.mark.quick(14)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_told_by_their_values(name):
    fn, layer = FUNCTIONS[name]()
    assert eqt.from_equinox(fn) == layer


def test_functions_that_are_known_take_no_time():
    model = eqx.nn.MLP(3, 1, 8, 1, jax.nn.relu, key=KEY)
    start = time.thread_time()
    net = eqt.from_equinox(model)
    assert time.thread_time() - start < 0.5
    assert isinstance(net, nn.Sequential)
    assert net.layers[1] == nn.Relu()


def test_derivatives_tell_functions_too():
    """A straight-through estimator has the values of a step, and other kernels."""

    @jax.custom_jvp
    def step(x):
        return jnp.sign(x)

    step.defjvp(lambda primals, tangents: (jnp.sign(primals[0]), tangents[0]))
    layer = eqt.from_equinox(step)
    assert isinstance(layer, nn.Elementwise)
    linear = nn.Linear(1)
    x = jr.normal(KEY, (3, 4))
    before = eqt.ntk(linear, x)
    np.testing.assert_allclose(
        eqt.ntk(nn.Sequential([linear, layer]), x), before, rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_a_mean_is_over_all_positions_that_there_are():
    mean = lambda x: x.mean((1, 2))
    conv = eqx.nn.Conv2d(2, 4, 1, key=KEY)
    net = eqt.from_equinox(chain(conv, jax.nn.relu, mean))
    x = jr.normal(KEY, (2, 3, 5))
    np.testing.assert_allclose(net(x), mean(jax.nn.relu(conv(x))), rtol=1e-5)
    for partial in (lambda x: x.mean(1), lambda x: x.mean(-1)):
        with pytest.raises(nn.LayerError, match="mean over some of the 2 axes"):
            eqt.from_equinox(chain(conv, partial))


def test_refuses_in_one_line_and_says_what_works():
    layers = [eqx.nn.Linear(3, 64, key=KEY), eqx.nn.Linear(64, 64, key=KEY)]
    gru = eqx.nn.GRUCell(3, 4, key=KEY)
    for model, name in (
        (Custom(eqx.nn.Sequential(layers)), "Custom"),
        (gru, "GRUCell"),
    ):
        with pytest.raises(nn.LayerError) as caught:
            eqt.from_equinox(model)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert message.startswith(f"{name}: `{name}` has a `__call__` of its own")
        for works in ("empirical_ntk", "monte_carlo"):
            assert works in message


def test_other_elementwise_functions_are_expanded():
    net = eqt.from_equinox(jax.nn.log_sigmoid)
    assert isinstance(net, nn.Elementwise)
    assert net.fn is jax.nn.log_sigmoid


@pytest.mark.slow
def test_lifts_under_jit():
    model = eqx.nn.MLP(3, 1, 4, 1, jnp.tanh, key=KEY)
    x = jr.normal(KEY, (2, 3))
    kernel = lambda model: eqt.ntk(eqt.from_equinox(model), x)
    np.testing.assert_allclose(eqx.filter_jit(kernel)(model), kernel(model), rtol=1e-5)


@pytest.mark.slow
def test_scales_can_be_set():
    model = eqx.nn.MLP(3, 1, 7, 1, key=KEY)
    options = {"weight_std": 1.3, "bias_std": 0.2, "parameterization": "ntk"}
    net = nn.Sequential(
        [
            nn.Linear(1, weight_std=1.3, bias_std=0.2),
            nn.Relu(),
            nn.Linear(1, weight_std=1.3, bias_std=0.2),
        ]
    )
    x = jr.normal(KEY, (3, 3))
    np.testing.assert_allclose(
        eqt.ntk(eqt.from_equinox(model, **options), x), eqt.ntk(net, x), rtol=1e-5
    )


class Custom(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x, *, key=None):
        return x + self.layer(x)


class LinearSubclass(eqx.nn.Linear):
    def __call__(self, x, *, key=None):
        return 2 * (self.weight @ x)


REFUSED = {
    "module of one's own": lambda: (
        chain(eqx.nn.Identity(), chain(Custom(eqx.nn.Linear(3, 3, key=KEY)))),
        "layers[1].layers[0] (Custom): `Custom",
    ),
    "subclass": lambda: (
        chain(LinearSubclass(3, 3, key=KEY)),
        "layers[0] (LinearSubclass)",
    ),
    "softmax": lambda: (
        chain(jax.nn.softmax),
        "layers[0].fn (function): `softmax` is no",
    ),
    "normalisation": lambda: (lambda x: x / jnp.linalg.norm(x), "nor a function that"),
    "flip": lambda: (jnp.flip, "`flip` is no layer"),
    "step": lambda: (lambda x: x > 0, "nor a function that"),
    "hard to expand": lambda: (chain(hard), "is elementwise, but hard to expand"),
    "value": lambda: (
        eqx.nn.Lambda(jnp.ones(3)),
        "fn (ArrayImpl): is no layer, but a value",
    ),
    "attention": lambda: (
        eqx.nn.MultiheadAttention(2, 4, key=KEY),
        "MultiheadAttention: divides by the root",
    ),
    "batch norm": lambda: (
        eqx.nn.BatchNorm(3, "batch", mode="batch"),
        "BatchNorm: keeps",
    ),
    "slopes": lambda: (eqx.nn.PReLU(jnp.ones(3)), "PReLU: has slopes of shape (3,)"),
    "slopes of an mlp": lambda: (
        eqx.nn.MLP(3, 2, 5, 2, eqx.nn.PReLU(), key=KEY),
        "activation (PReLU): has parameters",
    ),
    "activation of an mlp": lambda: (
        eqx.nn.MLP(3, 2, 5, 2, final_activation=hard, key=KEY),
        "final_activation (function): `hard` is elementwise",
    ),
    "reflection": lambda: (
        conv1(3, padding=1, padding_mode="REFLECT"),
        "Conv1d: pads by",
    ),
    "lower, strided": lambda: (conv1(3, 2, "SAME_LOWER"), "Conv1d: pads by SAME_LOWER"),
    "circular, strided": lambda: (
        conv1(3, 2, 1, padding_mode="CIRCULAR"),
        "Conv1d: pads by ((1, 1),), 'CIRCULAR', with stride (2,)",
    ),
    "dilated transpose": lambda: (transpose1(3, dilation=2), "ConvTranspose1d: has"),
    "circular, lower": lambda: (
        transpose1(2, padding="SAME_LOWER", padding_mode="CIRCULAR"),
        "ConvTranspose1d: has",
    ),
    "longer transpose": lambda: (
        transpose1(4, 2, output_padding=1),
        "`output_padding=(1,)`",
    ),
    "ceil": lambda: (eqx.nn.AvgPool1d(2, 2, use_ceil=True), "AvgPool1d: pads as much"),
    "adaptive": lambda: (
        eqx.nn.AdaptiveAvgPool2d(2),
        "AdaptiveAvgPool2d: has windows for",
    ),
    "gains everywhere": lambda: (eqx.nn.LayerNorm((2, 5)), "LayerNorm: learns gains"),
    "root mean square of all": lambda: (
        eqx.nn.RMSNorm((2, 5)),
        "RMSNorm: normalises over",
    ),
}


@pytest.mark.quick(5)
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_and_says_what_and_where(name):
    model, message = REFUSED[name]()
    with pytest.raises(nn.LayerError, match=re.escape(message)):
        eqt.from_equinox(model)


@pytest.mark.parametrize("name", ["weight_std", "bias_std"])
@pytest.mark.parametrize("ours", ["ntk", nn.NTK(), nn.MuP()], ids=str)
def test_no_parameters_are_scaled_by_zero(name, ours):
    model = eqx.nn.Linear(3, 2, key=KEY)
    with pytest.raises(ValueError, match=f"`{name}` is 0"):
        eqt.from_equinox(model, parameterization=ours, **{name: 0.0})
    eqt.from_equinox(model, parameterization=nn.Standard(), **{name: 0.0})


@pytest.mark.parametrize("ours", [nn.NTK(), nn.Standard(), nn.MuP()], ids=str)
def test_parameterizations_are_names_or_objects(ours):
    model = eqx.nn.Linear(3, 7, key=KEY)
    lifted = eqt.from_equinox(model, parameterization=ours)
    assert lifted.parameterization == ours
    x = jr.normal(KEY, (3,))
    np.testing.assert_allclose(lifted(x), model(x), rtol=1e-5, atol=1e-6)
    if name := {nn.NTK(): "ntk", nn.Standard(): "standard"}.get(ours):
        assert eqx.tree_equal(lifted, eqt.from_equinox(model, parameterization=name))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("mup", ValueError, "`parameterization` is 'mup', but must be"),
        (nn.MuP, TypeError, "`parameterization` is the class `MuP`"),
        (nn.Standard((1, 2)), ValueError, "makes them wider"),
    ],
)
def test_other_parameterizations_are_refused(given, error, message, without_jaxtyping):
    with pytest.raises(error, match=re.escape(message)):
        eqt.from_equinox(eqx.nn.Linear(3, 2, key=KEY), parameterization=given)


def mlp(width, key):
    return eqx.nn.MLP(4, 1, width, 2, key=key)


def images(width, key):
    key1, key2, key3 = jr.split(key, 3)
    return chain(
        eqx.nn.Conv2d(2, width, 2, 2, "SAME", key=key1),
        jax.nn.relu,
        eqx.nn.Conv2d(width, width, 2, padding="SAME", use_bias=False, key=key2),
        jnp.tanh,
        jnp.ravel,
        eqx.nn.Linear(4 * width, 1, key=key3),
    )


def normalised(width, key):
    key1, key2, key3 = jr.split(key, 3)
    return chain(
        eqx.nn.Linear(3, width, key=key1),
        eqx.nn.RMSNorm(width),
        eqx.nn.PReLU(),
        eqx.nn.Linear(width, width, key=key2),
        eqx.nn.LayerNorm(width),
        jax.nn.relu,
        eqx.nn.Linear(width, 1, key=key3),
    )


MODELS = {
    "mlp": (mlp, (4,)),
    "images": (images, (2, 3, 4)),
    "norms": (normalised, (3,)),
}
WIDTHS = np.asarray([16, 48, 144])
DRAWS = 160


def outputs_and_ntk(model, x):
    """Of one draw of the parameters, by definition."""
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)

    def outputs(parameters):
        return jax.vmap(eqx.combine(parameters, rest))(x)[:, 0]

    leaves = jax.tree.leaves(jax.jacrev(outputs)(parameters))
    jacobian = jnp.concatenate([leaf.reshape(x.shape[0], -1) for leaf in leaves], 1)
    return outputs(parameters), jacobian @ jacobian.T


@pytest.mark.precision("float32")  # on which statistics do not depend
@pytest.mark.parametrize(("make", "shape"), MODELS.values(), ids=MODELS.keys())
@pytest.mark.slow
def test_kernels_are_those_of_drawn_models(make, shape, getkey):
    x = jr.normal(getkey(), (3, *shape))
    errors = []
    for width in map(int, WIDTHS):
        kernel = eqt.kernel(eqt.from_equinox(make(width, getkey())), x)

        @eqx.filter_jit
        def draw(keys, width=width):
            one = lambda key: outputs_and_ntk(make(width, key), x)
            return jax.lax.map(one, keys)

        f, ntks = draw(jr.split(getkey(), DRAWS))
        products = f[:, :, None] * f[:, None]
        for drawn, limit in ((products, kernel.nngp), (ntks, kernel.ntk)):
            drawn, limit = np.asarray(drawn, float), np.asarray(limit, float)
            stderr = drawn.std(0) / math.sqrt(DRAWS)
            excess = np.abs(drawn.mean(0) - limit) - 5 * stderr
            assert excess.max() < 0.5 * np.abs(limit).max() / width, width
        # The bias of the readout adds one to each NTK, which is not random.
        scale = np.abs(limit - 1).max()
        errors.append(np.sqrt(np.mean((drawn - limit) ** 2)) / scale)
    slope, _ = np.polyfit(np.log2(WIDTHS), np.log2(errors), 1)
    assert slope == pytest.approx(-0.5, abs=0.12), errors
