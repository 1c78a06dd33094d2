"""Entries along the axes of a block, and those around them."""

from collections.abc import Collection

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped


def surrounded(
    block: Float[Array, "..."],
    widths: list[tuple[int, int]],
    periodic: Collection[int] = (),
) -> Float[Array, "..."]:
    """The block with more entries around it, kept apart from what reads them.

    They are zeros, or those of the other end along `periodic` axes. A padding that is
    fused into its consumers branches for every entry.
    """
    axes = [*enumerate(widths)]
    circles = [ends if axis in periodic else (0, 0) for axis, ends in axes]
    if any(map(any, circles)):
        block = lax.optimization_barrier(jnp.pad(block, circles, mode="wrap"))
    zeros = [(0, 0) if axis in periodic else ends for axis, ends in axes]
    if any(map(any, zeros)):
        block = lax.optimization_barrier(jnp.pad(block, zeros))
    return block


def surrounded_along(
    block: Float[Array, "..."],
    axis: int,
    ends: tuple[int, int],
    periodic: bool = False,
) -> Float[Array, "..."]:
    """The block with more entries at both ends of one axis."""
    axis, widths = axis % block.ndim, [(0, 0)] * block.ndim
    widths[axis] = ends
    return surrounded(block, widths, {axis} if periodic else ())


def entries_from(
    block: Shaped[Array, "..."], axis: int, start: int, count: int, stride: int = 1
) -> Shaped[Array, "..."]:
    """So many entries of an axis, the first of them at `start`."""
    stop = start + (count - 1) * stride + 1
    return lax.slice_in_dim(block, start, stop, stride, axis)
