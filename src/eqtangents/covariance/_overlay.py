"""Rows of a table that several sums add to: how they are grouped and laid over it."""

import functools
import operator

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from eqtangents.covariance._lattice import largest_divisor


def box_of(counts: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The sizes of equal boxes that divide a grid, of at most so many points or one.

    A box is whole along the last axes, so that few of its rows overlap others.
    """
    box: list[int] = []
    for count in reversed(counts):
        box.insert(0, largest_divisor(count, max(1, most)))
        most = most // count if box[0] == count else 1
    return tuple(box)


def overlaid(sums: Float[Array, "..."], rank: int) -> Float[Array, "..."]:
    """The rows that a box of sums adds up to: `(*box, *k, ...)` to `(*rows, ...)`.

    Along each of `rank` axes, the sum at `k` goes to the row `k` after its point.
    """
    for axis in range(rank):
        # Once its axis of `k` is gone, that of the next one is at the same place.
        shifted = jnp.moveaxis(sums, rank, 0)
        last = shifted.shape[0] - 1
        widths = [(0, 0)] * (shifted.ndim - 1)
        rows = []
        for k in range(last + 1):
            widths[axis] = (k, last - k)
            rows.append(jnp.pad(shifted[k], widths))
        sums = functools.reduce(operator.add, rows)
    return sums


def added_at(
    table: Float[Array, "..."], slab: Float[Array, "..."], row: Int[Array, " rank"]
) -> Float[Array, "..."]:
    """A table with a slab added to the rows that begin at `row`."""
    start = [*row] + [jnp.zeros((), row.dtype)] * (table.ndim - row.size)
    old = lax.dynamic_slice(table, start, slab.shape)
    return lax.dynamic_update_slice(table, old + slab, start)
