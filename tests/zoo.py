"""Models as people write them, of Equinox and as plain functions."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


nn = eqx.nn


@dataclasses.dataclass(frozen=True)
class Model:
    """How to make a model, the shape of an example, and what is recognised in it.

    `layers`: the names of the layers, in order; or `refusal`: what the error says.
    """

    make: Callable[..., Any]
    shape: tuple[int, ...]
    layers: str = ""
    refusal: str = ""
    dtype: str = ""

    def built(self) -> Any:
        """The model, with parameters that are cheap to draw."""
        random = np.random.default_rng(0)
        dtype = jnp.zeros(()).dtype

        def drawn(leaf: Any) -> Any:
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                return leaf
            fan_in = int(np.prod(leaf.shape[1:]))
            values = random.normal(size=leaf.shape) / np.sqrt(fan_in)
            return jnp.asarray(values.astype(dtype))

        shapes = eqx.filter_eval_shape(self.make, jr.key(0))
        is_struct = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
        return jax.tree.map(drawn, shapes, is_leaf=is_struct)

    def example(self) -> jax.Array:
        """An example."""
        return self.batch(1)[0]

    def batch(self, n: int) -> jax.Array:
        """Some examples: tokens, or normal numbers."""
        random, shape = np.random.default_rng(1), (n, *self.shape)
        if self.dtype:
            return jnp.asarray(random.integers(0, 11, shape), self.dtype)
        return jnp.asarray(random.normal(size=shape), jnp.zeros(()).dtype)


ZOO: dict[str, Model] = {}


def model(
    *shape: int, layers: str = "", refusal: str = "", dtype: str = ""
) -> Callable:
    """Enter a function that makes a model, given a random key, or several at once."""

    def enter(make: Callable) -> Callable:
        name = make.__name__.replace("_", " ")
        ZOO[name] = Model(make, shape, layers, refusal, dtype)
        return make

    return enter


class Called(eqx.Module):
    """Parts, and a function of them and the input that is the model's `__call__`."""

    parts: Any
    fn: Callable = eqx.field(static=True)

    def __call__(self, x, *, key=None):
        return self.fn(self.parts, x)


class ResidualBlock(eqx.Module):
    first: nn.Conv2d
    second: nn.Conv2d
    norms: list
    shortcut: nn.Conv2d | None

    def __init__(self, channels, out, stride, key):
        keys = jr.split(key, 3)
        self.first = nn.Conv2d(channels, out, 3, stride, 1, use_bias=False, key=keys[0])
        self.second = nn.Conv2d(out, out, 3, 1, 1, use_bias=False, key=keys[1])
        norm = lambda: nn.GroupNorm(2, out, channelwise_affine=False)
        self.norms, self.shortcut = [norm(), norm()], None
        if stride > 1:
            self.shortcut = nn.Conv2d(channels, out, 1, stride, key=keys[2])

    def __call__(self, x):
        h = jax.nn.relu(self.norms[0](self.first(x)))
        h = self.norms[1](self.second(h))
        return h + (x if self.shortcut is None else self.shortcut(x))


@model(
    3,
    8,
    8,
    layers="Conv Conv GroupNorm Relu Conv GroupNorm FanInSum Conv GroupNorm Relu Conv "
    "GroupNorm Conv FanInSum GlobalAvgPool Linear",
)
def resnet(key):
    keys = jr.split(key, 4)
    stem = nn.Conv2d(3, 8, 3, padding=1, key=keys[0])
    blocks = [ResidualBlock(8, 8, 1, keys[1]), ResidualBlock(8, 16, 2, keys[2])]
    head = nn.Linear(16, 1, key=keys[3])

    def call(parts, x):
        stem, blocks, head = parts
        x = stem(x)
        for block in blocks:
            x = block(x)
        return head(x.mean((1, 2)))

    return Called((stem, blocks, head), call)


@model(
    5,
    4,
    layers="Prepare Linear Learned FanInSum LayerNorm Linear Gelu Linear FanInSum "
    "GlobalAvgPool Linear",
)
def tokens_with_a_residual_mlp(key):
    keys = jr.split(key, 3)
    parts = (
        nn.Linear(4, 8, key=keys[0]),
        jnp.zeros((5, 8)),
        nn.LayerNorm(8),
        nn.MLP(8, 8, 16, 1, jax.nn.gelu, key=keys[1]),
        nn.Linear(8, 1, key=keys[2]),
    )

    def call(parts, x):
        embed, positions, norm, mlp, head = parts
        x = jax.vmap(embed)(x) + positions
        x = x + jax.vmap(mlp)(jax.vmap(norm)(x))
        return head(x.mean(0))

    return Called(parts, call)


@model(
    3,
    8,
    8,
    layers="Prepare Learned Conv Rearrange FanInConcat Learned FanInSum LayerNorm "
    "Linear Relu Linear FanInSum LayerNorm Index Linear Index",
)
def vision_transformer_without_attention(key):
    keys = jr.split(key, 3)
    parts = (
        nn.Conv2d(3, 8, 4, 4, key=keys[0]),
        jnp.zeros(8),
        jnp.zeros((5, 8)),
        [nn.LayerNorm(8, use_weight=False, use_bias=False) for _ in range(2)],
        nn.MLP(8, 8, 16, 1, key=keys[1]),
        nn.Linear(8, 1, key=keys[2]),
    )

    def call(parts, x):
        patches, token, positions, norms, mlp, head = parts
        x = patches(x).reshape(8, -1).T
        x = jnp.concatenate([token[None], x]) + positions
        x = x + jax.vmap(lambda one: mlp(norms[0](one)))(x)
        return head(jax.vmap(norms[1])(x)[0])

    return Called(parts, call)


@model(4, 4, layers="Prepare Linear Relu Flatten Linear")
def flattened_tokens(key):
    parts = nn.Linear(4, 8, key=key), nn.Linear(32, 1, key=key)
    return Called(parts, lambda p, x: p[1](jax.nn.relu(jax.vmap(p[0])(x)).ravel()))


