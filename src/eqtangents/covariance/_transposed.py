"""Linear maps whose transposes are given, for gradients as cheap as the maps."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


LinearMap: TypeAlias = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def with_transpose(
    forward: LinearMap, transpose: LinearMap, x: Float[Array, "..."]
) -> Float[Array, "..."]:
    """`forward(x)` of a linear map, with a formula for its transpose.

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
    )
    return _within(result, out.shape)


def _extended(x: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    return jnp.pad(x, [(0, n - m) for m, n in zip(x.shape, shape, strict=True)])


def _within(x: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    return lax.slice(x, (0,) * x.ndim, shape)
