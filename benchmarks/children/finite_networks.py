"""Finite networks in plain JAX, the same for both libraries, and their batches.

They run on the reference's old JAX too, so they may use nothing newer.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np


def fully_connected(width, depth, outputs, inputs=256):
    sizes = [inputs, *[width] * depth, outputs]
    shapes = [((m, n), (n,)) for m, n in itertools.pairwise(sizes)]

    def apply(params, x):
        for i, (w, b) in enumerate(params):
            x = x @ w / math.sqrt(w.shape[0]) + b
            x = jax.nn.relu(x) if i < depth else x
        return x

    return apply, shapes, (inputs,)


def conv(x, w, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x[None], w, (stride, stride), "SAME", dimension_numbers=numbers
    )
    return y[0] / math.sqrt(math.prod(w.shape[:3]))


def resnet(channels, outputs, size=32):
    """A stem, three residual blocks, two of them strided, pooling and a readout."""
    c = channels
    shapes = {"stem": (3, 3, 3, c), "blocks": [], "head": (4 * c, outputs)}
    for inner, outer in ((c, c), (c, 2 * c), (2 * c, 4 * c)):
        block = [(3, 3, inner, outer), (3, 3, outer, outer), (1, 1, inner, outer)]
        shapes["blocks"].append(block)

    def apply(params, x):
        x = conv(x, params["stem"])
        for i, (first, second, shortcut) in enumerate(params["blocks"]):
            stride = 1 if i == 0 else 2
            y = conv(jax.nn.relu(x), first, stride)
            y = conv(jax.nn.relu(y), second)
            x = y + conv(x, shortcut, stride)
        x = jnp.mean(jax.nn.relu(x), (0, 1))
        return x @ params["head"] / math.sqrt(x.shape[0])

    return apply, shapes, (size, size, 3)


def transformer(width, length, layers, outputs, heads=4):
    d = width // heads
    layer = {"qkv": [(width, heads, d)] * 3, "out": (heads, d, width)}
    layer |= {"up": (width, 4 * width), "down": (4 * width, width), "scale": (width,)}
    shapes = {"layers": [layer] * layers, "head": (width, outputs)}

    def apply(params, x):
        for p in params["layers"]:
            y = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-3)
            y = y * p["scale"]
            q, k, v = (
                jnp.einsum("td,dhk->htk", y, w) / math.sqrt(width) for w in p["qkv"]
            )
            a = jax.nn.softmax(jnp.einsum("htk,hsk->hts", q, k) / math.sqrt(d), -1)
            mixed = jnp.einsum("hts,hsk->htk", a, v)
            x = x + jnp.einsum("htk,hkd->td", mixed, p["out"]) / math.sqrt(width)
            y = jax.nn.gelu(x @ p["up"] / math.sqrt(width))
            x = x + y @ p["down"] / math.sqrt(4 * width)
        return jnp.mean(x, 0) @ params["head"] / math.sqrt(width)

    return apply, shapes, (length, width)


KINDS = {
    "fully_connected": fully_connected,
    "resnet": resnet,
    "transformer": transformer,
}


def problem(kind, sizes, n):
    """`f(params, x)` for one example, parameters and two batches, in float32."""
    apply, shapes, x_shape = KINDS[kind](**sizes)
    rng = np.random.default_rng(0)
    draw = lambda shape: rng.standard_normal(shape).astype("f4")
    is_shape = lambda s: isinstance(s, tuple) and all(isinstance(i, int) for i in s)
    params = jax.tree_util.tree_map(draw, shapes, is_leaf=is_shape)
    return apply, params, draw((n, *x_shape)), draw((n, *x_shape))
