"""What users read who pass the wrong thing: what came, and what to write instead.

Each mistake is typed as a user would. Of its message only the substance is held.
"""

import copy
import inspect
import pickle
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from precision import by_precision


pytestmark = pytest.mark.usefixtures("without_jaxtyping")

KEY = jr.key(0)
NET = nn.Sequential([nn.Linear(64), nn.Relu(), nn.Linear(1)])
CONV = [nn.Conv(4, 3, padding="SAME"), nn.Relu()]
POOLED = nn.Sequential([*CONV, nn.GlobalAvgPool(), nn.Linear(1)])
FLAT = nn.Sequential([*CONV, nn.Flatten(), nn.Linear(1)])
GRAPH = nn.Sequential([nn.Aggregate(1), nn.GlobalAvgPool(), nn.Linear(1)])
MLP = eqx.nn.MLP(3, 1, 8, 1, key=KEY)


def inputs():
    return jr.normal(KEY, (4, 3))


def images():
    return jr.normal(KEY, (4, 2, 6))


def edges():
    return nn.Edges(*np.zeros((2, 4, 5), int), np.ones((4, 5), images().dtype))


def attention(**options):
    sizes = {"key_channels": 4, "value_channels": 4, "heads": 2} | options
    return nn.GlobalSelfAttention(8, **sizes)


def shared_weights():
    layer = nn.Linear(8).init((3,), key=KEY)
    return nn.Sequential([nn.FanOut(2), nn.Parallel([layer, layer]), nn.FanInSum()])


def dots(constant):
    return eqt.nngp(nn.DotGeneral(rhs=constant), inputs())[0, 0]


