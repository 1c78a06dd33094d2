"""Small functions of parameters and an input, to compute tangent kernels of.

Each enters parameters in its own way: through the primitives that have structure, in
orders and combinations that break it, and through the transformations of JAX.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax


class Function(NamedTuple):
    """`f(params, x)`, and the shapes of both."""

    call: Callable[[Any, Any], Any]
    params: Any
    x: tuple[int, ...]

    def draw(self, key, n):
        """Parameters, and a batch."""
        is_shape = lambda s: isinstance(s, tuple) and all(isinstance(i, int) for i in s)
        shapes, treedef = jax.tree.flatten(self.params, is_leaf=is_shape)
        keys = jr.split(key, len(shapes) + 1)
        leaves = [jr.normal(k, s) for k, s in zip(keys[1:], shapes, strict=True)]
        return treedef.unflatten(leaves), jr.normal(keys[0], (n, *self.x))


ZOO: dict[str, Function] = {}


def add(name, call, params, x=(3,)):
    assert name not in ZOO, name
    ZOO[name] = Function(call, params, x)


W, V, SQUARE = (4, 3), (3,), (3, 3)
ids = lambda x, n: (jnp.abs(x) * 7).astype(jnp.int32) % n

# Products.
add("matvec", lambda w, x: w @ x, W)
add("vecmat", lambda w, x: x @ w, (3, 4))
add("transposed", lambda w, x: w.T @ x, (3, 4))
add("inner", lambda w, x: jnp.dot(w, x), V)
add("outer", lambda w, x: jnp.outer(w, x), (2,))
add("quadratic", lambda w, x: x @ (w @ x), SQUARE)
add("twice", lambda w, x: jnp.tanh(w @ jnp.tanh(w @ x)), SQUARE)
add("twice_linear", lambda w, x: w @ (w @ x), SQUARE)
add("both_ways", lambda w, x: jnp.tanh(w @ x) + jnp.tanh(w.T @ x), SQUARE)
add("squared", lambda w, x: (w @ w) @ x, SQUARE)
add("low_rank", lambda p, x: p[0] @ (p[1] @ x), [(4, 2), (2, 3)])
add("low_rank_first", lambda p, x: (p[0] @ p[1]) @ x, [(4, 2), (2, 3)])
add("adapted", lambda p, x: (p[0] + p[1] @ p[2]) @ x, [W, (4, 1), (1, 3)])
add("sequence", lambda w, x: jnp.tanh(x @ w), (3, 2), (4, 3))
add("sequence_left", lambda w, x: jnp.tanh(w @ x), (2, 4), (4, 3))
add("pooled", lambda w, x: jnp.mean(jnp.tanh(x @ w), axis=0), (3, 2), (4, 3))
add("linear_pooled", lambda w, x: jnp.mean(x @ w, axis=0), (3, 2), (4, 3))
add("heads", lambda w, x: jnp.einsum("td,dhk->htk", x, w), (3, 2, 2), (4, 3))
add("batched", lambda w, x: jnp.einsum("bij,bj->bi", w, x), (2, 4, 3), (2, 3))
add("batched_right", lambda w, x: jnp.einsum("bj,bjk->bk", x, w), (2, 3, 4), (2, 3))
add("batched_matmul", lambda w, x: jnp.tanh(x @ w), (2, 3, 2), (2, 4, 3))
add("double_contraction", lambda w, x: jnp.tensordot(w, x, 2), (2, 3, 4), (3, 4))
add("no_contraction", lambda w, x: jnp.tensordot(w, x, 0), (2,), (3,))
add("bilinear", lambda p, x: p[0] @ jnp.outer(x, x) @ p[1], [(2, 3), (3, 2)])
add("trilinear", lambda w, x: jnp.einsum("ijk,j,k->i", w, x, x), (2, 3, 3))
add("diagonal", lambda w, x: jnp.einsum("ii,i->i", w, x), SQUARE)
add("mapped", lambda w, x: jax.vmap(lambda one: jnp.tanh(w @ one))(x), W, (2, 3))
add("mapped_params", lambda w, x: jax.vmap(jnp.dot)(w, x), (2, 3), (2, 3))

# Sums, scales and shapes.
add("affine", lambda p, x: jnp.tanh(p[0] @ x + p[1]), [W, (4,)])
add("bias_alone", lambda b, x: jnp.sin(x + b), V)
add("bias_spread", lambda b, x: jnp.sin(x + b[:, None]), (2,), (2, 3))
add("bias_shared", lambda b, x: jnp.sin(x + b), ())
add("bias_twice", lambda b, x: jnp.sin(x + b) * b, V)
add("sub", lambda w, x: jnp.sin(w - x), V)
add("sub_right", lambda w, x: jnp.sin(x - w @ x), SQUARE)
add("neg", lambda w, x: -w @ x, W)
add("scaled", lambda w, x: (0.5 * w) @ x, W)
add("scaled_after", lambda w, x: 0.5 * (w @ x), W)
add("scaled_by_data", lambda w, x: (x[0] * w) @ x, W)
add("divided", lambda w, x: (w / 3.0) @ x, W)
add("divided_by_data", lambda w, x: (w / (2 + x**2)[None]) @ x, W)
add("dividing", lambda w, x: x / (2 + w**2), V)
add("masked", lambda w, x: (w * np.tri(3)) @ x, SQUARE)
add(
    "masked_by_data",
    lambda w, x: jnp.tanh((w * (x > 0)[None].astype(x.dtype)) @ x),
    SQUARE,
)
add("gated", lambda p, x: (p[0] @ x) * jnp.tanh(p[1] @ x), [W, W])
add("elementwise", lambda w, x: w * x, V)
add("elementwise_sum", lambda p, x: p[0] * x + p[1] * x**2, [V, V])
add("product_of_two", lambda p, x: p[0] * p[1] * x, [V, V])
add("two_added", lambda p, x: (p[0] + p[1]) @ x, [W, W])
add("two_subtracted", lambda p, x: (p[0] - p[1].T) @ x, [W, (3, 4)])
add("constant_added", lambda w, x: (w + np.tri(3)) @ x, SQUARE)
add("scalar_param", lambda a, x: a * x, ())
add("scalar_scale", lambda p, x: p[0] * (p[1] @ x), [(), W])
add("temperature", lambda p, x: jax.nn.softmax((p[1] @ x) / p[0]), [(), W])
add("reshaped", lambda w, x: w.reshape(4, 3) @ x, (12,))
add("reshaped_split", lambda w, x: jnp.tensordot(w.reshape(2, 2, 3), x, 1), W)
add("reshaped_merged", lambda w, x: w.reshape(4, 6) @ x.ravel(), (4, 2, 3), (2, 3))
add("reshaped_output", lambda w, x: jnp.tanh((w @ x).reshape(2, 2)), W)
add("reshaped_twice", lambda w, x: w.reshape(4, 3) @ x + w.reshape(3, 4).T @ x, (12,))
add("raveled", lambda w, x: jnp.tanh(w.ravel()[:3] * x), (2, 2))
add("squeezed", lambda w, x: w[:, 0] @ x, (3, 1))
add("expanded", lambda w, x: w[:, None] * x[None], (2,))
add("swapped", lambda w, x: jnp.tensordot(jnp.swapaxes(w, 0, 2), x, 1), (3, 2, 4))
add("moved", lambda w, x: jnp.einsum("kji,k->ij", w, x), (3, 2, 4))
add("broadcast_first", lambda w, x: jnp.broadcast_to(w, (2, 3)) @ x, V)
add("reversed", lambda w, x: w[::-1] @ x, SQUARE)
add("reversed_both", lambda w, x: jnp.flip(w) @ x, SQUARE)
add("rolled", lambda w, x: jnp.roll(w, 1, axis=1) @ x, SQUARE)
add("tiled", lambda w, x: jnp.tile(w, (1, 3)) @ x, (2, 1))
add("repeated", lambda w, x: jnp.repeat(w, 3, axis=1) @ x, (2, 1))
add("cumsum", lambda w, x: jnp.cumsum(w, axis=0) @ x, W)
add("cumsum_reversed", lambda w, x: lax.cumsum(w, 1, reverse=True) @ x, W)
add("cumprod", lambda w, x: jnp.cumprod(w, axis=0) @ x, SQUARE)
add("summed", lambda w, x: jnp.sum(w, axis=0) @ x, SQUARE)
add("summed_all", lambda w, x: jnp.sum(w) * x, W)
add("summed_after", lambda w, x: jnp.sum(w @ x), W)
add("centred", lambda w, x: (w - jnp.mean(w, axis=1, keepdims=True)) @ x, W)
add("standardized", lambda w, x: jax.nn.standardize(w, axis=1) @ x, W)
add("weight_norm", lambda p, x: p[0] * (p[1] @ x) / jnp.linalg.norm(p[1]), [(), W])
add("symmetrized", lambda w, x: (w + w.T) @ x, SQUARE)
add("antisymmetric", lambda w, x: jnp.tanh((w - w.T) @ x), SQUARE)
add("triangle", lambda w, x: jnp.tril(w) @ x, SQUARE)
add("of_diagonal", lambda w, x: jnp.diag(w) @ x, V)
add("trace", lambda w, x: jnp.trace(w) * x, SQUARE)
add("padded", lambda w, x: jnp.pad(w, ((0, 0), (1, 1))) @ x, (2, 1))
add(
    "padded_inside",
    lambda w, x: lax.pad(w, 0.0 * w[0, 0], ((0, 0, 0), (0, 0, 1))) @ x,
    (2, 2),
)
add(
    "trimmed",
    lambda w, x: lax.pad(w, 0.0 * w[0, 0], ((0, 0, 0), (-1, 0, 0))) @ x,
    (2, 4),
)

# Parts of parameters.
add("sliced", lambda w, x: w[1:3] @ x, W)
add("sliced_strided", lambda w, x: w[:, ::2] @ x, (2, 6))
add("sliced_apart", lambda w, x: jnp.tanh(w[:2] @ x) + jnp.tanh(w[2:] @ x), W)
add("sliced_overlapping", lambda w, x: jnp.tanh(w[:3] @ x) + jnp.tanh(w[1:] @ x), W)
add("sliced_twice", lambda w, x: w[1:][:2] @ x, W)
add("row", lambda w, x: w[1] @ x, W)
add("stack", lambda w, x: jnp.tanh(w[1] @ jnp.tanh(w[0] @ x)), (2, 3, 3))
add("split", lambda w, x: jnp.stack([jnp.tanh(v @ x) for v in jnp.split(w, 2)]), W)
add("unevenly", lambda w, x: [v @ x for v in jnp.split(w, [1], axis=0)], W)
add(
    "dynamic_row",
    lambda w, x: lax.dynamic_index_in_dim(w, ids(x[0], 4), keepdims=False) * x,
    W,
)
add(
    "dynamic_slice",
    lambda w, x: lax.dynamic_slice(w, (ids(x[0], 9), jnp.int32(0)), (2, 3)) @ x,
    W,
)
add("dynamic_update", lambda w, x: lax.dynamic_update_slice(w, x[None], (1, 0)) @ x, W)
add("embedding", lambda w, x: jnp.tanh(w[ids(x, 5)]), (5, 2))
add("embedding_one", lambda w, x: w[ids(x[0], 5)], (5, 2))
add("embedding_grid", lambda w, x: jnp.tanh(w[ids(x, 5)]), (5, 2), (2, 3))
add("embedding_columns", lambda w, x: w[:, ids(x, 5)], (2, 5))
add(
    "embedding_clipped",
    lambda w, x: jnp.take(w, ids(x, 9), axis=0, mode="clip"),
    (5, 2),
)
add(
    "embedding_filled",
    lambda w, x: jnp.take(w, ids(x, 9), axis=0, mode="fill", fill_value=0),
    (5, 2),
)
add("embedding_negative", lambda w, x: w[-1 - ids(x, 5)], (5, 2))
add("embedding_summed", lambda w, x: jnp.sum(w[ids(x, 5)], axis=0), (5, 2))
add(
    "embedding_then_dense",
    lambda p, x: jnp.tanh(p[0][ids(x, 5)] @ p[1]),
    [(5, 2), (2, 3)],
)
add("tied", lambda w, x: jnp.tanh(w[ids(x, 5)]) @ w.T, (5, 2))
add("along_axis", lambda w, x: jnp.take_along_axis(w, ids(x, 4)[:, None], 0), (4, 1))
add("pairs", lambda w, x: w[ids(x, 4), ids(x + 1, 3)], W)
add("one_hot", lambda w, x: jax.nn.one_hot(ids(x, 5), 5, dtype=x.dtype) @ w, (5, 2))
add("scattered", lambda w, x: jnp.zeros_like(x, shape=(5,)).at[ids(x, 5)].add(w * x), V)
add("concatenated", lambda p, x: jnp.concatenate(p) @ x, [(1, 3), (2, 3)])
add("concatenated_inner", lambda p, x: jnp.concatenate(p, axis=1) @ x, [(2, 1), (2, 2)])
add("concatenated_data", lambda w, x: jnp.tanh(jnp.concatenate([w, x])), (2,))
add("concatenated_same", lambda w, x: jnp.concatenate([w, w, w], axis=1) @ x, (2, 1))
add("stacked", lambda p, x: jnp.stack(p) @ x, [V, V])
add("selected", lambda w, x: jnp.where(x[None] > 0, w, 0.0) @ x, SQUARE)
add("selected_between", lambda p, x: jnp.where(x[None] > 0, p[0], p[1]) @ x, [W, W])
add("selected_after", lambda w, x: jnp.where(x > 0, w @ x, x), SQUARE)
add("clamped", lambda w, x: jnp.clip(w, -0.5, 0.5) @ x, W)
add("sorted", lambda w, x: jnp.sort(w, axis=0) @ x, W)
add("largest", lambda w, x: jnp.max(w @ x), W)
add(
    "max_pooled",
    lambda w, x: lax.reduce_window(w * x, -jnp.inf, lax.max, (2,), (1,), "VALID"),
    V,
)
add(
    "sum_pooled",
    lambda w, x: lax.reduce_window(w * x, 0.0, lax.add, (2,), (1,), "VALID"),
    V,
)

# Nonlinear in the parameters.
add("exp", lambda w, x: jnp.exp(w) @ x, W)
add("softmax", lambda w, x: jax.nn.softmax(w) @ x, W)
add("polynomial", lambda w, x: (w**3 + w) @ x, W)
add("product_of_rows", lambda w, x: jnp.prod(w, axis=0) @ x, W)
add("inverse", lambda w, x: jnp.linalg.solve(w @ w.T + 3 * np.eye(3), x), SQUARE)
add("cholesky", lambda w, x: jnp.linalg.cholesky(w @ w.T + 3 * np.eye(3)) @ x, SQUARE)
add(
    "triangular",
    lambda w, x: lax.linalg.triangular_solve(
        jnp.tril(w) + 3 * np.eye(3), x[:, None], left_side=True, lower=True
    ),
    SQUARE,
)
add("fourier", lambda w, x: jnp.fft.rfft(w * x).real, V)
add("expm", lambda w, x: jax.scipy.linalg.expm(w) @ x, SQUARE)

# Convolutions, data first.
conv = functools.partial(lax.conv_general_dilated, window_strides=(1,), padding="VALID")
conv2 = functools.partial(
    lax.conv_general_dilated, window_strides=(1, 1), padding="SAME"
)
add("conv", lambda w, x: conv(x[None], w)[0], (2, 3, 2), (3, 5))
add("conv_tanh", lambda w, x: jnp.tanh(conv(x[None], w)[0]), (2, 3, 2), (3, 5))
add(
    "conv_pooled",
    lambda w, x: jnp.sum(jnp.tanh(conv(x[None], w)), axis=(0, 2)),
    (2, 3, 2),
    (3, 5),
)
add(
    "conv_linear_pooled",
    lambda w, x: jnp.sum(conv(x[None], w), axis=(0, 2)),
    (2, 3, 2),
    (3, 5),
)
add("conv_batch", lambda w, x: conv(x, w), (2, 3, 2), (2, 3, 5))
add(
    "conv_strided",
    lambda w, x: conv(x[None], w, window_strides=(2,)),
    (2, 3, 2),
    (3, 6),
)
add("conv_padded", lambda w, x: conv(x[None], w, padding=[(2, 1)]), (2, 3, 2), (3, 4))
# Not by negative padding: JAX differentiates that wrongly for batches (0.10.2).
add("conv_cropped", lambda w, x: conv(x[None, :, 1:], w), (2, 3, 2), (3, 5))
add("conv_dilated", lambda w, x: conv(x[None], w, rhs_dilation=(2,)), (2, 3, 2), (3, 6))
add(
    "conv_transposed",
    lambda w, x: conv(x[None], w, lhs_dilation=(2,), padding=[(1, 1)]),
    (2, 3, 2),
    (3, 4),
)
add(
    "conv_everything",
    lambda w, x: conv(
        x[None],
        w,
        window_strides=(2,),
        padding=[(2, 1)],
        lhs_dilation=(3,),
        rhs_dilation=(2,),
    ),
    (2, 3, 2),
    (3, 4),
)
add("conv_2d", lambda w, x: jnp.tanh(conv2(x[None], w)), (2, 2, 2, 3), (2, 3, 4))
add(
    "conv_3d",
    lambda w, x: lax.conv_general_dilated(x[None], w, (1, 1, 1), "SAME"),
    (2, 1, 2, 1, 2),
    (1, 2, 3, 2),
)
add(
    "conv_0d",
    lambda w, x: lax.conv_general_dilated(x[None], w, (), "VALID"),
    (2, 3),
    (3,),
)
add(
    "conv_last",
    lambda w, x: conv2(x[None], w, dimension_numbers=("NHWC", "HWIO", "NHWC")),
    (2, 2, 3, 2),
    (3, 2, 3),
)
add(
    "conv_mixed",
    lambda w, x: conv2(x[None], w, dimension_numbers=("NHWC", "OIHW", "NCHW")),
    (2, 3, 2, 2),
    (3, 2, 3),
)
add(
    "conv_groups",
    lambda w, x: jnp.tanh(conv(x[None], w, feature_group_count=2)),
    (4, 2, 2),
    (4, 5),
)
add(
    "conv_depthwise",
    lambda w, x: jnp.tanh(conv(x[None], w, feature_group_count=3)),
    (3, 1, 2),
    (3, 5),
)
add(
    "conv_depthwise_2",
    lambda w, x: conv(x[None], w, feature_group_count=3),
    (6, 1, 2),
    (3, 5),
)
add(
    "conv_batch_groups",
    lambda w, x: conv(x, w, batch_group_count=2),
    (4, 3, 2),
    (2, 3, 5),
)
add("conv_of_params", lambda w, x: conv(w[None], x[:, None]), (1, 5), (2, 3))
add(
    "conv_both",
    lambda p, x: conv((p[0] * x[None])[None], p[1]),
    [(1, 5), (2, 1, 3)],
    (5,),
)
add(
    "conv_transposed_filter",
    lambda w, x: conv(x[None], jnp.swapaxes(w, 0, 1)),
    (3, 2, 2),
    (3, 5),
)
add(
    "conv_flipped_filter", lambda w, x: conv(x[None], jnp.flip(w, 2)), (2, 3, 2), (3, 5)
)
add("conv_scaled_filter", lambda w, x: conv(x[None], w / 3.0), (2, 3, 2), (3, 5))
add(
    "conv_twice",
    lambda w, x: conv2(jnp.tanh(conv2(x[None], w)), w),
    (2, 2, 2, 2),
    (2, 3, 3),
)
add("conv_one", lambda w, x: jnp.tanh(jnp.convolve(x, w)), (3,), (5,))

# Transformations.
add("jit", lambda w, x: jax.jit(lambda w, x: jnp.tanh(w @ x))(w, x), W)
add(
    "jit_nested",
    lambda w, x: jax.jit(lambda w: jax.jit(jnp.transpose)(w) @ x)(w),
    (3, 4),
)
add("jit_twice", lambda w, x: (f := jax.jit(lambda v: jnp.tanh(w @ v)))(f(x)), SQUARE)
add("checkpoint", lambda w, x: jax.checkpoint(lambda w, x: jnp.tanh(w @ x))(w, x), W)
add(
    "checkpoint_nested",
    lambda w, x: jax.checkpoint(lambda x: jax.checkpoint(jnp.tanh)(w @ x))(x),
    W,
)
add("custom_jvp", lambda w, x: jax.nn.relu(w @ x), W)
add("custom_jvp_of_params", lambda w, x: jax.nn.silu(w) @ x, W)
add(
    "scan_const",
    lambda w, x: lax.scan(lambda c, _: (jnp.tanh(w @ c), None), x, None, length=3)[0],
    SQUARE,
)
add(
    "scan_layers",
    lambda w, x: lax.scan(lambda c, v: (jnp.tanh(v @ c), None), x, w)[0],
    (2, 3, 3),
)
add(
    "scan_layers_bias",
    lambda p, x: lax.scan(lambda c, v: (jnp.tanh(v[0] @ c + v[1]), None), x, p)[0],
    [(2, 3, 3), (2, 3)],
)
add(
    "scan_reverse",
    lambda w, x: lax.scan(lambda c, v: (jnp.tanh(v @ c), c), x, w, reverse=True),
    (2, 3, 3),
)
add(
    "scan_transposed",
    lambda w, x: lax.scan(lambda c, v: (jnp.tanh(v.T @ c), None), x, w)[0],
    (2, 3, 3),
)
add(
    "scan_scaled",
    lambda w, x: lax.scan(lambda c, v: (jnp.tanh(v @ c), None), x, 0.5 * w)[0],
    (2, 3, 3),
)
add(
    "scan_masked",
    lambda w, x: lax.scan(lambda c, v: (jnp.tanh(v @ c), None), x, w * np.tri(3)[None])[
        0
    ],
    (2, 3, 3),
)
add(
    "scan_reshaped",
    lambda w, x: lax.scan(lambda c, v: (jnp.tanh(v.reshape(3, 3) @ c), None), x, w)[0],
    (2, 9),
)
add(
    "scan_reshaped_const",
    lambda w, x: lax.scan(
        lambda c, _: (jnp.tanh(w.reshape(3, 3) @ c), None), x, None, length=2
    )[0],
    (9,),
)
add(
    "scan_reshaped_inside",
    lambda w, x: lax.scan(
        lambda c, _: (jnp.tanh(jnp.reshape(w, (3, 3)) @ c), c), x, None, length=2
    )[1],
    (9,),
)
add(
    "scan_sliced",
    lambda w, x: lax.scan(lambda c, v: (jnp.tanh(v[:, :3] @ c), None), x, w)[0],
    (2, 3, 4),
)
add(
    "scan_sliced_apart",
    lambda w, x: lax.scan(
        lambda c, v: (jnp.tanh(v[:3] @ c) * jnp.tanh(v[3:] @ c), None), x, w
    )[0],
    (2, 6, 3),
)
add(
    "scan_outer_slice",
    lambda w, x: lax.scan(lambda c, v: (jnp.tanh(v @ c), None), x, w[1:])[0],
    (3, 3, 3),
)
add(
    "scan_carry",
    lambda w, x: lax.scan(lambda c, _: (jnp.tanh(c * x), c), w, None, length=2)[1],
    V,
)
add(
    "scan_linear_outputs",
    lambda w, x: lax.scan(lambda c, v: (c, v @ x), x, w)[1],
    (2, 3, 3),
)
add(
    "scan_nested",
    lambda w, x: lax.scan(
        lambda c, u: (lax.scan(lambda d, v: (jnp.tanh(v @ d), None), c, u)[0], None),
        x,
        w,
    )[0],
    (2, 2, 3, 3),
)
add(
    "scan_nested_const",
    lambda w, x: lax.scan(
        lambda c, _: (
            lax.scan(lambda d, _: (jnp.tanh(w @ d), None), c, None, length=2)[0],
            None,
        ),
        x,
        None,
        length=2,
    )[0],
    SQUARE,
)
add(
    "scan_data",
    lambda w, x: lax.scan(lambda c, v: (jnp.tanh(w @ c + v), None), x[0], x)[0],
    SQUARE,
    (4, 3),
)
add(
    "scan_both",
    lambda p, x: lax.scan(lambda c, v: (jnp.tanh(v @ c + p[0] @ x), None), x, p[1])[0],
    [SQUARE, (2, 3, 3)],
)
add(
    "scan_and_outside",
    lambda w, x: jnp.tanh(
        w @ lax.scan(lambda c, _: (jnp.tanh(w @ c), None), x, None, length=2)[0]
    ),
    SQUARE,
)
add(
    "scan_of_jit",
    lambda w, x: lax.scan(
        lambda c, v: (jax.jit(lambda v, c: jnp.tanh(v @ c))(v, c), None), x, w
    )[0],
    (2, 3, 3),
)
add(
    "scan_of_checkpoint",
    lambda w, x: lax.scan(jax.checkpoint(lambda c, v: (jnp.tanh(v @ c), None)), x, w)[
        0
    ],
    (2, 3, 3),
)
add(
    "fori_loop",
    lambda w, x: lax.fori_loop(0, 2, lambda i, c: jnp.tanh(w @ c) + i, x),
    SQUARE,
)
add(
    "cond",
    lambda w, x: lax.cond(x[0] > 0, lambda w: w @ x, lambda w: jnp.tanh(w @ x), w),
    W,
)
add(
    "switch",
    lambda w, x: lax.switch(ids(x[0], 3), [lambda w: w, jnp.sin, jnp.exp], w) @ x,
    W,
)
add("map", lambda w, x: lax.map(lambda one: jnp.tanh(w @ one), x), W, (2, 3))
add("associative_scan", lambda w, x: lax.associative_scan(jnp.multiply, w * x), V)
add("gradient", lambda w, x: jax.grad(lambda x: jnp.sum(jnp.tanh(w @ x)))(x), W)
add("stop_gradient", lambda w, x: lax.stop_gradient(w) @ x + w @ x**2, W)
add(
    "rematerialized_layers",
    lambda p, x: functools.reduce(
        lambda c, v: jax.checkpoint(lambda c: jnp.tanh(v @ c))(c), p, x
    ),
    [SQUARE, SQUARE],
)


@jax.custom_vjp
def rescaled(w, x):
    return jnp.sin(w @ x)


rescaled.defvjp(
    lambda w, x: (rescaled(w, x), (w, x)),
    lambda res, ct: (jnp.outer(ct * jnp.cos(res[0] @ res[1]), res[1]), res[0].T @ ct),
)
add("custom_vjp", lambda w, x: rescaled(w, x), W)
add("custom_vjp_inside", lambda w, x: rescaled(np.tri(4) * 1.0, w @ x), W)

# Whole layers.


def attention(p, x):
    q, k, v = (jnp.einsum("td,dhk->htk", x, w) for w in p[:3])
    weights = jax.nn.softmax(jnp.einsum("htk,hsk->hts", q, k))
    return jnp.einsum("hts,hsk,hkd->td", weights, v, p[3])


def fused_attention(p, x):
    q, k, v = jnp.split(x @ p[0], 3, axis=1)
    return jax.nn.softmax(q @ k.T) @ v @ p[1]


def gru(p, x):
    def step(h, v):
        r, z = jax.nn.sigmoid(p[0] @ v + p[1] @ h).reshape(2, 2)
        return (1 - z) * h + z * jnp.tanh(p[2] @ v + r * (p[3] @ h)), None

    return lax.scan(step, x[0, :2], x)[0]


def layer_norm(p, x):
    return jnp.tanh(p[0][None] * jax.nn.standardize(x) + p[1][None])


def group_norm(p, x):
    y = jax.nn.standardize(x.reshape(2, -1)).reshape(x.shape)
    return jnp.tanh(p[0][:, None] * y + p[1][:, None])


def residual(p, x):
    x = x + jnp.tanh(p[0] @ x + p[1])
    return x + jnp.tanh(p[2] @ x + p[1])


add("attention", attention, [(3, 2, 2)] * 3 + [(2, 2, 3)], (4, 3))
add("fused_attention", fused_attention, [(3, 6), (2, 3)], (4, 3))
add("gru", gru, [(4, 3), (4, 2), (2, 3), (2, 2)], (3, 3))
add("layer_norm", layer_norm, [V, V], (4, 3))
add("group_norm", group_norm, [(4,), (4,)], (4, 3))
add("residual", residual, [SQUARE, V, SQUARE])
add(
    "mlp",
    lambda p, x: p[2] @ jnp.tanh(p[1] @ jnp.tanh(p[0] @ x)),
    [(5, 3), (5, 5), (2, 5)],
)
add("deep_linear", lambda p, x: p[2] @ (p[1] @ (p[0] @ x)), [(5, 3), (5, 5), (2, 5)])
add(
    "hypernetwork",
    lambda p, x: (p[0] @ jnp.tanh(p[1] @ x)).reshape(2, 3) @ x,
    [(6, 2), (2, 3)],
)
add(
    "mixture",
    lambda p, x: jnp.einsum("e,eij,j->i", jax.nn.softmax(p[0] @ x), p[1], x),
    [(2, 3), (2, 4, 3)],
)
add(
    "neural_ode",
    lambda w, x: lax.fori_loop(0, 3, lambda _, h: h + 0.1 * jnp.tanh(w @ h), x),
    SQUARE,
)
add("fourier_features", lambda p, x: p[1] @ jnp.cos(p[0] @ x), [(4, 3), (2, 4)])
add(
    "deep_sets",
    lambda p, x: p[1] @ jnp.sum(jnp.tanh(x @ p[0]), axis=0),
    [(3, 4), (2, 4)],
    (4, 3),
)

# Odd ends.
add("returned", lambda w, x: w, V)
add("returned_and_used", lambda w, x: (w, w * x), V)
add("unused", lambda p, x: p[0] @ x, [W, V])
add("constant", lambda w, x: x, V)
add("integers", lambda w, x: (w * x > 0).astype(jnp.int32), V)
add("no_inputs", lambda w, x: jnp.tanh(w), V, ())
add("scalar_output", lambda w, x: jnp.sum(jnp.tanh(w @ x)), W)
add("tree_outputs", lambda w, x: {"a": w @ x, "b": [jnp.sum(w), w.T[:, :1]]}, W)
add(
    "tree_params",
    lambda p, x: p["w"] @ x + p["b"]["c"],
    {"w": W, "b": {"c": (4,)}, "n": None},
)
add("empty_params", lambda p, x: p[0] @ x + jnp.sum(p[1]), [W, (0, 2)])
add("empty_output", lambda w, x: w @ x, (0, 3))
add("empty_input", lambda w, x: jnp.sum(w @ x[0, 0]), W, (1, 1, 3))
add("one_by_one", lambda w, x: w @ x, (1, 1), (1,))
add("large_rank", lambda w, x: jnp.tanh(w[None, :, None] * x), (2,), (2, 2, 2))

# Primitives that nothing above reaches before data do.
add("divided_each", lambda w, x: w / (2 + x**2), V)
add("copied", lambda w, x: jnp.copy(w) @ x, W)
# Signs are exact in half precision.
add(
    "converted",
    lambda w, x: w.astype(jnp.float16).astype(x.dtype) * jnp.sign(x),
    V,
)
add(
    "gradient_summed",
    lambda w, x: jax.grad(lambda v: jnp.sum(w * v) + jnp.sum(w * v * x))(x),
    V,
)


def outputs_of(function, params, x):
    """The number of outputs for one example."""
    shapes = jax.eval_shape(function.call, params, jax.tree.map(lambda a: a[0], x))
    return sum(math.prod(s.shape) for s in jax.tree.leaves(shapes))