@model(6, layers="Linear Linear Sigmoid FanInProd Linear")
def gated(key):
    parts = [nn.Linear(6, 8, key=key) for _ in range(2)], nn.Linear(8, 1, key=key)
    return Called(parts, lambda p, x: p[1](p[0][0](x) * jax.nn.sigmoid(p[0][1](x))))


@model(6, layers="Linear Linear Gelu FanInProd Linear")
def gated_by_halves(key):
    def call(parts, x):
        value, gate = jnp.split(parts[0](x), 2)
        return parts[1](value * jax.nn.gelu(gate))

    return Called((nn.Linear(6, 16, key=key), nn.Linear(8, 1, key=key)), call)


@model(6, layers="Linear Linear Sigmoid FanInProd Linear")
def gated_by_itself(key):
    def call(parts, x):
        h = parts[0](x)
        return parts[2](h * jax.nn.sigmoid(parts[1](h)))

    sizes = ((6, 8), (8, 8), (8, 1))
    return Called([nn.Linear(*size, key=key) for size in sizes], call)


@model(2, layers="Linear Scale Sin Linear Scale Sin Linear")
def siren(key):
    def call(parts, x):
        for layer in parts[:-1]:
            x = jnp.sin(30.0 * layer(x))
        return parts[-1](x)

    sizes = ((2, 8), (8, 8), (8, 1))
    return Called([nn.Linear(*size, key=key) for size in sizes], call)


@model(2, layers="Prepare Linear Relu Linear Relu Linear")
def fourier_features(key):
    def call(parts, x):
        projected = jax.lax.stop_gradient(parts[0]) @ x
        features = jnp.concatenate([jnp.sin(projected), jnp.cos(projected)])
        return parts[1](features)

    return Called((jnp.zeros((8, 2)), nn.MLP(16, 1, 16, 2, key=key)), call)


@model(2, layers="Prepare Linear Tanh Linear FanInProd")
def physics_informed(key):
    """Zero at both ends of the interval, as a boundary condition asks."""
    network = nn.MLP(2, 1, 16, 1, jnp.tanh, key=key)
    return Called(network, lambda p, x: x[0] * (1 - x[0]) * p(x))


@model(
    3,
    9,
    layers="Prepare Conv Tanh Conv Sigmoid FanInProd Conv Conv Tanh Conv Sigmoid "
    "FanInProd Conv FanInSum Conv",
)
def wavenet(key):
    filters = [nn.Conv1d(c, 8, 2, dilation=d, key=key) for c, d in ((3, 1), (8, 2))]
    gates = [nn.Conv1d(c, 8, 2, dilation=d, key=key) for c, d in ((3, 1), (8, 2))]
    skips = [nn.Conv1d(8, 8, 1, key=key) for _ in range(2)]
    parts = filters, gates, skips, nn.Conv1d(8, 1, 1, key=key)

    def call(parts, x):
        filters, gates, skips, head = parts
        total = 0.0
        for i, (filter_, gate, skip) in enumerate(
            zip(filters, gates, skips, strict=True)
        ):
            padded = jnp.pad(x, ((0, 0), (2**i, 0)))
            x = jnp.tanh(filter_(padded)) * jax.nn.sigmoid(gate(padded))
            total = total + skip(x)
        return head(total)

    return Called(parts, call)


@model(5, 3, layers="Prepare Linear Relu Linear GlobalSumPool Linear Relu Linear")
def deep_sets(key):
    parts = nn.MLP(3, 16, 16, 1, key=key), nn.MLP(16, 1, 16, 1, key=key)
    return Called(parts, lambda p, x: p[1](jax.vmap(p[0])(x).sum(0)))


@model(7, layers="Linear Relu Linear Linear Relu Linear")
def autoencoder(key):
    parts = nn.MLP(7, 3, 16, 1, key=key), nn.MLP(3, 7, 16, 1, key=key)
    return Called(parts, lambda p, x: p[1](p[0](x)))


class LowRank(eqx.Module):
    base: nn.Linear
    down: jax.Array
    up: jax.Array

    def __call__(self, x):
        return self.base(x) + 2.0 * (self.up @ (self.down @ x))


@model(
    6,
    layers="Linear Linear Linear Scale FanInSum Relu Linear Linear Linear Scale "
    "FanInSum",
)
def low_rank_adapters(key):
    def adapted(channels, out):
        base = nn.Linear(channels, out, key=key)
        return LowRank(base, jnp.zeros((4, channels)), jnp.zeros((out, 4)))

    parts = adapted(6, 8), adapted(8, 1)
    return Called(parts, lambda p, x: p[1](jax.nn.relu(p[0](x))))


@model(
    3,
    8,
    8,
    layers="Conv Relu Conv Relu Conv Relu Pad Conv Relu FanInConcat Conv",
)
def unet(key):
    parts = (
        nn.Conv2d(3, 8, 3, padding=1, key=key),
        nn.Conv2d(8, 8, 3, 2, 1, key=key),
        nn.Conv2d(8, 8, 3, padding=1, key=key),
        nn.ConvTranspose2d(8, 8, 2, 2, key=key),
        nn.Conv2d(16, 1, 3, padding=1, key=key),
    )

    def call(parts, x):
        first, down, middle, up, last = parts
        high = jax.nn.relu(first(x))
        low = jax.nn.relu(middle(jax.nn.relu(down(high))))
        return last(jnp.concatenate([high, jax.nn.relu(up(low))]))

    return Called(parts, call)


@model(
    3,
    8,
    8,
    layers="Conv Conv LayerNorm Linear Gelu Linear Scale FanInSum GlobalAvgPool Linear",
)
def convnext_block(key):
    parts = (
        nn.Conv2d(3, 8, 2, 2, key=key),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, key=key),
        nn.LayerNorm(8, use_weight=False, use_bias=False),
        (nn.Linear(8, 32, key=key), nn.Linear(32, 8, key=key)),
        nn.Linear(8, 1, key=key),
    )

    def call(parts, x):
        stem, depthwise, norm, (widen, narrow), head = parts
        x = stem(x)
        y = depthwise(x).transpose(1, 2, 0)
        one = lambda v: narrow(jax.nn.gelu(widen(norm(v))))
        y = jax.vmap(jax.vmap(one))(y)
        return head((x + (LAYER_SCALE * y).transpose(2, 0, 1)).mean((1, 2)))

    return Called(parts, call)