# The attempt, its error, and what the message has in it.
MISTAKES = {
    # Names of other libraries and of older versions.
    "functions of the reference": (
        lambda: eqt.empirical_ntk_fn,  # pyright: ignore[reportAttributeAccessIssue]
        AttributeError,
        ["`empirical_ntk_fn`", "eqt.empirical_ntk(model"],
    ),
    "predictors of the reference": (
        lambda: eqt.predict.gp_inference,  # pyright: ignore[reportAttributeAccessIssue]
        AttributeError,
        ["`gp_inference`", "`predict.GaussianProcess`"],
    ),
    "a name misspelt": (
        lambda: eqt.taylorise,  # pyright: ignore[reportAttributeAccessIssue]
        AttributeError,
        ["`taylorise`", "eqt.taylorize"],
    ),
    "a layer of the reference, of the package": (
        lambda: eqt.Dense,  # pyright: ignore[reportAttributeAccessIssue]
        AttributeError,
        ["`eqtangents` has no `Dense`", "`eqt.nn.Linear`"],
    ),
    "a part that is not imported": (
        lambda: eqt.nn.estimators,  # pyright: ignore[reportAttributeAccessIssue]
        AttributeError,
        ["`from eqtangents import estimators`"],
    ),
    "an estimator of another part": (
        lambda: eqt.predict.NtkRegressor,  # pyright: ignore[reportAttributeAccessIssue]
        AttributeError,
        ["`from eqtangents.estimators import NTKRegressor`"],
    ),
    "a name of another part misspelt": (
        lambda: eqt.theory.correlationmaps,  # pyright: ignore[reportAttributeAccessIssue]
        AttributeError,
        ["Did you mean `eqt.mean_field.CorrelationMap`?"],
    ),
    # Models.
    "class of models": (
        lambda: eqt.from_equinox(eqx.nn.MLP),
        TypeError,
        ["`model`", "class `MLP`", "instance"],
    ),
    "batch as an example": (
        lambda: eqt.from_equinox(MLP, inputs().astype(jnp.float32)),
        ValueError,
        ["`example`", "(4, 3)", "`example[0]`", "batch"],
    ),
    "function that mixes entries": (
        lambda: nn.Elementwise(jax.nn.softmax),
        ValueError,
        ["softmax", "each entry by itself", "changes what becomes of others"],
    ),
    "key in place of inputs": (
        lambda: eqt.monte_carlo(NET, inputs(), jr.key(0), 10),
        TypeError,
        ["monte_carlo", "'n_samples'", "`x1`, `x2`, `key`, `n_samples`"],
    ),
    "axes of the reference": (
        lambda: eqt.empirical_ntk(MLP, inputs(), vmap_axes=0),
        TypeError,
        ["`vmap_axes`", "leading axis"],
    ),
    "negative noise of an operator": (
        lambda: eqt.GramOperator(jnp.eye(4), noise=-0.1),
        RuntimeError,
        ["`noise`"],
    ),
    "equations of what is not finite": (
        lambda: eqt.solve(eqt.GramOperator(jnp.eye(4), noise=0.1), np.full(4, np.nan)),
        RuntimeError,
        ["`y`", "NaN"],
    ),
    "a name for a deviation": (
        lambda: eqt.from_equinox(MLP, weight_std="1"),
        TypeError,
        ["`weight_std`", "'1'", "number"],
    ),
    "time after the kernel": (
        lambda: eqt.predict.GradientDescentMSE(
            jnp.eye(2), jnp.ones((2, 1))
        ).test_outputs(-jnp.eye(2), 1.0),
        RuntimeError,
        ["`t`", "at least zero", "time comes first"],
    ),
    # Arguments of kernels.
    "Equinox model": (
        lambda: eqt.ntk(MLP, inputs()),
        TypeError,
        ["`net`", "`MLP`", "eqt.from_equinox(model", "empirical_ntk"],
    ),
    "list of layers": (
        lambda: eqt.ntk([nn.Linear(1)], inputs()),
        TypeError,
        ["`net`", "list", "nn.Sequential(["],
    ),
    "swapped": (
        lambda: eqt.ntk(inputs(), NET),
        TypeError,
        ["`net`", "`x1`", "swapped"],
    ),
    "swapped for NumPy": (
        lambda: eqt.kernel(np.ones((2, 3)), NET, np.ones((2, 3))),
        TypeError,
        ["`net`", "`x1`", "swapped"],
    ),
    "class": (
        lambda: eqt.ntk(nn.Linear, inputs()),
        TypeError,
        ["class `Linear`", "instance", "`Linear()`"],
    ),
    "function": (
        lambda: eqt.ntk(jnp.tanh, inputs()),
        TypeError,
        ["`tanh`", "Elementwise"],
    ),
    "triple of stax": (
        lambda: eqt.ntk((lambda: 0, lambda: 0, lambda: 0), inputs()),
        TypeError,
        ["tuple of 3", "Neural Tangents"],
    ),
    "no network": (lambda: eqt.ntk(None, inputs()), TypeError, ["`net`", "`None`"]),
    "no inputs": (lambda: eqt.ntk(NET, None), TypeError, ["`x1`", "`None`"]),
    "nested lists": (
        lambda: eqt.ntk(NET, inputs().tolist()),
        TypeError,
        ["`x1`", "list of 4", "jnp.asarray(x1)"],
    ),
    "number": (lambda: eqt.ntk(NET, 1.0), TypeError, ["`x1`", "1.0", "batch"]),
    "dict": (
        lambda: eqt.ntk(NET, {"x": inputs()}),
        TypeError,
        ["`x1`", "dict", "tuple"],
    ),
    "numbers as x2": (
        lambda: eqt.ntk(NET, inputs(), [[1.0, 2.0, 3.0]]),
        TypeError,
        ["`x2`", "list", "jnp.asarray(x2)"],
    ),
    "third argument": (
        lambda: eqt.kernel(NET, inputs(), "ntk"),
        TypeError,
        ["`x2`", "'ntk'", ".ntk", "eqt.ntk("],
    ),
    "both names": (
        lambda: eqt.kernel(NET, inputs(), ("nngp", "ntk")),
        TypeError,
        ["`x2`", ".nngp", ".ntk"],
    ),
    "fourth argument": (
        lambda: eqt.kernel(NET, inputs(), None, "ntk"),
        TypeError,
        ["'ntk'", ".ntk", "eqt.ntk("],
    ),
    "get": (
        lambda: eqt.kernel(NET, inputs(), get="ntk"),
        TypeError,
        ["`get`", ".ntk", "eqt.ntk("],
    ),
    "key to a kernel": (
        lambda: eqt.nngp(NET, inputs(), key=KEY),
        TypeError,
        ["`key`", "monte_carlo"],
    ),
    "key for inputs": (
        lambda: eqt.ntk(NET, KEY),
        TypeError,
        ["`x1`", "random key", "monte_carlo"],
    ),
    "words in an array": (
        lambda: eqt.ntk(NET, np.array([["a"]])),
        TypeError,
        ["`x1`", "<U1", "batch"],
    ),
    "placeholder": (
        lambda: eqt.ntk(NET, jax.ShapeDtypeStruct((4, 3), jnp.float32)),
        TypeError,
        ["`x1`", "placeholder", "eval_shape"],
    ),
    "list of examples": (
        lambda: eqt.ntk(NET, [*inputs()]),
        ValueError,
        ["jnp.stack(x)"],
    ),
    "network as x2": (
        lambda: eqt.ntk(NET, inputs(), NET),
        TypeError,
        ["`x2`", "Sequential"],
    ),
    "one example": (lambda: eqt.ntk(NET, inputs()[0]), ValueError, ["(3,)", "x[None]"]),
    "integers": (
        lambda: eqt.ntk(NET, np.ones((4, 3), int)),
        ValueError,
        ["int", "astype(jnp.float32)"],
    ),
    "no channels": (
        lambda: eqt.ntk(NET, inputs()[:, :0]),
        ValueError,
        ["`x1`", "(4, 0)", "no channels"],
    ),
    "no positions": (
        lambda: eqt.ntk(POOLED, images(), images()[..., :0]),
        ValueError,
        ["`x2`", "(4, 2, 0)", "no positions"],
    ),
    "no channels of images": (
        lambda: eqt.ntk(POOLED, images()[:, :0]),
        ValueError,
        ["no channels"],
    ),
    "NaN": (
        lambda: eqt.ntk(NET, inputs().at[2].set(jnp.nan)),
        ValueError,
        ["`x1`", "NaN", "1 of its 4 examples: 2", "jnp.isfinite"],
    ),
    "infinite x2": (
        lambda: eqt.nngp(NET, inputs(), inputs().at[:, 0].set(jnp.inf)),
        ValueError,
        ["`x2`", "infinite", "4 of its 4"],
    ),
    "NaN where the mask is true": (
        lambda: eqt.ntk(
            POOLED, nn.Masked(images().at[1, 0, 2].set(jnp.nan), jnp.ones((4, 6), bool))
        ),
        ValueError,
        ["`x1`", "NaN", "examples: 1"],
    ),
    "NaN in a graph": (
        lambda: eqt.ntk(GRAPH, nn.Graph(images(), jnp.full((4, 6, 6), jnp.nan))),
        ValueError,
        ["`x1`", "edges", "NaN"],
    ),
    "graph on one side": (
        lambda: eqt.ntk(GRAPH, nn.Graph(images(), jnp.ones((4, 6, 6))), images()),
        ValueError,
        ["`x1` has a graph", "`x2` none", "nn.Graph(x2, adjacency)"],
    ),
    "edges against a matrix": (
        lambda: eqt.ntk(
            GRAPH, nn.Graph(images(), jnp.ones((4, 6, 6))), nn.Graph(images(), edges())
        ),
        ValueError,
        ["two kinds", "nn.Edges"],
    ),
    "array against a tuple": (
        lambda: eqt.ntk(nn.FanInSum(), (inputs(), inputs()), inputs()),
        ValueError,
        ["`x1` is a tuple of 2", "`x2` an array of shape (4, 3)"],
    ),
    "lengths of sequences": (
        lambda: eqt.ntk(POOLED, images(), images()[..., :4]),
        ValueError,
        ["(2, 6)", "(2, 4)", "nn.Masked.pad"],
    ),
    "one image for a batch": (
        lambda: eqt.ntk(POOLED.init((2, 6), key=KEY), images().transpose(0, 2, 1)),
        nn.LayerError,
        ["layers[0] (Conv)", "2 inputs", "6 channels", "x[None]"],
    ),
    # Weights and hyperparameters.
    "shared weights": (
        lambda: eqt.kernel(shared_weights(), inputs()),
        nn.LayerError,
        ["layers[1].layers[1]", "layers[1].layers[0].weight", "independent", "init"],
    ),
    "shared weights of a model": (
        lambda: eqt.kernel(
            eqt.from_equinox(eqx.nn.Sequential([layer := MLP.layers[0], layer])),
            inputs(),
        ),
        nn.LayerError,
        ["layers[1]", "layers[0].weight"],
    ),
    "shared weights of a model, scaled": (
        lambda: eqt.kernel(
            eqt.from_equinox(
                eqx.nn.Sequential([layer := MLP.layers[0], layer]),
                parameterization="ntk",
            ),
            inputs(),
        ),
        nn.LayerError,
        ["layers[1]", "layers[0].weight"],
    ),
    "hyperparameters of a set of networks": (
        lambda: eqt.ntk(
            eqx.tree_at(
                lambda net: net.weight_std,
                nn.Linear(8, weight_std=jnp.ones(())),
                jnp.ones(4),
            ),
            inputs(),
        ),
        nn.LayerError,
        ["`weight_std`", "(4,)", "filter_vmap"],
    ),
    "negative standard deviation": (
        lambda: nn.Linear(8, weight_std=-1.0),
        ValueError,
        ["Linear", "`weight_std`", "-1.0", "not negative"],
    ),
    "negative array": (
        lambda: nn.Linear(8, bias_std=jnp.array(-1.0)),
        ValueError,
        ["`bias_std`", "-1.0", "not negative"],
    ),
    "NaN for a number": (lambda: nn.Erf(np.nan), ValueError, ["Erf", "`a`", "finite"]),
    "word for a number": (
        lambda: nn.Linear(8, weight_std="he"),
        TypeError,
        ["`weight_std`", "'he'", "number"],
    ),
    "list for a number": (lambda: nn.Rbf([1.0]), TypeError, ["`gamma`", "[1.0]"]),
    "truth for a number": (
        lambda: nn.Linear(8, bias_std=True),
        TypeError,
        ["`bias_std`", "True", "bias_std=1.0"],
    ),
    "complex number": (lambda: nn.LeakyRelu(1j), TypeError, ["`negative_slope`", "1j"]),
    "array without being one": (
        lambda: nn.Linear(8, weight_std=None),
        TypeError,
        ["`weight_std`", "`None`", "number"],
    ),
    # Habits.
    "layers one by one": (
        lambda: nn.Sequential(nn.Linear(8), nn.Linear(1)),
        TypeError,
        ["one list", "nn.Sequential(["],
    ),
    "one layer": (
        lambda: nn.Sequential(nn.Linear(8)),
        TypeError,
        ["`layers`", "`Linear`", "nn.Sequential(["],
    ),
    "branches one by one": (
        lambda: nn.Parallel(nn.Linear(8), nn.Linear(1)),
        TypeError,
        ["one list", "nn.Parallel(["],
    ),
    "inputs and outputs": (
        lambda: nn.Linear(3, 8),
        TypeError,
        ["(3, 8)", "outputs alone", "`init`", "nn.Linear(8)"],
    ),
    "inputs by name": (
        lambda: nn.Linear(in_features=3, out_features=8),
        TypeError,
        ["`in_features`", "`init`"],
    ),
    "standard deviation by position": (
        lambda: nn.Linear(512, 1.5),
        TypeError,
        ["1.5", "by name", "`weight_std=`"],
    ),
    "W_std": (lambda: nn.Linear(8, W_std=1.5), TypeError, ["`W_std`", "`weight_std`"]),
    "b_std": (lambda: nn.Conv(8, 3, b_std=1), TypeError, ["`b_std`", "`bias_std`"]),
    "out_dim": (lambda: nn.Linear(out_dim=8), TypeError, ["`out_dim`", "out_features"]),
    "out_chan": (
        lambda: nn.Conv(out_chan=8, filter_shape=(3, 3)),
        TypeError,
        ["`out_chan`", "`out_channels`"],
    ),
    "filter_shape": (
        lambda: nn.Conv(8, filter_shape=(3, 3)),
        TypeError,
        ["`filter_shape`", "`kernel_size`"],
    ),
    "window_shape": (
        lambda: nn.AvgPool(window_shape=(2, 2)),
        TypeError,
        ["`window_shape`", "`kernel_size`"],
    ),
    "strides": (lambda: nn.AvgPool(2, strides=2), TypeError, ["`strides`", "`stride`"]),
    "key to a layer": (lambda: nn.Linear(8, key=KEY), TypeError, ["`key`", "init("]),
    "use_bias": (
        lambda: nn.Linear(8, use_bias=True),
        TypeError,
        ["`use_bias`", "bias_std=1.0"],
    ),
    "keep_rate": (
        lambda: nn.Dropout(keep_rate=0.9),
        TypeError,
        ["`keep_rate`", "`p`", "dropping"],
    ),
    "num_heads": (lambda: attention(num_heads=2), TypeError, ["`num_heads`", "heads"]),
    "alpha": (
        lambda: nn.LeakyRelu(alpha=0.1),
        TypeError,
        ["`alpha`", "negative_slope"],
    ),
    "do_backprop": (
        lambda: nn.Relu(do_backprop=True),
        TypeError,
        ["`do_backprop`", "leave it out"],
    ),
    "misspelt": (
        lambda: nn.Linear(8, wieght_std=1.0),
        TypeError,
        ["`wieght_std`", "mean `weight_std`"],
    ),
    "array to a constructor": (
        lambda: nn.Relu(inputs()),
        TypeError,
        ["Relu", "no arguments", "nn.Relu()"],
    ),
    "number to a constructor": (
        lambda: nn.Abs(0.1),
        TypeError,
        ["no arguments", "0.1"],
    ),
    "heads by position": (
        lambda: nn.GlobalSelfAttention(8, 4, 4, 2),
        TypeError,
        ["by name", "`heads=`"],
    ),
    # Values and kinds of arguments of constructors.
    "negative features": (lambda: nn.Linear(-1), ValueError, ["`out_features`", "-1"]),
    "no features": (lambda: nn.Linear(0), ValueError, ["`out_features`", "at least 1"]),
    "half features": (lambda: nn.Linear(8.0), TypeError, ["8.0", "integer"]),
    "true features": (lambda: nn.Linear(True), TypeError, ["True", "integer"]),
    "word of features": (lambda: nn.Conv("8", 3), TypeError, ["'8'", "integer"]),
    "no heads": (lambda: attention(heads=0), ValueError, ["`heads`", "at least 1"]),
    "no keys": (
        lambda: attention(key_channels=0),
        ValueError,
        ["`key_channels`", "at least 1"],
    ),
    "mechanism": (
        lambda: attention(mechanism="tanh"),
        ValueError,
        ["`mechanism`", "'tanh'", '"softmax"', '"abs"'],
    ),
    "embedding": (
        lambda: attention(positional="sum"),
        TypeError,
        ["`positional`", "'sum'", "PositionalEmbedding"],
    ),
    "embedding's decay": (
        lambda: nn.PositionalEmbedding(decay=0.5),
        TypeError,
        ["`decay`", "0.5", "function"],
    ),
    "embedding's kind": (
        lambda: nn.PositionalEmbedding("add"),
        ValueError,
        ["`kind`", "'add'", '"sum"'],
    ),
    "multipliers": (
        lambda: nn.Linear(8, width_multipliers=(0, 0), parameterization="standard"),
        ValueError,
        ["`width_multipliers`", "(0, 0)", "positive"],
    ),
    "one multiplier": (
        lambda: nn.Linear(8, width_multipliers=2),
        TypeError,
        ["`width_multipliers`", "2", "two"],
    ),
    "parameterization": (
        lambda: nn.Linear(8, parameterization="mup"),
        ValueError,
        ["`parameterization`", "'mup'", '"ntk"', '"standard"'],
    ),
    "word of variances": (
        lambda: nn.Conv(8, 3, tap_variances="centre"),
        TypeError,
        ["`tap_variances`", "'centre'", "(1, 2, 1)"],
    ),
    "one variance": (
        lambda: nn.Conv(8, 3, tap_variances=0.5),
        ValueError,
        ["`tap_variances`", "0.5", "one for each tap"],
    ),
    "negative variances": (
        lambda: nn.ConvLocal(8, 3, tap_variances=(1, -1, 1)),
        ValueError,
        ["`tap_variances`", "not negative"],
    ),
    "no variance": (
        lambda: nn.Conv(8, 3, tap_variances=jnp.zeros(3)),
        ValueError,
        ["`tap_variances`", "not all zero"],
    ),
    "ragged variances": (
        lambda: nn.Conv(8, 3, tap_variances=((1, 2, 1), (1, 2))),
        TypeError,
        ["`tap_variances`", "one for each tap"],
    ),
    "variances of another window": (
        lambda: nn.ConvTranspose(8, 3, tap_variances=(1, 2)),
        ValueError,
        ["`tap_variances`", "(1, 2)", "size 3"],
    ),
    "variances of one axis for another": (
        lambda: nn.Conv(8, (3, 5), tap_variances=(0, 1, 0)),
        ValueError,
        ["`tap_variances`", "(0, 1, 0)", "(3, 5)"],
    ),
    "variances of more axes": (
        lambda: eqt.nngp(nn.Conv(8, 3, tap_variances=np.ones((3, 3))), images()),
        ValueError,
        ["Conv", "`tap_variances`", "(3, 3)", "(3,)"],
    ),
    "orthogonal": (
        lambda: nn.Linear(8, weight_init="haar"),
        ValueError,
        ["`weight_init`", "'haar'", '"orthogonal"'],
    ),
    "delta-orthogonal": (
        lambda: nn.Conv(8, 3, weight_init="delta_orthogonal"),
        ValueError,
        ["`weight_init`", '"orthogonal"', "`tap_variances=(0, 1, 0)`"],
    ),
    "initialiser": (
        lambda: nn.Linear(8, kernel_init=jax.nn.initializers.orthogonal()),
        TypeError,
        ["`kernel_init` is `weight_init` here"],
    ),
    "kernel size": (
        lambda: nn.Conv(8, "SAME"),
        TypeError,
        ["`kernel_size`", "'SAME'", "positive integer"],
    ),
    "stride": (lambda: nn.AvgPool(2, 0), ValueError, ["`stride`", "0"]),
    "dilation": (lambda: nn.Conv(8, 3, dilation=(1, 0)), ValueError, ["`dilation`"]),
    "groups": (lambda: nn.GroupNorm(0), ValueError, ["`groups`", "at least 1"]),
    "padding": (
        lambda: nn.Conv(8, 3, padding="FULL"),
        ValueError,
        ["`padding`", "'FULL'", '"SAME"'],
    ),
    "padding of a transposed convolution": (
        lambda: nn.ConvTranspose(8, 3, padding="FULL"),
        ValueError,
        ["`padding`", '"SAME"'],
    ),
    "negative padding": (lambda: nn.MaxPool(2, padding=-1), ValueError, ["`padding`"]),
    "no padding": (lambda: nn.SumPool(2, padding=None), TypeError, ["`None`", "SAME"]),
    "probability": (lambda: nn.Dropout(1.0), ValueError, ["`p`", "1.0", "below 1"]),
    "array of a probability": (
        lambda: nn.Dropout(jnp.array(0.5)),
        TypeError,
        ["`p`", "0.5", "number of Python"],
    ),
    "word for a probability": (lambda: nn.Dropout("0.5"), TypeError, ["`p`", "'0.5'"]),
    "degree": (lambda: nn.Monomial(2.0), TypeError, ["`degree`", "2.0", "integer"]),
    "negative degree": (lambda: nn.Hermite(-1), ValueError, ["`degree`", "-1"]),
    "copies": (lambda: nn.FanOut(2.5), TypeError, ["`n`", "2.5", "integer"]),
    "repeats": (lambda: nn.Repeat(nn.Relu(), "3"), TypeError, ["`n`", "'3'"]),
    "repeats first": (lambda: nn.Repeat(3, nn.Relu()), TypeError, ["swapped"]),
    "window first": (lambda: nn.Conv((3, 3), 4), TypeError, ["swapped"]),
    "axis": (lambda: nn.FanInConcat("channels"), TypeError, ["`axis`", "'channels'"]),
    "axes": (lambda: nn.LayerNorm(-1), ValueError, ["`axes`", "-1", "from 0"]),
    "channels of a graph": (lambda: nn.Aggregate(0), ValueError, ["0", "from 1"]),
    "axes of a graph": (lambda: nn.Aggregate("h"), TypeError, ["`axes`", "'h'"]),
    "eps": (lambda: nn.LayerNorm(eps=-1.0), ValueError, ["`eps`", "not negative"]),
    "gains": (lambda: nn.LayerNorm(use_weight=2), TypeError, ["`use_weight`", "True"]),
    "approximation": (lambda: nn.Gelu("tanh"), TypeError, ["`approximate`", "'tanh'"]),
    "function by name": (
        lambda: nn.Elementwise("tanh"),
        TypeError,
        ["`fn`", "'tanh'", "function", "tanh"],
    ),
    "coefficients": (
        lambda: nn.Polynomial(2.0),
        TypeError,
        ["`coefficients`", "2.0", "sequence of numbers"],
    ),
    "sizes": (lambda: nn.ImageResize(4), TypeError, ["`shape`", "4", "tuple"]),
    "method": (
        lambda: nn.ImageResize((4,), "area"),
        ValueError,
        ["`method`", "'area'", '"cubic"'],
    ),
    "index": (lambda: nn.Index("0"), TypeError, ["'0'", "nn.Slice["]),
    "traced constant": (
        lambda: jax.grad(dots)(2.0),
        ValueError,
        ["DotGeneral", "`rhs`", "constant"],
    ),
    # What is no layer.
    "class of a layer": (
        lambda: nn.Sequential([nn.Relu]),
        ValueError,
        ["class `Relu`", "instance"],
    ),
    "list within a list": (
        lambda: nn.Sequential([[nn.Relu()]]),
        ValueError,
        ["list", "nn.Sequential(["],
    ),
    "layer of Equinox": (
        lambda: nn.Sequential([eqx.nn.Linear(3, 8, key=KEY)]),
        ValueError,
        ["`Linear`", "Equinox", "from_equinox"],
    ),
    "shortcut of Equinox": (
        lambda: nn.Residual(nn.Linear(3), eqx.nn.Identity()),
        ValueError,
        ["`Identity`", "from_equinox"],
    ),
    "function in a list": (
        lambda: nn.Sequential([nn.Linear(8), jax.nn.relu]),
        ValueError,
        ["relu", "nn.Elementwise(fn)"],
    ),
    "repeated function": (
        lambda: nn.Repeat(jnp.tanh, 2),
        ValueError,
        ["tanh", "nn.Elementwise(fn)"],
    ),
    "names of layers": (lambda: nn.Sequential(["relu"]), ValueError, ["'relu'"]),
    "nothing for layers": (
        lambda: nn.Sequential(None),
        TypeError,
        ["`layers`", "list"],
    ),
    # Names of layers elsewhere.
    "Dense": (lambda: nn.Dense(8), AttributeError, ["`Dense`", "`nn.Linear`"]),
    "Conv2d": (lambda: nn.Conv2d(8, 3), AttributeError, ["`Conv2d`", "`nn.Conv`"]),
    "ReLU": (lambda: nn.ReLU(), AttributeError, ["`ReLU`", "`nn.Relu`"]),
    "GELU": (lambda: nn.GELU(), AttributeError, ["`nn.Gelu`"]),
    "serial": (lambda: nn.serial(), AttributeError, ["`nn.Sequential`"]),
    "parallel": (lambda: nn.parallel(), AttributeError, ["`nn.Parallel`"]),
    "Sigmoid_like": (lambda: nn.Sigmoid_like(), AttributeError, ["`nn.SigmoidLike`"]),
    "layer_norm": (lambda: nn.layer_norm(), AttributeError, ["`nn.LayerNorm`"]),
    "Lineer": (lambda: nn.Lineer(8), AttributeError, ["mean `nn.Linear`"]),
    # Initialising and applying.
    "key and shape": (
        lambda: nn.Linear(8).init(KEY, (3,)),
        TypeError,
        ["`init`", "key first", "key=key"],
    ),
    "old key and shape": (
        lambda: NET.init(jr.PRNGKey(0), (3,)),
        TypeError,
        ["`init`", "key first", "key=key"],
    ),
    "key by position": (lambda: NET.init((3,), KEY), TypeError, ["key", "key=key"]),
    "number for a shape": (
        lambda: nn.Linear(8).init(5, key=KEY),
        TypeError,
        ["`init`", "5", "`(5,)`"],
    ),
    "array for a shape": (
        lambda: NET.init(inputs(), key=KEY),
        TypeError,
        ["(4, 3)", "x.shape[1:]"],
    ),
    "axis of examples": (
        lambda: NET.init((-1, 3), key=KEY),
        ValueError,
        ["(-1, 3)", "axis of examples"],
    ),
    "unknown size": (lambda: NET.init((None, 3), key=KEY), ValueError, ["`init`"]),
    "seed for a key": (
        lambda: NET.init((3,), key=0),
        TypeError,
        ["`key`", "jax.random.key(0)"],
    ),
    "many keys": (
        lambda: NET.init((3,), key=jr.split(KEY, 3)),
        ValueError,
        ["`key`", "(3,)", "one"],
    ),
    "no shape": (lambda: NET.init(key=KEY), TypeError, ["`init`", "x.shape[1:]"]),
    "params and input": (
        lambda: NET({}, inputs()[0]),
        TypeError,
        ["`model(x)`", "(3,)"],
    ),
    "key after the input": (
        lambda: NET(inputs()[0], KEY),
        TypeError,
        ["random key", "model(x, key=key)"],
    ),
    "list for an input": (
        lambda: NET(inputs()[0].tolist()),
        TypeError,
        ["list of 3", "jnp.asarray(x)"],
    ),
    "array to propagate": (
        lambda: nn.Linear(8).propagate(inputs()),
        TypeError,
        ["covariances", "eqt.kernel(net, x)"],
    ),
    # Inputs that are more than an array.
    "mask with channels": (
        lambda: nn.Masked(images(), jnp.ones((4, 2, 6), bool)),
        ValueError,
        ["`mask`", "(4, 2, 6)", "`(n, *spatial)`"],
    ),
    "mask of numbers": (
        lambda: nn.Masked(images(), jnp.ones((4, 6))),
        ValueError,
        ["`mask`", "float", "astype(bool)"],
    ),
    "mask first": (
        lambda: nn.Masked(jnp.ones((4, 6), bool), images()),
        ValueError,
        ["swapped", "nn.Masked(value, mask)"],
    ),
    "no mask": (lambda: nn.Masked(images(), None), TypeError, ["`mask`", "`None`"]),
    "ragged values": (
        lambda: nn.Masked([[1.0], [1.0, 2.0]], jnp.ones(2, bool)),
        TypeError,
        ["`value`", "nn.Masked.pad("],
    ),
    "mask for one example": (
        lambda: eqt.ntk(POOLED, nn.Masked(images(), jnp.ones((2, 6), bool))),
        ValueError,
        ["mask", "(2, 6)", "(4, 6)"],
    ),
    "graph first": (
        lambda: nn.Graph(edges(), images()),
        TypeError,
        ["swapped", "Graph("],
    ),
    "edges as a tuple": (
        lambda: nn.Graph(images(), tuple(edges())),
        TypeError,
        ["tuple of 3", "nn.Edges("],
    ),
    "adjacency that is not square": (
        lambda: nn.Graph(images(), jnp.ones((4, 6, 5))),
        ValueError,
        ["`adjacency`", "(4, 6, 5)", "(positions, positions)"],
    ),
    "ends of edges": (
        lambda: nn.Graph(images(), edges()._replace(senders=jnp.ones((4, 5)))),
        ValueError,
        ["`senders`", "float", "integers"],
    ),
    "weights of edges": (
        lambda: nn.Graph(images(), edges()._replace(weights=jnp.ones((4, 3)))),
        ValueError,
        ["`senders`", "(4, 5)", "(4, 3)"],
    ),
    "sequences with channels last": (
        lambda: nn.Masked.pad([jnp.ones((4, 3)), jnp.ones((7, 3))]),
        ValueError,
        ["(4, 3)", "(7, 3)", "s.T"],
    ),
    "sequences without channels": (
        lambda: nn.Masked.pad([jnp.ones(4), jnp.ones(7)]),
        ValueError,
        ["(4,)", "s[None]"],
    ),
    "no sequences": (lambda: nn.Masked.pad([]), TypeError, ["Masked.pad", "list"]),
    "names for sequences": (
        lambda: nn.Masked.pad(["ab", "c"]),
        TypeError,
        ["sequences[0]", "'ab'"],
    ),
}


