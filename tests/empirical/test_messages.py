"""What public functions of finite width say of arguments that they do not take.

Each message names the argument, says what came, and what to write instead.
"""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn


# What is said does not depend on the precision: the tables below are made at import.
pytestmark = [
    pytest.mark.usefixtures("without_jaxtyping"),
    pytest.mark.precision("float32"),
]

KEY = jr.key(0)
X = np.ones((4, 3), np.float32)
NET = nn.Sequential([nn.Linear(5), nn.Relu(), nn.Linear(2)])
MODEL = NET.init((3,), key=KEY)
MLP = eqx.nn.MLP(3, 1, 4, 1, key=KEY)
PARAMS = np.ones((2, 3), np.float32)


def function(p, x):
    return p @ x


def endless(p, x):
    return jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c + p @ x, p @ x)


@jax.custom_vjp
def backwards(x):
    return x


backwards.defvjp(lambda x: (x, None), lambda _, ct: (ct,))

KERNELS = {
    "ntk": eqt.empirical_ntk,
    "nngp": eqt.empirical_nngp,
    "kernel": eqt.empirical_kernel,
    "by_leaf": eqt.empirical_ntk_by_leaf,
    "explain": eqt.explain_empirical_ntk,
    "operator": eqt.NTKOperator,
}
# Arguments, the kind of error, and words that say what came, and what to write.
EVERYWHERE = {
    "class": ((eqx.nn.MLP, X), TypeError, ["class `MLP`", "`MLP(...)`"]),
    "string": (("mlp", X), ValueError, ["'mlp'", "module"]),
    "list": (([nn.Linear(1), nn.Relu()], X), ValueError, ["list", "Sequential"]),
    "swapped": ((X, MODEL), ValueError, ["(4, 3)", "swapped"]),
    "params first": ((PARAMS, X, None, function), ValueError, ["swapped", "params"]),
    "no params": ((function, X, None, {}), ValueError, ["`params`", "dict"]),
    "nothing": ((MODEL, None), TypeError, ["`x1` is `None`", "batch"]),
    "numbers": ((MODEL, X.tolist()), TypeError, ["list", "`jnp.asarray(x1)`"]),
    "number": ((MODEL, 1.0), TypeError, ["1.0", "batch"]),
    "words": ((MODEL, "x"), TypeError, ["'x'", "batch"]),
    "network as x1": ((MODEL, MODEL), TypeError, ["`x1`", "Sequential", "first"]),
    "key as x2": ((MODEL, X, KEY), TypeError, ["`x2`", "random key"]),
    "one example": ((MODEL, np.ones(())), ValueError, ["()", "`x[None]`"]),
    "unlike": ((MODEL, X, {"a": X}), ValueError, ["`['a']`", "`params`"]),
    "longer": ((MODEL, X, np.ones((2, 5), np.float32)), ValueError, ["(3,)", "(5,)"]),
    "no state": ((MODEL, X, None, None, 3), TypeError, ["`state`", "make_with_state"]),
}


def raised(kind, call):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    message = str(error.value)
    assert error.type is kind, f"{error.type}: {message}"
    assert "PyTreeDef" not in message
    assert "`_" not in message
    return message


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("mistake", EVERYWHERE)
def test_kernels_say_what_they_take(name, mistake):
    args, kind, words = EVERYWHERE[mistake]
    *args, state = args if len(args) == 5 else (*args, None)
    message = raised(kind, lambda: KERNELS[name](*args, state=state))
    for word in words:
        assert word in message


def of(function, *args, **options):
    return lambda: function(*args, **options)