LAYER_SCALE = 1e-6


@model(4, 6, refusal="multiplies positions by weights that all channels share")
def mixer(key):
    parts = [nn.Linear(*size, key=key) for size in ((6, 8), (4, 4), (8, 1))]

    def call(parts, x):
        x = jax.vmap(parts[0])(x)
        x = x + jax.vmap(parts[1], 1, 1)(jax.nn.relu(x))
        return parts[2](x.mean(0))

    return Called(parts, call)


@model(6, refusal="uses `parts[1].weight` more than once there")
def tied(key):
    parts = [nn.Linear(*size, key=key) for size in ((6, 8), (8, 8), (8, 1))]

    def call(parts, x):
        x = jax.nn.relu(parts[0](x))
        for _ in range(2):
            x = jax.nn.relu(parts[1](x))
        return parts[2](x)

    return Called(parts, call)


@model(
    6,
    layers="Linear Relu Linear FanInSum Relu Linear FanInSum Relu Linear FanInSum "
    "Linear",
)
def scanned(key):
    stacked = eqx.filter_vmap(lambda k: nn.Linear(8, 8, key=k))(jr.split(key, 3))
    parts = nn.Linear(6, 8, key=key), stacked, nn.Linear(8, 1, key=key)

    def call(parts, x):
        first, stacked, last = parts
        arrays, rest = eqx.partition(stacked, eqx.is_array)
        step = lambda x, one: (x + eqx.combine(one, rest)(jax.nn.relu(x)), None)
        return last(jax.lax.scan(step, first(x), arrays)[0])

    return Called(parts, call)


@model(6, layers="Linear Scale ABRelu Linear")
def sums_of_one_value(key):
    def call(parts, x):
        x = parts[0](x)
        x = x + x - 0.5 * x
        return parts[1](jax.nn.relu(x) + x)

    return Called((nn.Linear(6, 8, key=key), nn.Linear(8, 1, key=key)), call)


@model(3, 8, 8, layers="Prepare Linear Relu Flatten Linear")
def patches_by_hand(key):
    def call(parts, x):
        x = x.reshape(3, 2, 4, 2, 4).transpose(1, 3, 2, 4, 0).reshape(-1, 48)
        return parts[1](jax.nn.relu(jax.vmap(parts[0])(x)).reshape(-1))

    return Called((nn.Linear(48, 8, key=key), nn.Linear(32, 1, key=key)), call)


@model(3, 4, 4, layers="Conv Relu Unfold Linear GlobalAvgPool Linear")
def merged_patches(key):
    """Neighbouring positions are merged by one layer, as in a Swin transformer."""
    sizes = (32, 16), (16, 1)
    parts = (
        nn.Conv2d(3, 8, 3, padding=1, key=key),
        [nn.Linear(*size, key=key) for size in sizes],
    )

    def call(parts, x):
        x = jax.nn.relu(parts[0](x)).reshape(8, 2, 2, 2, 2)
        x = x.transpose(1, 3, 2, 4, 0).reshape(2, 2, 32)
        x = jax.vmap(jax.vmap(parts[1][0]))(x)
        return parts[1][1](x.mean((0, 1)))

    return Called(parts, call)


@model(5, 3, refusal="takes statistics over the channels")
def softmax_inside(key):
    def call(parts, x):
        return parts[1](jax.nn.softmax(jax.vmap(parts[0])(x)).mean(0))

    return Called((nn.Linear(3, 8, key=key), nn.Linear(8, 1, key=key)), call)


@model(5, 4, refusal="divides scores of attention by the root")
def attention(key):
    parts = nn.Linear(4, 8, key=key), nn.MultiheadAttention(2, 8, key=key)

    def call(parts, x):
        x = jax.vmap(parts[0])(x)
        return x + parts[1](x, x, x)

    return Called(parts, call)


@model(3, 8, layers="Prepare Conv Relu Index Conv AvgPool Index Index Flatten Linear")
def circular_and_pooled(key):
    parts = (
        nn.Conv1d(3, 8, 3, key=key),
        nn.AvgPool1d(2, 2),
        nn.Conv1d(8, 4, 3, key=key),
        nn.Linear(12, 1, key=key),
    )

    def call(parts, x):
        first, pool, second, head = parts
        wrap = lambda x: jnp.pad(x, ((0, 0), (1, 1)), mode="wrap")
        x = pool(second(wrap(jax.nn.relu(first(wrap(x))))))
        return head(x[:, ::-1][:, 1:].ravel())

    return Called(parts, call)


@model(3, 8, 8, layers="Conv Relu AvgPool GlobalAvgPool Linear")
def pooled_by_hand(key):
    def call(parts, x):
        x = jax.nn.relu(parts[0](x)).reshape(8, 4, 2, 4, 2).mean((2, 4))
        return parts[1](x.mean((1, 2)))

    parts = nn.Conv2d(3, 8, 3, padding=1, key=key), nn.Linear(8, 1, key=key)
    return Called(parts, call)


@model(6, layers="Linear Relu Dropout Linear")
def dropout(key):
    def call(parts, x):
        return parts[2](parts[1](jax.nn.relu(parts[0](x)), key=jr.key(0)))

    parts = nn.Linear(6, 8, key=key), nn.Dropout(0.25), nn.Linear(8, 1, key=key)
    return Called(parts, call)


@model(5, 4, layers="Prepare Linear Relu Linear Relu Linear MoveChannels")
def an_output_for_each_token(key):
    network = nn.MLP(4, 2, 8, 2, key=key)
    return Called(network, lambda p, x: jax.vmap(p)(x))