@pytest.mark.parametrize(
    ("attempt", "kind", "parts"), MISTAKES.values(), ids=MISTAKES.keys()
)
def test_a_mistake_is_told(attempt, kind, parts):
    with pytest.raises(kind) as caught:
        attempt()
    message = str(caught.value)
    assert isinstance(caught.value, kind)
    assert all(part in message for part in parts), message
    assert not re.search(r"PyTreeDef|\b_[A-Z]\w+|<lambda>|object at 0x", message), (
        message
    )
    # It is raised where the user called, and not while something compiles.
    assert not re.search("filter_jit|outside of JIT", message)


MODULES = [eqt, *filter(inspect.ismodule, vars(eqt).values())]
PARTS = [
    part for part in MODULES if re.fullmatch(r"eqtangents(\.[a-z]\w*)?", part.__name__)
]


@pytest.mark.precision("float32")
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_a_name_asked_for_in_the_wrong_part_is_found(part):
    """Where it is, as `eqt.predict.FromNetwork` or by an import, whoever was asked."""
    for name in public_names(part):
        for other in PARTS:
            if name in vars(other):
                continue
            with pytest.raises(AttributeError) as told:
                getattr(other, name)
            places = re.findall(r"`(?:eqt\.|from eqtangents)[^`]*`", str(told.value))
            assert any(re.search(rf"\b{name}`", place) for place in places), told.value


