"""Positions stored by displacement: the index arithmetic of the covariance engine.

Along an axis a **canvas** of size `G` stores, at entry `p`, the pair of positions
`(p, (p + d) mod G)`. The displacements `d` and `d - G` share one canvas, so `G`
canvases of `G` entries hold all pairs and none is stored twice. Entries with `p` or
its partner beyond the true size of the axis are unused and may hold anything finite.
"""

import itertools
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from eqtangents._budget import budget
from eqtangents.duals._dual import along_examples


_Vector = TypeVar("_Vector", Array, np.ndarray)


def pad_to(
    field: Shaped[Array, "..."], canvas: tuple[int, ...], fill: float | bool
) -> Shaped[Array, "..."]:
    """Extend the trailing axes of `field` to `canvas`."""
    lead = field.ndim - len(canvas)
    widths = [(0, g - h) for g, h in zip(canvas, field.shape[lead:], strict=True)]
    return jnp.pad(field, [(0, 0)] * lead + widths, constant_values=fill)


def ends(
    examples: PyTree[Array], n1: int | None
) -> tuple[PyTree[Array], PyTree[Array]]:
    """The examples at either end of pairs, of two batches in a row or the same ones."""
    if n1 is None:
        return examples, examples
    part = lambda i: along_examples(
        lambda a, axis: lax.split(a, (n1, a.shape[axis] - n1), axis)[i], examples
    )
    return part(0), part(1)


def paired(
    left: PyTree[Array], right: PyTree[Array]
) -> tuple[PyTree[Array], PyTree[Array]]:
    """Fields of either batch, as they broadcast over the pairs `n1 n2`.

    Loops keep them without the new axes: in what a loop keeps, compilers copy each
    array with an axis of one element, for another order of the same numbers.
    """
    across = along_examples(lambda a, axis: jnp.expand_dims(a, axis + 1), left)
    return across, along_examples(jnp.expand_dims, right)


def doubled(field: Shaped[Array, "..."], rank: int) -> Shaped[Array, "..."]:
    """Two periods of the last `rank` axes, so that `rolled` is a single slice."""
    lead, size = field.shape[: field.ndim - rank], field.shape[field.ndim - rank :]
    pairs = [pair for length in size for pair in (2, length)]
    one = jnp.expand_dims(field, [len(lead) + 2 * axis for axis in range(rank)])
    return jnp.broadcast_to(one, (*lead, *pairs)).reshape(*lead, *(2 * g for g in size))


def rolled(
    twice: Shaped[Array, "..."], displacement: Int[Array, " rank"]
) -> Shaped[Array, "..."]:
    """The field at the partner positions, `f(p + d)`, from `doubled(f)`."""
    rank = displacement.shape[0]
    lead = twice.ndim - rank
    sizes = twice.shape[:lead] + tuple(g // 2 for g in twice.shape[lead:])
    start = [jnp.zeros((), displacement.dtype)] * lead + [*displacement]
    return lax.dynamic_slice(twice, start, sizes)


def positions(canvas: int) -> Int[Array, " canvas"]:
    """The first position of each entry, in the type of displacements.

    Masks of 64-bit integers would halve the vectors of whatever they select from.
    """
    return jnp.arange(canvas, dtype=jnp.int32)


def partner(canvas: int, displacement: Int[Array, ""]) -> Int[Array, " canvas"]:
    """The second position of each entry, `(p + d) mod canvas`."""
    position = positions(canvas) + displacement
    return jnp.where(position >= canvas, position - canvas, position)


def short_rows(size: tuple[int, ...]) -> bool:
    """Whether positions are better computed in one row than along their last axis.

    Compilers write out a loop over few entries, number by number, and what is left of a
    longer one when its vectors are full. An image of 8 x 8 or 28 x 28 would take two to
    five times as long for each entry as one of 32 x 32. All its positions in one row
    are long enough, and in memory they are that already.
    """
    row = budget().row
    return len(size) > 1 and (size[-1] < row or size[-1] % max(1, row // 2) > 0)


def in_one_row(block: PyTree[Array], rank: int) -> PyTree[Array]:
    """Arrays whose last `rank` axes are positions, or have one element, as one axis."""
    return jax.tree.map(
        lambda leaf: leaf.reshape(*leaf.shape[: leaf.ndim - rank], -1), block
    )


def along(vector: _Vector, axis: int, rank: int) -> _Vector:
    """View a vector so that it broadcasts along `axis` of `rank` trailing axes."""
    return vector.reshape((1,) * axis + (-1,) + (1,) * (rank - axis - 1))


def where(mask: Bool[Array, "..."], block: Float[Array, "..."]) -> Float[Array, "..."]:
    """The block where a mask over its trailing axes holds, zero elsewhere.

    It selects and never multiplies, since unused entries may hold anything.
    """
    mask = mask.reshape((1,) * (block.ndim - mask.ndim) + mask.shape)
    return jnp.where(mask, block, jnp.zeros((), block.dtype))


def picked(
    x: Shaped[Array, "n *size"], indices: Sequence[np.ndarray]
) -> Shaped[Array, "n *size_out"]:
    """Positions picked along each axis but the first, zero where an index is negative.

    An axis with one number, in the place of a sequence, disappears.
    """
    for axis, index in reversed(list(enumerate(indices, 1))):
        x = jnp.take(x, index, axis)
        if np.any(index < 0):
            inside = (index >= 0).reshape(-1, *(1,) * (x.ndim - axis - 1))
            x = jnp.where(inside[(None,) * axis], x, jnp.zeros_like(x))
    return x


def both_inside(
    canvas: tuple[int, ...], size: tuple[int, ...], displacement: Int[Array, " rank"]
) -> Bool[Array, "*canvas"]:
    """Entries of a canvas whose two positions both exist."""
    inside = jnp.ones((1,) * len(canvas), bool)
    for axis, (g, h) in enumerate(zip(canvas, size, strict=True)):
        if g > h:
            ends = (positions(g) < h) & (partner(g, displacement[axis]) < h)
            inside = inside & along(ends, axis, len(canvas))
    return jnp.broadcast_to(inside, canvas)


def displacements(
    canvas: Sequence[int], reach: Sequence[int]
) -> Int[np.ndarray, "n rank"]:
    """All displacements `d` with `abs(d) <= reach` on every axis.

    They are stored modulo the canvas: negative ones come last.
    """
    axes = [
        range(g) if 2 * r + 1 >= g else [*range(r + 1), *range(g - r, g)]
        for g, r in zip(canvas, reach, strict=True)
    ]
    grid = list(itertools.product(*axes))
    return np.array(grid, np.int32).reshape(len(grid), len(axes))


def largest_divisor(count: int, most: int) -> int:
    """The largest number up to `most` that divides another one."""
    return max(b for b in range(1, min(count, most) + 1) if count % b == 0)