@model(6, refusal="computes with parameters alone")
def weight_normalised(key):
    def call(parts, x):
        weight = parts[0].weight
        return parts[1]((weight / (1e-6 + jnp.abs(weight))) @ x)

    return Called((nn.Linear(6, 8, key=key), nn.Linear(8, 1, key=key)), call)


# Models whose widths are an argument, so that they can be made wide.


def linears(key, *sizes, **options):
    keys = jr.split(key, len(sizes))
    return [
        nn.Linear(*size, key=one, **options)
        for size, one in zip(sizes, keys, strict=True)
    ]


@model(6, dtype="int32", layers="Prepare Embedding GlobalAvgPool Linear Relu Linear")
def text_classifier(key, w=8):
    parts = nn.Embedding(11, w, key=key), nn.MLP(w, 1, w, 1, key=key)
    return Called(parts, lambda p, x: p[1](jax.vmap(p[0])(x).mean(0)))


def attend(q, k, v, heads, mask=None):
    """Attention with the scaling that has a limit."""
    split = lambda x: x.reshape(x.shape[0], heads, -1)
    q, k, v = map(split, (q, k, v))
    scores = jnp.einsum("phd,qhd->hpq", q, k) / q.shape[-1]
    if mask is not None:
        scores = jnp.where(mask[None], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores)
    return jnp.einsum("hpq,qhd->phd", weights, v).reshape(q.shape[0], -1)


class GPTBlock(eqx.Module):
    norms: list
    qkv: nn.Linear
    out: nn.Linear
    mlp: nn.MLP

    def __init__(self, w, key):
        keys = jr.split(key, 3)
        self.norms = [nn.LayerNorm(w), nn.LayerNorm(w)]
        self.qkv = nn.Linear(w, 3 * w, use_bias=False, key=keys[0])
        self.out = nn.Linear(w, w, use_bias=False, key=keys[1])
        self.mlp = nn.MLP(w, w, 4 * w, 1, jax.nn.gelu, key=keys[2])

    def __call__(self, x):
        q, k, v = jnp.split(jax.vmap(self.qkv)(jax.vmap(self.norms[0])(x)), 3, -1)
        causal = jnp.tril(jnp.ones((x.shape[0], x.shape[0]), bool))
        x = x + jax.vmap(self.out)(attend(q, k, v, 2, causal))
        return x + jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))


@model(
    5,
    dtype="int32",
    layers="Prepare Embedding Learned FanInSum LayerNorm Linear Linear Linear Attend "
    "Linear FanInSum LayerNorm Linear Gelu Linear FanInSum LayerNorm Linear "
    "MoveChannels",
)
def decoder_of_tokens(key, w=8):
    """A small GPT: logits of the next token at each position."""
    keys = jr.split(key, 4)
    parts = (
        nn.Embedding(11, w, key=keys[0]),
        nn.Embedding(5, w, key=keys[1]),
        GPTBlock(w, keys[2]),
        nn.LayerNorm(w),
        nn.Linear(w, 11, use_bias=False, key=keys[3]),
    )

    def call(parts, x):
        tokens, positions, block, norm, head = parts
        x = jax.vmap(tokens)(x) + jax.vmap(positions)(jnp.arange(x.shape[0]))
        return jax.vmap(head)(jax.vmap(norm)(block(x)))

    return Called(parts, call)


@model(
    9,
    3,
    layers="Prepare Linear Linear Prepare Linear Relu Linear Linear Attend Linear "
    "FanInSum Relu Linear GlobalAvgPool",
)
def encoder_and_decoder(key, w=8):
    """Positions of the decoder attend to those of the encoder."""
    parts = linears(key, (3, w), (3, w), (w, w), (w, w), (w, w), (w, w), (w, 1))

    def call(parts, x):
        encode, decode, to_q, to_k, to_v, out, head = map(jax.vmap, parts)
        memory, x = jax.nn.relu(encode(x[:5])), decode(x[5:])
        x = x + out(attend(to_q(x), to_k(memory), to_v(memory), 2))
        return head(jax.nn.relu(x)).mean(0)

    return Called(parts, call)


@model(5, 3, layers="Prepare Linear Linear Linear Attend Linear GlobalAvgPool")
def attention_to_what_is_alike(key, w=8):
    """Queries are keys."""
    parts = linears(key, (3, w), (w, w), (w, w), (w, 1))

    def call(parts, x):
        embed, to_key, to_value, head = map(jax.vmap, parts)
        x = embed(x)
        k = to_key(x)
        return head(attend(k, k, to_value(x), 1)).mean(0)

    return Called(parts, call)


@model(5, 3, layers="Prepare Linear Linear Linear Linear Attend Linear GlobalAvgPool")
def linear_biases_of_distance(key, w=8):
    """Attention that knows distances alone (ALiBi)."""
    parts = linears(key, (3, w), (w, w), (w, w), (w, w), (w, 1))

    def call(parts, x):
        embed, to_q, to_k, to_v, head = map(jax.vmap, parts)
        x, place = embed(x), jnp.arange(5.0, dtype=x.dtype)
        distances = jnp.abs(place[:, None] - place[None])
        scores = to_q(x) @ to_k(x).T / w - 0.5 * distances
        return head(jax.nn.softmax(scores) @ to_v(x)).mean(0)

    return Called(parts, call)


RING = np.eye(6) + np.eye(6, k=1) + np.eye(6, k=-5)


@model(
    6,
    3,
    layers="Prepare Linear DotGeneral Relu Linear DotGeneral Relu GlobalAvgPool Linear",
)
def graph_network(key, w=8):
    """Sums over neighbours in a graph that is known, by its adjacency."""
    parts = linears(key, (3, w), (w, w), (w, 1))

    def call(parts, x):
        ring = jnp.asarray(RING / 3, x.dtype)
        for layer in parts[:-1]:
            x = jax.nn.relu(ring @ jax.vmap(layer)(x))
        return parts[-1](x.mean(0))

    return Called(parts, call)