def public_names(part):
    return [
        name
        for name in vars(part)
        if not name.startswith("_") and not inspect.ismodule(vars(part)[name])
    ]


# Each layer, and a constructor call that is right: all that there are.
LAYERS = {
    cls: arguments
    for cls, *arguments in [
        (nn.Linear, 8),
        (nn.Embedding, 10, 8),
        (nn.Conv, 8, 3),
        (nn.ConvLocal, 8, 3),
        (nn.ConvTranspose, 8, 3),
        (nn.AvgPool, 2),
        (nn.SumPool, 2),
        (nn.MaxPool, 2),
        (nn.GroupNorm, 2),
        (nn.FanOut, 2),
        (nn.Repeat, nn.Relu(), 2),
        (nn.Residual, nn.Relu()),
        (nn.Sequential, [nn.Relu()]),
        (nn.Parallel, [nn.Relu()]),
        (nn.Monomial, 2),
        (nn.Hermite, 2),
        (nn.RectifiedMonomial, 2),
        (nn.Polynomial, (1.0, 2.0)),
        (nn.ABRelu, 0.1, 1.0),
        (nn.Scale, 2.0),
        (nn.Prepare, jnp.tanh),
        (nn.MoveChannels, 0),
        (nn.Pad, ((1, 1, 0),)),
        (nn.Rearrange, (2, 3), (1, 0), (3, 2)),
        (nn.Unfold, (2,)),
        (nn.Recurrent, nn.Linear(2), nn.Linear(2), nn.Relu()),
        (nn.Wiring, [nn.Relu()], [[0]]),
        (nn.ImageResize, (3, None)),
        (nn.Index, 0),
        (nn.Elementwise, jnp.tanh),
        (nn.FromDual, lambda cov, var1, var2: cov),
    ]
}
ALL = [
    value
    for name, value in vars(nn).items()
    if isinstance(value, type)
    and issubclass(value, eqx.Module)
    and not name.startswith("Abstract")
]


