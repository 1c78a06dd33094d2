"""Finite networks in plain JAX, the same for both libraries, and their batches.

Executed by the reference's old JAX too, so it may use nothing newer.
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


# Networks, and examples in a batch. The kernel is that of the batch with another.
WORKLOADS = {
    "fc256x2-10": (lambda: fully_connected(256, 2, 10), 16),
    "fc256x10-10": (lambda: fully_connected(256, 10, 10), 16),
    "fc1024x2-10": (lambda: fully_connected(1024, 2, 10), 8),
    "fc1024x10-10": (lambda: fully_connected(1024, 10, 10), 8),
    "fc4096x2-10": (lambda: fully_connected(4096, 2, 10), 2),
    "fc4096x10-10": (lambda: fully_connected(4096, 10, 10), 1),
    "fc256x2-100": (lambda: fully_connected(256, 2, 100), 4),
    "fc256x10-100": (lambda: fully_connected(256, 10, 100), 4),
    "fc1024x2-100": (lambda: fully_connected(1024, 2, 100), 4),
    "fc1024x10-100": (lambda: fully_connected(1024, 10, 100), 2),
    "fc4096x2-100": (lambda: fully_connected(4096, 2, 100), 1),
    "resnet-10": (lambda: resnet(16, 10), 4),
    "resnet-1000": (lambda: resnet(16, 1000), 1),
    "transformer": (lambda: transformer(64, 32, 2, 10), 4),
}
TINY = {
    "fc": (lambda: fully_connected(8, 2, 3, 4), 3),
    "resnet": (lambda: resnet(2, 3, 8), 2),
    "transformer": (lambda: transformer(8, 4, 1, 3), 2),
}


def problem(name, tiny):
    """`f(params, x)` for one example, parameters and two batches, in float32."""
    make, n = (TINY if tiny else WORKLOADS)[name]
    apply, shapes, x_shape = make()
    rng = np.random.default_rng(0)
    draw = lambda shape: rng.standard_normal(shape).astype("f4")
    is_shape = lambda s: isinstance(s, tuple) and all(isinstance(i, int) for i in s)
    params = jax.tree_util.tree_map(draw, shapes, is_leaf=is_shape)
    return apply, params, draw((n, *x_shape)), draw((n, *x_shape))