@model(
    5,
    layers="Prepare Linear Relu FanInConcat Linear Relu FanInConcat Linear Relu "
    "FanInConcat Linear",
)
def densely_connected(key, w=8):
    parts = linears(key, (5, w), (w + 5, w), (2 * w + 5, w), (3 * w + 5, 1))

    def call(parts, x):
        for layer in parts[:-1]:
            x = jnp.concatenate([x, jax.nn.relu(layer(x))])
        return parts[-1](x)

    return Called(parts, call)


@model(
    3, layers="Prepare Linear Relu Linear Relu Prepare FanInConcat Linear Relu Linear"
)
def radiance_field(key, w=8):
    """Sines and cosines of the input, which is joined once more half way."""
    parts = linears(key, (15, w), (w, w), (w + 15, w), (w, 1))

    def call(parts, x):
        angles = (x[:, None] * jnp.array([1.0, 2.0], x.dtype)[None]).ravel()
        x = jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)])
        h = jax.nn.relu(parts[1](jax.nn.relu(parts[0](x))))
        return parts[3](jax.nn.relu(parts[2](jnp.concatenate([h, x]))))

    return Called(parts, call)


@model(
    3,
    8,
    8,
    layers="Conv Relu Conv Relu Prepare Conv Relu FanInConcat Conv GlobalAvgPool",
)
def inception(key, w=8):
    """Windows of several sizes, side by side."""
    keys = jr.split(key, 4)
    parts = (
        nn.Conv2d(3, w, 1, key=keys[0]),
        nn.Conv2d(3, w, 3, padding=1, key=keys[1]),
        nn.AvgPool2d(3, 1, 1),
        nn.Conv2d(3, w, 1, key=keys[2]),
        nn.Conv2d(3 * w, 1, 1, key=keys[3]),
    )

    def call(parts, x):
        one, three, pool, after, last = parts
        joined = jnp.concatenate([one(x), three(x), after(pool(x))])
        return last(jax.nn.relu(joined)).mean((1, 2))

    return Called(parts, call)


@model(
    3,
    4,
    4,
    layers="Conv Relu GlobalAvgPool Linear Relu Linear Sigmoid Rearrange FanInProd "
    "GlobalAvgPool Linear",
)
def squeeze_and_excite(key, w=8):
    keys = jr.split(key, 4)
    parts = (
        nn.Conv2d(3, w, 3, padding=1, key=keys[0]),
        nn.Linear(w, w, key=keys[1]),
        nn.Linear(w, w, key=keys[2]),
        nn.Linear(w, 1, key=keys[3]),
    )

    def call(parts, x):
        conv, squeeze, excite, head = parts
        x = jax.nn.relu(conv(x))
        gate = jax.nn.sigmoid(excite(jax.nn.relu(squeeze(x.mean((1, 2))))))
        return head((gate[:, None, None] * x).mean((1, 2)))

    return Called(parts, call)


@model(
    5,
    layers="Linear Linear Sigmoid Linear Tanh FanInProd Elementwise FanInProd FanInSum "
    "Linear Sigmoid Linear Tanh FanInProd Elementwise FanInProd FanInSum Linear",
)
def highway(key, w=8):
    """Gates choose between two branches: their products with one gate do not mix."""
    parts = linears(key, (5, w), (w, w), (w, w), (w, w), (w, w), (w, 1))

    def call(parts, x):
        first, *layers, head = parts
        x = first(x)
        for inner, gate in (layers[:2], layers[2:]):
            open_ = jax.nn.sigmoid(gate(x))
            x = open_ * jnp.tanh(inner(x)) + (1 - open_) * x
        return head(x)

    return Called(parts, call)


@model(5, refusal="joins branches that are correlated")
def highway_of_rectifiers(key, w=8):
    """Both branches have means, so that these are correlated by their gate."""
    parts = linears(key, (5, w), (5, w), (5, w), (w, 1))

    def call(parts, x):
        one, other, gate, head = parts
        open_ = jax.nn.sigmoid(gate(x))
        joined = open_ * jax.nn.relu(one(x)) + (1 - open_) * jax.nn.relu(other(x))
        return head(joined)

    return Called(parts, call)


@model(
    7,
    layers="Prepare Linear Tanh Linear Prepare Linear Relu Linear FanInProd ChannelSum "
    "Learned FanInSum MoveChannels",
)
def operator_network(key, w=8):
    """A DeepONet: a function's values meet the point at which it is asked for."""
    keys = jr.split(key)
    branch = nn.MLP(5, w, w, 1, jnp.tanh, key=keys[0])
    trunk = nn.MLP(2, w, w, 1, key=keys[1])

    def call(parts, x):
        branch, trunk, bias = parts
        return jnp.sum(branch(x[:5]) * trunk(x[5:])) / w**0.5 + bias

    return Called((branch, trunk, jnp.zeros(())), call)


@model(
    13,
    layers="Prepare Linear Relu Linear Prepare Linear Tanh Linear Rearrange FanInProd "
    "ChannelSum MoveChannels",
)
def operator_network_at_points(key, w=8):
    """Products with one branch at all points, by a product of matrices."""
    keys = jr.split(key)
    branch = nn.MLP(5, w, w, 1, jnp.tanh, key=keys[0])
    trunk = nn.MLP(2, w, w, 1, key=keys[1])

    def call(parts, x):
        branch, trunk = parts
        return jax.vmap(trunk)(x[5:].reshape(4, 2)) @ branch(x[:5]) / w**0.5

    return Called((branch, trunk), call)


