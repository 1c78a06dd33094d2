"""Sums under windows of blocks with all positions in one row."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from eqtangents._budget import budget
from eqtangents.covariance._borders import surrounded
from eqtangents.covariance._lattice import in_one_row
from eqtangents.covariance._window import Window
from eqtangents.covariance._window_sums import Taps, masked_sum


def joined_mask(
    mask: Bool[Array, " n"],
    axis: int,
    windows: tuple[Window, ...],
    sizes: tuple[int, ...],
) -> Bool[Array, " m"]:
    """Where taps along one axis count, as `joined_sums` needs it: along all positions.

    And along those around them that windows of the axes before this one see.
    """
    steps, around = _strides_of(sizes), _around(windows, sizes)
    period = sizes[axis] * steps[axis]
    total = math.prod(sizes) + sum(map(sum, around[:axis]))
    return jnp.tile(jnp.repeat(mask, steps[axis]), total // period)


def joined_sums(
    block: Float[Array, "..."],
    windows: tuple[Window, ...],
    sizes: tuple[int, ...],
    masks: list[Taps],
) -> Float[Array, "..."]:
    """Sum the entries under windows along the last axes, with all positions in one row.

    Along the last axis first. A tap that leaves its row reaches into another one, where
    it has a mask that does not hold.
    """
    rank, lead = len(windows), block.shape[: block.ndim - len(windows)]
    steps, around = _strides_of(sizes), _around(windows, sizes)
    low, high = (sum(ends) for ends in zip(*around, strict=True))
    width, more = _padded_by(math.prod(sizes), max(low, high))
    rows = in_one_row(block, rank).reshape(*lead, -1, width)
    rows = surrounded(rows, [*[(0, 0)] * len(lead), (more, more), (0, 0)])
    row = in_one_row(rows, 2)
    row = row[..., more * width - low : row.shape[-1] - more * width + high]
    for axis in reversed(range(rank)):
        low, high = around[axis]
        length = row.shape[-1] - low - high
        starts = [low + offset * steps[axis] for offset in windows[axis].offsets]
        taps = [row[..., start : start + length] for start in starts]
        row = masked_sum(taps, masks[axis])
    return row.reshape(block.shape)


def _strides_of(sizes: tuple[int, ...]) -> list[int]:
    """How far apart neighbours along each axis are in the row of all positions."""
    return [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]


def _around(
    windows: tuple[Window, ...], sizes: tuple[int, ...]
) -> list[tuple[int, int]]:
    """How far windows reach beyond the row of all positions along each axis."""
    return [
        (low * step, high * step)
        for window, size, step in zip(windows, sizes, _strides_of(sizes), strict=True)
        for low, high in [window.reach(size, size)]
    ]


def _padded_by(count: int, reach: int) -> tuple[int, int]:
    """Into rows of which width to cut a row of `count` positions, and how many to add.

    The row cannot be padded itself: compilers do not vectorise that along the last
    axis. `reach`: how many zeros there must be on either side.
    """
    row = budget().row

    def cost(width: int) -> int:
        rows = count // width + 2 * -(-reach // width)
        return rows * (width + 2 * row + row * (width % max(1, row // 2) > 0))

    widths = [w for w in range(1, count + 1) if count % w == 0]
    width = min([w for w in widths if w >= min(row, count)], key=cost)
    return width, -(-reach // width)