def options_of(cls):
    """A right call of a constructor, without those of variable numbers."""
    if cls is nn.GlobalSelfAttention:
        return (8,), {"key_channels": 4, "value_channels": 4, "heads": 2}
    if cls is nn.Masked:
        return (images(), jnp.ones((4, 6), bool)), {}
    if cls is nn.Graph:
        return (images(), jnp.ones((4, 6, 6))), {}
    return LAYERS.get(cls, ()), {}


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_constructor_knows_its_arguments(cls):
    args, kwargs = options_of(cls)
    made = cls(*args, **kwargs)
    for wrong in ({"W_stdd": 1.0}, {"key": KEY}):
        (name,) = wrong
        with pytest.raises(TypeError, match=f"{cls.__name__}: takes no `{name}`"):
            cls(*args, **kwargs, **wrong)
    many = (*args, *[object()] * 20)
    with pytest.raises(TypeError, match=f"{cls.__name__}: "):
        cls(*many, **kwargs)
    if cls not in (nn.Elementwise, nn.Prepare):  # whose functions have no equal
        assert eqx.tree_equal(copy.deepcopy(made), made)
    assert eqx.tree_equal(copy.copy(made), made)
    assert "args" not in inspect.signature(cls).parameters
    assert str(inspect.signature(cls)).count(":") >= len(args)