@model(
    9,
    3,
    layers="Prepare Learned Linear Prepare Linear Linear Attend FanInSum Linear Relu "
    "Linear GlobalAvgPool",
)
def latents_that_attend(key, w=8):
    """As in a Perceiver: queries are trained values, which are read twice."""
    keys = jr.split(key)
    latents = jr.normal(keys[0], (4, w))
    latents = latents / jnp.sqrt(jnp.mean(latents**2))
    parts = latents, linears(keys[1], (w, w), (3, w), (3, w), (w, w), (w, 1))

    def call(parts, x):
        latents, layers = parts
        to_q, to_k, to_v, inner, head = map(jax.vmap, layers)
        h = latents + attend(to_q(latents), to_k(x), to_v(x), 1)
        return head(jax.nn.relu(inner(h))).mean(0)

    return Called(parts, call)


@model(
    5,
    layers="Linear Tanh Linear Prepare FanInProd ChannelSum Scale Learned FanInSum "
    "MoveChannels",
)
def weights_from_a_network(key, w=8):
    """A hypernetwork: the weights of a linear function of the input."""
    network = nn.MLP(5, 5, w, 1, jnp.tanh, key=key)
    parts = network, jnp.zeros(())
    return Called(parts, lambda p, x: jnp.dot(p[0](x), x) + p[1])


@model(4, layers="Linear Linear FanInSum ABRelu Linear Linear FanInConcat")
def two_heads_after_a_sum(key):
    """Of one channel and of three; the function is written with a multiple."""
    parts = linears(key, (4, 8), (4, 8), (8, 1), (8, 3))

    def call(parts, x):
        one, other, density, colour = parts
        h = one(x) + other(x)
        h = jnp.maximum(h, 0.2 * h)
        return jnp.concatenate([density(h), colour(h)])

    return Called(parts, call)


@model(6, 3, layers="Prepare Linear Recurrent Index Linear Index")
def recurrent(key, w=8):
    """Steps of a loop with one set of weights, as Elman wrote them."""
    parts = linears(key, (3, w), (w, w), (w, 1))

    def call(parts, x):
        to_state, again, head = parts
        step = lambda h, one: (jnp.tanh(again(h) + to_state(one)), None)
        return head(jax.lax.scan(step, jnp.zeros(w, x.dtype), x)[0])

    return Called(parts, call)


@model(6, 3, layers="Prepare Linear DotGeneral Linear Tanh Linear Index GlobalAvgPool")
def averages_in_a_loop(key, w=8):
    """Layers in loops, of the values of one time each: they are layers of all times."""
    parts = linears(key, (3, w), (w, w), (w, 1))

    def call(parts, x):
        first, second, head = parts

        def step(state, one):
            state = 0.7 * state + 0.3 * first(one)
            return state, state

        states = jax.lax.scan(step, jnp.zeros(w, x.dtype), x)[1]
        return jax.lax.map(lambda h: head(jnp.tanh(second(h))), states).mean(0)

    return Called(parts, call)


@model(
    6,
    3,
    layers="Prepare Linear Learned FanInSum Recurrent Linear Recurrent GlobalAvgPool "
    "Linear",
)
def recurrent_layers(key, w=8):
    """One reads the other, backwards, and all of its states are pooled."""
    keys = jr.split(key)
    parts = jr.normal(keys[0], (2, w, w)) / w**0.5, jnp.zeros(w)
    parts = *parts, linears(keys[1], (3, w), (w, w), (w, 1))

    def call(parts, x):
        (one, other), bias, (to_state, between, head) = parts

        def first(h, x):
            h = jnp.tanh(h @ one + to_state(x) + bias)
            return h, h

        def second(h, x):
            h = jax.nn.relu(between(x) + other @ h)
            return h, h

        start = jnp.zeros(w, x.dtype)
        x = jax.lax.scan(first, start, x)[1]
        return head(jax.lax.scan(second, start, x, reverse=True)[1].mean(0))

    return Called(parts, call)


@model(6, 3, refusal="it is an `nn.Recurrent`")
def gated_cells(key, w=8):
    parts = nn.GRUCell(3, w, key=key), nn.Linear(w, 1, key=key)

    def call(parts, x):
        cell, head = parts
        step = lambda state, one: (cell(one, state), None)
        return head(jax.lax.scan(step, jnp.zeros(w, x.dtype), x)[0])

    return Called(parts, call)


@model(5, 3, refusal="Take the mean over positions")
def points_and_their_maximum(key, w=8):
    parts = nn.MLP(3, w, w, 1, key=key), nn.Linear(w, 1, key=key)
    return Called(parts, lambda p, x: p[1](jax.vmap(p[0])(x).max(0)))


@model(5, refusal="uses `parts[1].weight` more than once there")
def differential_equation(key, w=8):
    """A flow by steps of Euler, all of one layer."""
    parts = linears(key, (5, w), (w, w), (w, 1))

    def call(parts, x):
        first, field, last = parts
        step = lambda x, _: (x + 0.25 * jnp.tanh(field(x)), None)
        return last(jax.lax.scan(step, first(x), None, length=4)[0])

    return Called(parts, call)


@model(
    4,
    3,
    layers="Prepare Linear Linear Linear Index DotGeneral FanInSum Relu "
    "DotGeneral Linear",
)
def messages_along_edges(key, w=8):
    """Sums over the neighbours of a graph that is known, as JAX writes them."""
    parts = linears(key, (3, w), (w, w), (w, w), (w, 1))
    senders, receivers = np.array([0, 1, 2, 3, 0]), np.array([1, 2, 3, 0, 2])

    def call(parts, x):
        embed, message, own, head = parts
        x = jax.vmap(embed)(x)
        sent = jax.vmap(message)(x)[senders]
        came = jax.ops.segment_sum(sent, receivers, num_segments=4)
        x = jax.nn.relu(jax.vmap(own)(x) + came)
        first = jnp.zeros_like(x).at[1].set(x[0])
        return head(x.at[senders].add(x[receivers]).sum(0) + first.mean(0))

    return Called(parts, call)