OPTIONS = {
    "axes": (of(eqt.empirical_nngp, MODEL, X, trace_axes="0"), TypeError, ["'0'"]),
    "half an axis": (of(eqt.empirical_ntk, MODEL, X, trace_axes=[0.5]), TypeError, []),
    "no such axis": (
        of(eqt.empirical_kernel, MODEL, X, diagonal_axes=3),
        ValueError,
        ["axis 3", "(2,)"],
    ),
    "way": (
        of(eqt.empirical_ntk, MODEL, X, implementation="dense"),
        ValueError,
        ["'dense'", '"auto", "structured", "jacobian" or "vector_products"'],
    ),
    "number of a way": (
        of(eqt.explain_empirical_ntk, MODEL, X, implementation=2),
        TypeError,
        ["2", '"vector_products"'],
    ),
    "chunk": (of(eqt.empirical_ntk, MODEL, X, chunk_size=2.5), TypeError, ["2.5"]),
    "trainable": (
        of(eqt.empirical_ntk, function, X, None, PARAMS, trainable="w"),
        TypeError,
        ["'w'", "booleans"],
    ),
    "other tree": (
        of(eqt.linearize, function, PARAMS, trainable={"w": True}),
        ValueError,
        ["dict", "structure"],
    ),
    "none trainable": (
        of(eqt.empirical_ntk, MODEL, X, trainable=lambda _: False),
        ValueError,
        ["Sequential", "`trainable`"],
    ),
    "not initialised": (
        of(eqt.empirical_ntk, NET, X),
        ValueError,
        ["`Sequential`", "net.init("],
    ),
    "nor here": (of(eqt.empirical_nngp, NET, X), nn.LayerError, ["net.init("]),
    "no parameters": (
        of(eqt.empirical_ntk, function, X),
        ValueError,
        ["`function`", "`params`"],
    ),
    "loop": (
        of(eqt.empirical_ntk, endless, X, None, PARAMS),
        ValueError,
        ["while_loop", "jax.lax.scan"],
    ),
    "products of a loop": (
        lambda: eqt.NTKOperator(endless, X, None, PARAMS).as_matrix(),
        ValueError,
        ["while_loop", "jax.lax.scan"],
    ),
    "products backwards": (
        lambda: eqt.NTKOperator(
            lambda p, x: backwards(p @ x), X, None, PARAMS
        ).as_matrix(),
        ValueError,
        ["custom_vjp", "empirical_ntk"],
    ),
    "order": (of(eqt.taylorize, MLP, 1.5), TypeError, ["`order`", "1.5"]),
    "no order": (of(eqt.taylorize, MLP, True), TypeError, ["`order`", "True"]),
    "class to expand": (of(eqt.linearize, eqx.nn.MLP), TypeError, ["class `MLP`"]),
    "swapped": (of(eqt.linearize, PARAMS, function), ValueError, ["swapped"]),
    "uninitialised": (of(eqt.linearize, NET), ValueError, ["net.init("]),
    "fewer": (
        lambda: eqt.linearize(function, {"a": PARAMS})({}, X[0]),
        ValueError,
        ["lacks `['a']`", "point of expansion"],
    ),
    "other shape": (
        lambda: eqt.linearize(function, PARAMS)(jnp.ones((1, 3)), X[0]),
        ValueError,
        ["(1, 3)", "(2, 3)"],
    ),
}


@pytest.mark.parametrize("mistake", OPTIONS)
def test_options_are_checked(mistake):
    call, kind, words = OPTIONS[mistake]
    message = raised(kind, call)
    for word in words:
        assert word in message


SAMPLING = {
    "model": ((MLP, X, None, KEY, 4), TypeError, ["`MLP`", "lambda key: MLP(", "key"]),
    "class": ((nn.Linear, X, None, KEY, 4), TypeError, ["class `Linear`", "instance"]),
    "list": (([nn.Linear(1)], X, None, KEY, 4), TypeError, ["Sequential"]),
    "swapped": ((X, NET, None, KEY, 4), TypeError, ["swapped"]),
    "returns": ((lambda key: X, X, None, KEY, 4), TypeError, ["returned", "module"]),
    "uninitialised": ((lambda key: NET, X, None, KEY, 4), ValueError, ["net.init("]),
    "nothing": ((NET, None, None, KEY, 4), TypeError, ["`x1` is `None`"]),
    "numbers": ((NET, X.tolist(), None, KEY, 4), TypeError, ["jnp.asarray(x1)"]),
    "no second": ((NET, X, KEY, 4, 4), TypeError, ["`x2` is a random key"]),
    "seed": ((NET, X, None, 7, 4), TypeError, ["jax.random.key(7)"]),
    "no key": ((NET, X, None, None, 4), TypeError, ["`key` is `None`"]),
    "keys": ((NET, X, None, jr.split(KEY), 4), ValueError, ["(2,)", "one key"]),
    "half": ((NET, X, None, KEY, 2.5), TypeError, ["2.5", "integer"]),
    "none": ((NET, X, None, KEY, 0), ValueError, ["`n_samples` is 0", "at least 2"]),
    "truth": ((NET, X, None, KEY, True), TypeError, ["True", "integer"]),
}
SAMPLING_OPTIONS = {
    "kernels": ("nngps", ValueError, '"both", "nngp" or "ntk"'),
    "batch_size": (1.5, TypeError, "1.5"),
    "mesh": (2, TypeError, "make_mesh"),
    "progress": ("tqdm", TypeError, "'tqdm'"),
    "trace_axes": (0.5, TypeError, "0.5"),
    "trainable": (lambda _: False, ValueError, "`Sequential`"),
}