ANYTHING = {  # which take objects of any kind, or are checked otherwise
    "index",
    "dimension_numbers",
    "dual",
    "dual_derivative",
}


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_argument_has_a_kind(cls):
    args, kwargs = options_of(cls)
    signature = inspect.signature(cls)
    for name in signature.parameters:
        if name in ANYTHING:
            continue
        bound = signature.bind(*args, **kwargs)
        bound.arguments[name] = object()
        with pytest.raises((TypeError, ValueError), match=cls.__name__):
            cls(*bound.args, **bound.kwargs)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_hyperparameter_is_one_number(cls):
    args, kwargs = options_of(cls)
    signature = inspect.signature(cls)
    for name, parameter in signature.parameters.items():
        if "Float[jaxlib._jax.Array, '']" not in str(parameter.annotation):
            continue
        if name == "coefficients":
            continue
        for shape in ((1,), (1, 1), (4,), (4, 4)):
            bound = signature.bind(*args, **kwargs)
            bound.arguments[name] = jnp.ones(shape)
            with pytest.raises(ValueError, match=re.escape(f"shape {shape}")) as caught:
                cls(*bound.args, **bound.kwargs)
            assert f"{cls.__name__}: `{name}`" in str(caught.value)
        for right in (2, 0.5, np.float32(0.5), jnp.array(0.5)):
            bound.arguments[name] = right
            assert getattr(cls(*bound.args, **bound.kwargs), name) is right