@model(
    6,
    3,
    layers="Prepare Linear DotGeneral Linear Relu DotGeneral Linear Relu "
    "DotGeneral GlobalAvgPool Linear",
)
def differences_of_positions(key, w=8):
    """Differences, a mean taken off, and a moving average, of one layer each."""
    parts = linears(key, (3, w), (w, w), (w, w), (w, 1))

    def call(parts, x):
        first, second, third, head = parts
        x = jax.vmap(first)(x)
        x = jax.nn.relu(jax.vmap(second)(x[1:] - x[:-1]))
        x = jax.nn.relu(jax.vmap(third)(x - x.mean(0, keepdims=True)))
        average, averages = jnp.zeros(w, x.dtype), []
        for one in x:
            average = 0.5 * average + 0.5 * one
            averages.append(average)
        return head(jnp.stack(averages).mean(0))

    return Called(parts, call)


@model(
    6,
    3,
    layers="Prepare Linear Prepare FanInProd Prepare FanInProd Relu Linear "
    "Relu GlobalSumPool Linear",
)
def some_positions_masked(key, w=8):
    parts = linears(key, (3, w), (w, w), (w, 1))
    there = np.array([True, True, False, True, False, True])

    def call(parts, x):
        first, second, head = parts
        x = jnp.where(there[:, None], jax.vmap(first)(x), 0)
        size = jnp.abs(x).shape[0]
        x = jax.nn.relu(x * jnp.arange(1.0, size + 1, dtype=x.dtype)[:, None])
        return head(jax.nn.relu(jax.vmap(second)(x)).sum(0))

    return Called(parts, call)


@model(3, 4, 4, layers="Conv GroupNorm Silu Conv FanInSum GlobalAvgPool Linear")
def gains_before_a_curved_function(key, w=8):
    """A residual network of diffusion models: `GroupNorm`, then `silu`."""
    keys = jr.split(key, 4)
    parts = (
        nn.Conv2d(3, w, 3, padding=1, key=keys[0]),
        nn.GroupNorm(2, w),
        nn.Conv2d(w, w, 3, padding=1, key=keys[1]),
        nn.Linear(w, 1, key=keys[2]),
    )

    def call(parts, x):
        first, norm, second, head = parts
        x = first(x)
        return head((x + second(jax.nn.silu(norm(x)))).mean((1, 2)))

    return Called(parts, call)


@model(5, 3, layers="Prepare Linear Linear Linear Linear Attend GlobalAvgPool Linear")
def attention_of_jax(key, w=8):
    keys = jr.split(key, 5)
    layers = [nn.Linear(w, w, use_bias=False, key=one) for one in keys[:3]]
    parts = nn.Linear(3, w, key=keys[3]), layers, nn.Linear(w, 1, key=keys[4])

    def call(parts, x):
        first, layers, head = parts
        x = jax.vmap(first)(x)
        q, k, v = (jax.vmap(one)(x).reshape(5, 2, -1) for one in layers)
        scale = 1 / q.shape[-1]
        with jax.numpy_dtype_promotion("standard"):  # its scores are of 32 bits
            x = jax.nn.dot_product_attention(q, k, v, scale=scale, is_causal=True)
        return head(x.reshape(5, -1).mean(0))

    return Called(parts, call)


@model(6, 3, refusal="uses `parts[0].weight_ih` more than once there")
def long_short_term_memory(key, w=8):
    parts = nn.LSTMCell(3, w, key=key), nn.Linear(w, 1, key=key)

    def call(parts, x):
        cell, head = parts
        state = jnp.zeros(w, x.dtype), jnp.zeros(w, x.dtype)
        for one in x:
            state = cell(one, state)
        return head(state[0])

    return Called(parts, call)


@model(5, layers="Linear Linear FanInMax Linear Linear FanInMax Linear")
def maxout(key, w=8):
    """The larger of two layers, and of two parts of the channels of one."""
    parts = linears(key, (5, w), (5, w), (w, 2 * w), (w, 1))

    def call(parts, x):
        one, other, both, head = parts
        x = both(jnp.maximum(one(x), other(x)))
        return head(jnp.maximum(x[:w], x[w:]))

    return Called(parts, call)


@model(4, 6, layers="Conv Conv FanInMin Conv Relu GlobalAvgPool Linear")
def smaller_of_two(key, w=8):
    keys = jr.split(key, 4)
    convolutions = [
        nn.Conv1d(*size, 3, padding=1, key=one)
        for size, one in zip(((4, w), (4, w), (w, w)), keys[:3], strict=True)
    ]
    parts = convolutions, nn.Linear(w, 1, key=keys[3])

    def call(parts, x):
        (one, other, after), head = parts
        return head(jax.nn.relu(after(jnp.minimum(one(x), other(x)))).mean(1))

    return Called(parts, call)


@model(5, refusal="compares branches of which one is not Gaussian")
def largest_of_three(key, w=8):
    parts = linears(key, (5, w), (5, w), (5, w), (w, 1))

    def call(parts, x):
        *three, head = parts
        return head(functools.reduce(jnp.maximum, [one(x) for one in three]))

    return Called(parts, call)


@model(
    5, layers="Linear Prepare FanInProd Linear Prepare FanInProd FanInSum Relu Linear"
)
def layers_that_the_input_chooses(key, w=8):
    parts = linears(key, (5, w), (w, w), (w, 1))

    def call(parts, x):
        first, second, head = parts
        h = jax.lax.cond(x[0] > 0, lambda h: second(h), lambda h: h, first(x))
        return head(jax.nn.relu(h))

    return Called(parts, call)


@model(6, 3, layers="Prepare Linear DotGeneral Linear Relu GlobalSumPool Linear")
def graph_isomorphism_network(key, w=8):
    """What a node has counts once more, by a number that is trained."""
    parts = linears(key, (3, w), (w, w), (w, 1)), jnp.zeros(())

    def call(parts, x):
        (embed, layer, head), more = parts
        x = jax.vmap(embed)(x)
        x = (1 + more) * x + jnp.asarray(RING, x.dtype) @ x
        return head(jax.nn.relu(jax.vmap(layer)(x)).sum(0))

    return Called(parts, call)


def each_of(stacked, *args):
    """The outputs of stacked modules."""
    return eqx.filter_vmap(lambda one: one(*args))(stacked)


