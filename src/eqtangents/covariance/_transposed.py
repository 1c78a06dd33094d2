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


def broadcast_along(
    x: Shaped[Array, "..."], axis: int, size: int
) -> Shaped[Array, "..."]:
    """Repeat what an axis of size one holds; backwards, add up without reductions.

    On CPUs, a product is many times slower to reduce than to add up.
    """
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    repeat = lambda x: jnp.broadcast_to(x, shape)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return repeat(x)
    return with_transpose(repeat, lambda total: _added_up(total, axis), x)


_AT_A_TIME = 8


def _added_up(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """The sum along an axis, which keeps a size of one; a few arrays at a time."""
    size, rest = divmod(x.shape[axis], _AT_A_TIME)
    if not size:
        return functools.reduce(operator.add, lax.split(x, (1,) * rest, axis))
    *parts, last = lax.split(x, (*(size,) * _AT_A_TIME, rest), axis)
    total = _added_up(functools.reduce(operator.add, parts), axis)
    return total + _added_up(last, axis) if rest else total