@pytest.mark.slow
def test_hyperparameters_may_be_traced_mapped_and_placeholders():
    stds = jnp.array([1.0, 2.0])
    mapped = eqx.filter_vmap(lambda s: nn.Linear(8, weight_std=s))(stds)
    kernels = eqx.filter_vmap(lambda net: eqt.nngp(net, inputs()))(mapped)
    np.testing.assert_allclose(kernels[1], 4 * kernels[0], rtol=1e-6)
    slope = jax.grad(lambda s: eqt.nngp(nn.Linear(8, weight_std=s), inputs())[0, 0])(
        3.0
    )
    np.testing.assert_allclose(slope, 2 * 3 * jnp.mean(inputs()[0] ** 2), rtol=1e-5)
    shape = eqx.filter_eval_shape(lambda s: nn.Linear(8, weight_std=s), stds[0])
    assert shape.weight_std.shape == ()
    placeholder = jax.ShapeDtypeStruct((), jnp.float32)
    assert nn.Linear(8, weight_std=placeholder).weight_std is placeholder
    moved = eqx.tree_at(lambda net: net.weight_std, nn.Linear(8, weight_std=1.0), 2.0)
    np.testing.assert_allclose(eqt.nngp(moved, inputs()), kernels[1], rtol=1e-6)