@model(
    5,
    layers="Linear Relu Linear Rearrange Linear Relu Linear Rearrange FanInConcat "
    "Learned FanInSum GlobalAvgPool",
)
def deep_ensemble(key, w=8):
    """The mean of networks whose parameters are stacked."""
    members = eqx.filter_vmap(lambda k: nn.MLP(5, 1, w, 1, key=k))(jr.split(key))
    return Called(members, lambda members, x: each_of(members, x).mean(0))


@model(
    5,
    layers="Linear Rearrange Linear Rearrange FanInConcat Sigmoid Linear Relu "
    "Linear Rearrange Linear Relu Linear Rearrange FanInConcat Learned FanInSum "
    "FanInProd GlobalSumPool Linear",
)
def experts_with_gates(key, w=8):
    """Stacked experts, with a gate for each of their channels."""
    keys = jr.split(key, 3)
    experts = eqx.filter_vmap(lambda k: nn.MLP(5, w, w, 1, key=k))(jr.split(keys[0]))
    gates = eqx.filter_vmap(lambda k: nn.Linear(5, w, key=k))(jr.split(keys[1]))

    def call(parts, x):
        experts, gates, head = parts
        open_ = jax.nn.sigmoid(each_of(gates, x))
        return head((open_ * each_of(experts, x)).sum(0))

    return Called((experts, gates, nn.Linear(w, 1, key=keys[2])), call)


@model(5, refusal="over the few outputs of a router")
def mixture_of_experts(key, w=8):
    keys = jr.split(key, 3)
    experts = eqx.filter_vmap(lambda k: nn.MLP(5, w, w, 1, key=k))(jr.split(keys[0]))
    parts = nn.Linear(5, 2, key=keys[1]), experts, nn.Linear(w, 1, key=keys[2])

    def call(parts, x):
        router, experts, head = parts
        return head(jax.nn.softmax(router(x)) @ each_of(experts, x))

    return Called(parts, call)


def shuffled(x, r):
    """Channels as positions between positions, `(c r r, h, w)` to `(c, h r, w r)`."""
    c, h, w = x.shape
    x = x.reshape(c // r**2, r, r, h, w).transpose(0, 3, 1, 4, 2)
    return x.reshape(c // r**2, h * r, w * r)


@model(
    3,
    2,
    2,
    layers="Conv Relu Conv Rearrange Conv Rearrange Conv Rearrange Conv Rearrange "
    "FanInConcat Relu Rearrange Conv",
)
def pixel_shuffle(key, w=8):
    keys = jr.split(key, 3)
    parts = (
        nn.Conv2d(3, w, 3, padding=1, key=keys[0]),
        nn.Conv2d(w, 4 * w, 1, key=keys[1]),
        nn.Conv2d(w, 1, 3, padding=1, key=keys[2]),
    )

    def call(parts, x):
        first, wider, last = parts
        return last(jax.nn.relu(shuffled(wider(jax.nn.relu(first(x))), 2)))

    return Called(parts, call)


@model(3, 4, 4, layers="Conv Relu Unfold Conv Relu GlobalAvgPool Linear")
def space_to_depth(key, w=8):
    keys = jr.split(key, 3)
    parts = (
        nn.Conv2d(3, w, 3, padding=1, key=keys[0]),
        nn.Conv2d(4 * w, w, 1, key=keys[1]),
        nn.Linear(w, 1, key=keys[2]),
    )

    def call(parts, x):
        first, merged, head = parts
        x = jax.nn.relu(first(x))
        c, h, w = x.shape
        x = x.reshape(c, h // 2, 2, w // 2, 2).transpose(0, 2, 4, 1, 3)
        x = jax.nn.relu(merged(x.reshape(4 * c, h // 2, w // 2)))
        return head(x.mean((1, 2)))

    return Called(parts, call)


@model(
    3,
    2,
    layers="Prepare Linear Relu Linear Rearrange Linear Rearrange FanInConcat Relu "
    "GlobalAvgPool Linear",
)
def tokens_that_expand(key, w=8):
    """Each token becomes two, of half of the channels."""
    parts = linears(key, (2, w), (w, 2 * w), (w, 1))

    def call(parts, x):
        embed, expand, head = parts
        x = jax.vmap(expand)(jax.nn.relu(jax.vmap(embed)(x)))
        x = x.reshape(x.shape[0] * 2, -1)
        return head(jax.nn.relu(x).mean(0))

    return Called(parts, call)


class Splines(eqx.Module):
    """A sum of functions of each input, each a sum of bumps with weights of its own."""

    weights: jax.Array
    centres: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, fan_in, out, key):
        self.centres = (-1.0, 0.0, 1.0)
        size = (out, fan_in, len(self.centres))
        self.weights = jr.normal(key, size) * (fan_in * len(self.centres)) ** -0.5

    def __call__(self, x):
        bumps = jnp.stack([jnp.exp(-((x - c) ** 2)) for c in self.centres], 1)
        return jnp.einsum("oik,ik->o", self.weights, bumps)


@model(
    3,
    layers="Prepare Linear Elementwise Rearrange Flatten Elementwise Rearrange Flatten "
    "Elementwise Rearrange Flatten FanInConcat Linear",
)
def kolmogorov_arnold(key, w=8):
    keys = jr.split(key)
    parts = Splines(3, w, keys[0]), Splines(w, 1, keys[1])
    return Called(parts, lambda parts, x: parts[1](parts[0](x)))


@model(3, refusal="one function for each, written one by one")
def kolmogorov_arnold_on_a_grid(key, w=8):
    keys = jr.split(key)
    grid = jnp.linspace(-1, 1, 3)
    parts = nn.Linear(3, w, key=keys[0]), jr.normal(keys[1], (w, 3)), grid

    def call(parts, x):
        first, weights, grid = parts
        bumps = jnp.exp(-((first(x)[:, None] - grid[None]) ** 2))
        return jnp.einsum("ik,ik->", weights, bumps)

    return Called(parts, call)