@pytest.mark.parametrize("mistake", SAMPLING)
def test_sampling_is_checked(mistake):
    (*args, count), kind, words = SAMPLING[mistake]
    message = raised(kind, lambda: eqt.monte_carlo(*args, count))
    for word in words:
        assert word in message
    # When it is called, not when the first estimate is asked for.
    if mistake not in ("returns", "uninitialised"):
        raised(kind, lambda: eqt.running_monte_carlo(*args, [count]))


@pytest.mark.parametrize("option", SAMPLING_OPTIONS)
def test_options_of_sampling_are_checked(option):
    value, kind, word = SAMPLING_OPTIONS[option]
    call = lambda: eqt.monte_carlo(NET, X, None, KEY, 2, **{option: value})
    message = raised(kind, call)
    assert word in message
    assert option in message


def test_counts_of_samples_are_several():
    call = lambda counts: eqt.running_monte_carlo(NET, X, None, KEY, counts)
    assert "monte_carlo" in raised(TypeError, lambda: call(5))
    assert "empty" in raised(ValueError, lambda: call([]))


ESTIMATES = [eqt.estimate_trace, eqt.estimate_diagonal, eqt.estimate_effective_rank]


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_estimates_are_checked(estimate):
    operator = eqt.NTKOperator(MODEL, X)
    rectangular = eqt.NTKOperator(MODEL, X, X[:2])
    for args, kind, word in (
        ((X, KEY, 4), TypeError, "MatrixLinearOperator"),
        ((MODEL, KEY, 4), TypeError, "NTKOperator(model, x)"),
        ((rectangular, KEY, 4), ValueError, "one batch"),
        ((operator, 3, 4), TypeError, "jax.random.key(3)"),
        ((operator, KEY, 2.5), TypeError, "2.5"),
        ((operator, KEY, 1), ValueError, "at least 2 samples"),
    ):
        assert word in raised(kind, of(estimate, *args))


def test_errors_of_the_network_come_with_what_it_was_given():
    for call in (eqt.empirical_ntk, eqt.empirical_nngp, eqt.explain_empirical_ntk):
        with pytest.raises(TypeError) as error:
            call(MLP, jnp.ones((4, 5)))
        assert "one example, of shape (5,)" in "".join(error.value.__notes__)


@pytest.mark.slow
def test_what_is_like_a_number_is_taken():
    count, order = np.int64(2), jnp.asarray(1)
    found = eqt.monte_carlo(NET, np.ones((2, 3), X.dtype), None, KEY, count)
    assert found.mean.ntk.shape == (2, 2)
    legacy = eqt.monte_carlo(NET, X, None, jr.PRNGKey(0), 2, kernels="nngp")
    assert legacy.mean.shape == (4, 4)
    np.testing.assert_allclose(eqt.taylorize(MLP, order)(X[0]), MLP(X[0]), rtol=1e-5)
    operator = lx.MatrixLinearOperator(jnp.eye(3))
    assert eqt.estimate_trace(operator, KEY, count).mean == 3


def test_one_default_for_traced_axes():
    functions = [*KERNELS.values(), eqt.monte_carlo, eqt.running_monte_carlo]
    for name in ("trace_axes", "trainable", "state"):
        defaults = {
            inspect.signature(function).parameters[name].default
            for function in functions
            if name in inspect.signature(function).parameters
        }
        assert defaults == {None}, name
