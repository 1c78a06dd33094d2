"""Linear maps whose transposes are given, for gradients as cheap as the maps."""

import functools
import operator
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped


LinearMap: TypeAlias = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def with_transpose(
    forward: LinearMap, transpose: LinearMap, x: Float[Array, "..."]
) -> Float[Array, "..."]:
    """`forward(x)`, of a linear map whose transpose is given.

    JAX transposes a map operation by operation, and makes paddings of slices, which
    branch for every entry. Solutions of linear equations are the one linear map that it
    lets users transpose themselves and that keeps derivatives of every order and mode.
    So this is one, and the equations it would solve play no part. They are square: both
    arrays are extended to one shape, by paddings that compilers undo.
    """
    out = jax.eval_shape(forward, x)
    shape = tuple(map(max, x.shape, out.shape))
    result = lax.custom_linear_solve(
        lambda v: v,
        _extended(x, shape),
        solve=lambda _, v: _extended(forward(_within(v, x.shape)), shape),
        transpose_solve=lambda _, v: _extended(transpose(_within(v, out.shape)), shape),
        symmetric=True,  # Of the equations, so that JAX does not transpose these.
    )
    return _within(result, out.shape)


def _extended(x: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    return jnp.pad(x, [(0, n - m) for m, n in zip(x.shape, shape, strict=True)])


def _within(x: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    return lax.slice(x, (0,) * x.ndim, shape)


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)  # Traced once.
def broadcast_along(
    x: Shaped[Array, "..."], axis: int, size: int
) -> Shaped[Array, "..."]:
    """Repeat what an axis of size one holds; backwards, add up without reductions."""
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    repeat = lambda x: jnp.broadcast_to(x, shape)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return repeat(x)
    return with_transpose(repeat, lambda total: _added_up_along(total, axis), x)


def broadcast_up(x: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """`jnp.broadcast_to` for axes of size one; backwards, add up slices of whole axes.

    The last axis is reduced: along it, compilers make vectors.
    """
    for axis, (one, many) in enumerate(zip(x.shape[:-1], shape[:-1], strict=True)):
        x = broadcast_along(x, axis, many) if one < many else x
    return jnp.broadcast_to(x, shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def added_up(block: Float[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """The sum over some axes of a block, the longest first, without reductions.

    XLA reduces on CPUs by adding one entry after the other. Of a network of 21
    convolutions with ReLU, the last sum took a quarter of the time.
    """
    block_axes = [axis % block.ndim for axis in axes]
    for axis in sorted(block_axes, key=lambda axis: -block.shape[axis]):
        block = _added_up_along(block, axis)
    return jnp.squeeze(block, axes)


@added_up.defjvp
def _added_up_jvp(
    axes: tuple[int, ...],
    primals: tuple[Float[Array, "..."]],
    tangents: tuple[Float[Array, "..."]],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    return added_up(primals[0], axes), tangents[0].sum(axes)


# Slices of whole axes are added in vectors. Of fewer at a time, XLA would fuse the
# addition with what computes the slices, and compute what these share for each.
_AT_A_TIME = 16


def _added_up_along(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """The sum along an axis, which keeps a size of one; some slices at a time."""
    size, rest = divmod(x.shape[axis], _AT_A_TIME)
    if not size:
        return functools.reduce(operator.add, lax.split(x, (1,) * rest, axis))
    *parts, last = lax.split(x, (*(size,) * _AT_A_TIME, rest), axis)
    total = _added_up_along(functools.reduce(operator.add, parts), axis)
    return total + _added_up_along(last, axis) if rest else total
