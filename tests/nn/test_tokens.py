"""Vectors for tokens: unit vectors, which are never formed."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from precision import DTYPE


COUNT, WIDTH, KEY = 7, 12, jr.key(0)
TOKENS = np.random.default_rng(0).integers(0, COUNT, (4, 1, 5))
MASK = np.arange(5) < np.array([[5], [2], [3], [1]])
STANDARD = pytest.mark.precision("float64")


def after(first):
    return nn.Sequential(
        [first, nn.Conv(WIDTH, 2, bias_std=0.3), nn.Relu(), nn.GlobalAvgPool()]
    )


def unit_vectors(tokens):
    return jax.nn.one_hot(tokens[:, 0], COUNT, axis=1, dtype=DTYPE)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_the_kernel_is_that_of_unit_vectors(masked):
    # The weights of the `Linear` are divided by the root of the number of tokens.
    embedded = after(nn.Embedding(COUNT, WIDTH, weight_std=0.7))
    linear = after(nn.Linear(WIDTH, weight_std=0.7 * COUNT**0.5))
    x = jnp.asarray(TOKENS)
    vectors = unit_vectors(x)
    if masked:
        there = jnp.asarray(MASK)
        x = nn.Masked(jnp.where(there[:, None], x, -1), there)
        vectors = nn.Masked(vectors, there)
    ours, theirs = eqt.kernel(embedded, x), eqt.kernel(linear, vectors)
    assert ours.ntk.dtype == jnp.result_type(float)
    np.testing.assert_allclose(ours.nngp, theirs.nngp, 1e-5)
    np.testing.assert_allclose(ours.ntk, theirs.ntk, 1e-5)


@STANDARD
@pytest.mark.parametrize(
    ("parameterization", "gradient"),
    [("ntk", 0.49), ("standard", 1.0), (nn.MuP(), 0.49 * WIDTH)],
)
def test_a_token_alone_has_a_kernel_by_its_parameterization(parameterization, gradient):
    net = nn.Embedding(COUNT, WIDTH, weight_std=0.7, parameterization=parameterization)
    x = jnp.arange(3)[:, None]
    kernel = eqt.kernel(net, x)
    np.testing.assert_allclose(kernel.nngp, 0.49 * np.eye(3), rtol=1e-12)
    np.testing.assert_allclose(kernel.ntk, gradient * np.eye(3), rtol=1e-12)
    model = net.init((1,), key=KEY)
    finite = eqt.empirical_ntk(model, x)
    np.testing.assert_allclose(finite, kernel.ntk, rtol=1e-12)
    deviation = jnp.std(jax.vmap(model)(jnp.arange(COUNT)[:, None]))
    assert abs(deviation / 0.7 - 1) < 5 * (2 * COUNT * WIDTH) ** -0.5


@STANDARD
def test_the_function_is_that_of_unit_vectors():
    net = nn.Embedding(COUNT, WIDTH, weight_std=0.7).init((1, 5), key=KEY)
    vectors = 0.7 * jnp.einsum("nvp,vc->ncp", unit_vectors(TOKENS), net.weight)
    for x in (jnp.asarray(TOKENS), jnp.asarray(TOKENS, DTYPE)):
        np.testing.assert_allclose(jax.vmap(net)(x), vectors, rtol=1e-12)
    one = nn.Masked(jnp.asarray(TOKENS[1]), jnp.asarray(MASK[1]))
    np.testing.assert_allclose(net(one).value, np.where(MASK[1], vectors[1], 0), 1e-12)


@pytest.mark.slow
def test_tokens_beside_other_inputs_and_batches():
    net = nn.Sequential(
        [
            nn.Parallel(
                [
                    nn.Sequential([nn.Embedding(COUNT, WIDTH), nn.GlobalAvgPool()]),
                    nn.Linear(WIDTH),
                ]
            ),
            nn.FanInSum(),
            nn.Linear(1),
        ]
    )
    tokens, features = jnp.asarray(TOKENS), jr.normal(KEY, (4, 3), jnp.float32)
    kernel = eqt.kernel(net, (tokens, features))
    assert kernel.ntk.dtype == jnp.float32
    rate = lambda parameter: parameter.shape == (COUNT, WIDTH)
    rest = eqt.ntk(net, (tokens, features), trainable=lambda p: not rate(p))
    alone = eqt.ntk(net, (tokens, features), trainable=rate)
    np.testing.assert_allclose(alone + rest, kernel.ntk, rtol=1e-5)
    parts = eqt.gram(net, (tokens, features), tile=3)
    np.testing.assert_allclose(parts, kernel.ntk, rtol=1e-5)


EMBED = nn.Embedding(COUNT, WIDTH)
REFUSED = {
    "beyond": (EMBED, TOKENS + COUNT, "has vectors for the tokens 0 to 6, but was"),
    "negative": (EMBED, TOKENS - COUNT, "given -7 to -1"),
    "fractions": (EMBED, TOKENS + 0.5, "was given fractions"),
    "no channel": (EMBED, TOKENS[:, 0], "pass `tokens[:, None]`"),
    "after another": (nn.Sequential([nn.Linear(1), EMBED]), TOKENS, "Put it first"),
    "large": (EMBED, TOKENS + 2**54, "which float"),
    "no reader": (nn.Linear(1), TOKENS, "must be a floating-point one"),
    "readout": (
        nn.Embedding(COUNT, 1, parameterization=nn.MuP(readout=True)),
        TOKENS,
        "is no readout",
    ),
    "in a branch": (
        nn.Sequential([nn.FanOut(2), nn.Parallel([EMBED, nn.Embedding(3, WIDTH)])]),
        TOKENS,
        "layers[1].layers[1] (Embedding): has vectors for the tokens 0 to 2",
    ),
}


@STANDARD
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_token_is_told(case):
    net, x, said = case
    with pytest.raises(ValueError, match=re.escape(said)):
        eqt.kernel(net, jnp.asarray(x))


def test_what_is_no_token_is_told_by_networks_of_finite_width():
    model = EMBED.init((1, 5), key=KEY)
    with pytest.raises(nn.LayerError, match="tokens 0 to 6"):
        model(jnp.asarray(TOKENS[0] + COUNT))
    # Values that are traced cannot be looked at.
    assert np.isnan(jax.vmap(model)(jnp.asarray(TOKENS + COUNT))).all()
    assert np.isnan(jax.vmap(model)(jnp.asarray(TOKENS - COUNT))).all()
    with pytest.raises(nn.LayerError, match="pass `tokens"):
        EMBED.init((3, 5), key=KEY)
    with pytest.raises(nn.LayerError, match="no parameters yet"):
        EMBED(jnp.asarray(TOKENS[0]))


def test_an_embedding_of_equinox_alone():
    theirs = eqx.nn.Embedding(COUNT, WIDTH, key=KEY)
    for parameterization in ("standard", "ntk"):
        net = eqt.from_equinox(
            theirs, weight_std=1.3, parameterization=parameterization
        )
        assert net.weight_std == 1.3
        np.testing.assert_allclose(net(jnp.array([3])), theirs(3), rtol=1e-6)
    assert eqt.from_equinox(theirs).weight_std == 1


TABLES = {
    "rows": lambda p, t: p["rows"][t] @ p["head"],
    "take": lambda p, t: jnp.take(p["rows"].T, t, axis=1).T @ p["head"],
    "scaled": lambda p, t: (4 * p["rows"])[t - 1] @ p["head"],
    "positions": lambda p, t: (
        (p["rows"][t] + p["positions"][jnp.arange(5)]) @ p["head"]
    ),
    "unit vectors": lambda p, t: jax.nn.one_hot(t, COUNT, dtype=DTYPE) @ p["rows"],
    "numbers": lambda p, t: p["numbers"][t].mean(keepdims=True),
    "flattened": lambda p, t: p["rows"][t].ravel() @ p["flat"],
}


@STANDARD
@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_rows_of_tables_are_read(name):
    model = TABLES[name]
    shapes = {
        "rows": (COUNT, WIDTH),
        "head": (WIDTH, 1),
        "positions": (5, WIDTH),
        "numbers": (COUNT,),
        "flat": (5 * WIDTH, 1),
    }
    params = {name: jr.normal(KEY, shape, DTYPE) for name, shape in shapes.items()}
    tokens = jnp.asarray(TOKENS[:, 0])
    net = eqt.from_function(model, params, tokens[0])
    assert (name != "unit vectors") == any(
        isinstance(layer, nn.Embedding) for layer in net.layers
    )
    theirs = jax.vmap(lambda t: model(params, t))(tokens)
    np.testing.assert_allclose(jax.vmap(net)(tokens), theirs, rtol=1e-9, atol=1e-9)
    nngp = eqt.nngp(net, tokens)
    assert nngp.shape[:2] == (4, 4)
    # As numbers of the other kind they are the same tokens.
    np.testing.assert_array_equal(eqt.nngp(net, tokens.astype(DTYPE)), nngp)