@pytest.mark.slow
def test_one_number_may_stand_in_many_layers():
    std = jnp.array(1.5)
    layers = [nn.Linear(8, weight_std=std), nn.Relu(), nn.Linear(8, weight_std=std)]
    model = nn.Sequential(layers).init((3,), key=KEY)
    fixed = [nn.Linear(8, weight_std=1.5), nn.Relu(), nn.Linear(8, weight_std=1.5)]
    np.testing.assert_allclose(
        eqt.ntk(model, inputs()), eqt.ntk(nn.Sequential(fixed), inputs()), rtol=1e-6
    )
    # A layer without parameters describes any number of layers.
    layer = nn.Linear(8)
    twice = eqt.nngp(nn.Sequential([layer, layer]), inputs())
    np.testing.assert_allclose(twice, inputs() @ inputs().T / 3, rtol=1e-4, atol=1e-6)
    # Parameters of a function are fixed, and may be shared.
    bent = nn.Polynomial(jnp.array([0.0, 1.0]))
    both = eqt.nngp(nn.Sequential([layer, bent, layer, bent, layer]), inputs())
    np.testing.assert_allclose(both, twice, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_choices_may_be_in_any_case_and_sizes_of_any_integer():
    same = nn.Conv(np.int64(4), [3], np.int32(2), "same", parameterization="NTK")
    assert eqx.tree_equal(same, nn.Conv(4, (3,), 2, "SAME"))
    np.testing.assert_array_equal(
        eqt.nngp(same, images()), eqt.nngp(nn.Conv(4, (3,), 2, "SAME"), images())
    )
    assert attention(mechanism="ReLU") == attention(mechanism="relu")
    assert nn.AvgPool([2], padding=[[1, 0]]) == nn.AvgPool((2,), padding=((1, 0),))
    assert nn.LayerNorm([0, 1]).axes == (0, 1)
    pairs = [(np.int64(3),), [3], (3,)]
    first, *others = (nn.Linear(2).init(shape, key=KEY).weight for shape in pairs)
    assert all(np.array_equal(first, other) for other in others)


def test_numpy_arrays_are_inputs():
    x = np.asarray(inputs())
    np.testing.assert_array_equal(eqt.ntk(NET, x), eqt.ntk(NET, inputs()))
    np.testing.assert_array_equal(
        eqt.nngp(NET, x, inputs()), eqt.nngp(NET, inputs(), inputs())
    )
    model = NET.init((3,), key=KEY)
    np.testing.assert_array_equal(model(x[0]), model(inputs()[0]))


def test_nothing_is_said_of_traced_values():
    bad = inputs().at[0, 0].set(jnp.nan)
    kernel = jax.jit(lambda x: eqt.nngp(NET, x))(bad)
    assert np.isnan(kernel[0, 0])
    np.testing.assert_allclose(
        kernel[1:, 1:], eqt.nngp(NET, inputs())[1:, 1:], rtol=1e-5
    )


@pytest.mark.slow
def test_values_at_missing_positions_may_be_anything():
    mask = jnp.ones((4, 6), bool).at[:, 4:].set(False)
    filled = nn.Masked(jnp.where(mask[:, None], images(), jnp.nan), mask)
    expected = eqt.ntk(POOLED, nn.Masked(images(), mask))
    np.testing.assert_array_equal(eqt.ntk(POOLED, filled), expected)
    unused = edges()._replace(
        senders=np.full((4, 5), -1), weights=np.full((4, 5), np.inf)
    )
    none = edges()._replace(senders=np.full((4, 5), -1))
    np.testing.assert_array_equal(
        eqt.ntk(GRAPH, nn.Graph(images(), unused)),
        eqt.ntk(GRAPH, nn.Graph(images(), none)),
    )


@pytest.mark.slow
def test_an_array_beside_a_mask_has_all_positions():
    mask = jnp.ones((4, 6), bool)
    expected = eqt.ntk(POOLED, nn.Masked(images(), mask), nn.Masked(images(), mask))
    for pair in (
        (nn.Masked(images(), mask), images()),
        (images(), nn.Masked(images(), mask)),
    ):
        rtol = by_precision(float64=1e-12, float32=1e-5)  # they are other programs
        np.testing.assert_allclose(eqt.ntk(POOLED, *pair), expected, rtol=rtol)
    graph = lambda value: nn.Graph(value, jnp.ones((4, 6, 6)))
    np.testing.assert_array_equal(
        eqt.nngp(GRAPH, graph(images()), graph(nn.Masked(images(), mask))),
        eqt.nngp(GRAPH, graph(images()), graph(images())),
    )


def test_a_tuple_beside_a_list_is_a_tuple():
    net = nn.Sequential([nn.Parallel([nn.Linear(8), nn.Linear(8)]), nn.FanInSum()])
    expected = 2 * inputs() @ inputs().T / 3
    for pair in (
        ((inputs(), inputs()), [inputs(), inputs()]),
        ([inputs(), inputs()], (inputs(), inputs())),
        ([inputs(), inputs()], None),
    ):
        np.testing.assert_allclose(eqt.nngp(net, *pair), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_padded_sequences_have_the_kernels_of_sequences():
    """Convolutions with zeros around them, attention and pooling see no difference."""
    net = nn.Sequential(
        [
            nn.Conv(4, 3, padding="SAME", bias_std=0.3),
            nn.Relu(),
            attention(bias_std=0.2),
            nn.LayerNorm(),
            nn.Erf(),
            nn.GlobalAvgPool(),
            nn.Linear(1),
        ]
    )
    sequences = [jr.normal(jr.key(n), (3, n)) for n in (4, 7, 2)]
    padded = nn.Masked.pad([sequences[0], np.asarray(sequences[1]), sequences[2]])
    assert padded.value.shape == (3, 3, 7)
    np.testing.assert_array_equal(padded.mask.sum(1), [4, 7, 2])
    kernel = eqt.kernel(net, padded)
    for i, one in enumerate(sequences):
        alone = eqt.kernel(net, one[None])
        np.testing.assert_allclose(kernel.nngp[i, i], alone.nngp[0, 0], rtol=1e-5)
        np.testing.assert_allclose(kernel.ntk[i, i], alone.ntk[0, 0], rtol=1e-4)
        # Of two lengths, those of both padded to the longer one alone.
        for j, other in enumerate(sequences[:i]):
            pair = eqt.kernel(net, nn.Masked.pad([one, other]))
            np.testing.assert_allclose(kernel.ntk[i, j], pair.ntk[0, 1], rtol=1e-5)
    padded = nn.Masked.pad([jnp.ones((3, 2, 5)), jnp.ones((3, 4, 1))])
    assert padded.value.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(padded.mask.sum((1, 2)), [10, 4])


PICKS = {
    "two sequences": ([0, 2], [1, 3]),
    "all combinations": np.ix_([0, 2], [1, 3]),
    "number beside a sequence": (0, [1, 2]),
    "sequence of one axis": ([0, 2],),
    "truth values": ([True, False, True, False],),
    "last axis": (..., [0, 0]),
    "repeated slice": (slice(None, None, -2), slice(1, 3)),
    "square of numbers": ([[0, 1], [2, 3]],),
    "one position": (-1, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("index", PICKS.values(), ids=PICKS.keys())
def test_positions_are_picked_as_numpy_does(index):
    x = jr.normal(KEY, (2, 3, 4, 5))
    array = tuple(np.asarray(i) if isinstance(i, list) else i for i in index)
    layer = nn.Index(index)
    expected = np.stack([np.asarray(channel)[array] for channel in x[0]])
    np.testing.assert_array_equal(layer(x[0]), expected)
    before = nn.Sequential([nn.Conv(4, (3, 3), padding="SAME"), nn.Relu()])
    kernel = np.asarray(eqt.nngp(before, x)).reshape(2, 2, 20, 20)
    at = np.arange(20).reshape(4, 5)[array]
    picked = kernel[:, :, at.ravel()][..., at.ravel()].reshape(2, 2, *at.shape * 2)
    found = eqt.nngp(nn.Sequential([before, layer]), x)
    # Another program sums the same numbers: in double precision, the last bit differs.
    rtol = by_precision(float64=1e-15, float32=0.0)
    np.testing.assert_allclose(found, picked, rtol=rtol)
    mask = jr.bernoulli(KEY, 0.7, (2, 4, 5))
    out = layer(nn.Masked(x[0], mask[0]))
    np.testing.assert_array_equal(out.mask, np.asarray(mask[0])[array])


def test_axes_that_slices_part_are_picked_as_numpy_does():
    x = jr.normal(KEY, (2, 3, 4, 5))
    for index in ((0, slice(None), [1, 2]), ([0], slice(None), [1])):
        array = tuple(np.asarray(i) if isinstance(i, list) else i for i in index)
        expected = np.stack([np.asarray(channel)[array] for channel in x])
        np.testing.assert_array_equal(nn.Index(index)(x), expected)


def test_layers_of_users_are_checked_by_their_annotations():
    class Scaled(nn.AbstractParameterless):
        factor: float

        def __call__(self, x, *, key=None):
            return self.factor * x

        def propagate(self, covariance):
            return covariance

    assert pickle.loads(pickle.dumps(nn.Linear(8))) == nn.Linear(8)
    np.testing.assert_array_equal(Scaled(2.0)(inputs()[0]), 2 * inputs()[0])
    with pytest.raises(TypeError, match="Scaled: `factor` is 'two'"):
        Scaled("two")
    with pytest.raises(TypeError, match="Scaled: `init` was given 5"):
        Scaled(2.0).init(5)
    with pytest.raises(TypeError, match=r"Scaled: was given \[1.0\]"):
        Scaled(2.0)([1.0])
