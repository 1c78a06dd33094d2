"""Sums of the entries of a block under windows, and the transposes of these sums."""

import functools
import math
import operator
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents._transposed import with_transpose
from eqtangents.covariance._borders import (
    entries_from,
    surrounded,
    surrounded_along,
)
from eqtangents.covariance._lattice import where
from eqtangents.covariance._window import Window


class Counted(NamedTuple):
    """Where the entries under one tap count, along one of the last axes.

    The same entries by their place in the output, and by that in the input.
    """

    outputs: Bool[Array, "..."]
    inputs: Bool[Array, "..."]

    @classmethod
    def of(cls, outputs: Bool[Array, " n"], offset: int, stride: int) -> "Counted":
        """The entries that count for some outputs; inputs are `stride` times as many.

        Between the inputs under the tap, anything may be said: nothing comes there.
        """
        inputs = jnp.roll(jnp.repeat(outputs, stride), offset)
        untapped = np.arange(inputs.size) - offset
        return cls(outputs, inputs & (untapped >= 0) & (untapped < inputs.size))


# For each tap of a window; `None` for everywhere.
Taps: TypeAlias = list[Bool[Array, "..."] | None]


# Of a block under windows, to outputs of some sizes, with the taps of each axis.
SumUnder: TypeAlias = Callable[..., Float[Array, "..."]]


# Layers with equal windows are traced once.
@functools.partial(jax.jit, static_argnames=("windows", "sizes", "summed"), inline=True)
def sums_under(
    block: Float[Array, "..."],
    windows: tuple[Window, ...],
    sizes: tuple[int, ...],
    counted: list[list[Counted | None]],
    summed: SumUnder,
) -> Float[Array, "..."]:
    """Sum the entries under windows along the last axes; the output has these sizes.

    `summed`: how, `sums_by_axis`, say, or another that the windows allow.
    """
    outputs = [[mask and mask.outputs for mask in of_axis] for of_axis in counted]
    inputs = [[mask and mask.inputs for mask in of_axis[::-1]] for of_axis in counted]
    back = tuple(window.transposed for window in windows)
    sizes_in = block.shape[block.ndim - len(windows) :]

    def transpose(cotangent: Float[Array, "..."]) -> Float[Array, "..."]:
        return summed(_apart(cotangent, windows), back, sizes_in, inputs)

    return with_transpose(
        lambda block: summed(block, windows, sizes, outputs), transpose, block
    )


# Of each tap: fixed numbers, or an array that may be differentiated.
TapWeights: TypeAlias = Float[np.ndarray, "..."] | Float[Array, "..."]


def weighted_sums_under(
    block: Float[Array, "..."],
    windows: tuple[Window, ...],
    sizes: tuple[int, ...],
    counted: list[list[Counted | None]],
    weights: TapWeights,
) -> Float[Array, "..."]:
    """Sum the entries under windows as `sums_under` does, with a weight for each tap.

    Derivatives in weights, if these are an array of JAX, are found operation by
    operation, as `with_transpose` knows of none.
    """
    outputs = [[mask and mask.outputs for mask in of_axis] for of_axis in counted]
    if not isinstance(weights, np.ndarray):
        return _weighted_sums(block, windows, sizes, outputs, weights)
    inputs = [[mask and mask.inputs for mask in of_axis[::-1]] for of_axis in counted]
    back = tuple(window.transposed for window in windows)
    sizes_in = block.shape[block.ndim - len(windows) :]
    return with_transpose(
        lambda block: _weighted_sums(block, windows, sizes, outputs, weights),
        lambda cotangent: _weighted_sums(
            _apart(cotangent, windows), back, sizes_in, inputs, np.flip(weights)
        ),
        block,
    )


def _weighted_sums(
    block: Float[Array, "..."],
    windows: tuple[Window, ...],
    sizes: tuple[int, ...],
    masks: list[Taps],
    weights: TapWeights,
) -> Float[Array, "..."]:
    """Sum the entries under windows along the last axes, all taps at once.

    Weights are no products over the axes, so that there is nothing to do axis by axis.
    """
    lead = block.ndim - len(windows)
    ends = zip(windows, block.shape[lead:], sizes, strict=True)
    reach = [window.reach(size_in, size) for window, size_in, size in ends]
    around = {lead + axis for axis, window in enumerate(windows) if window.periodic}
    block = surrounded(block, [*[(0, 0)] * lead, *reach], around)
    taps = []
    for at in np.ndindex(weights.shape):
        if isinstance(weights, np.ndarray) and not weights[at]:
            continue
        tap = block
        for axis, (window, (low, _)) in enumerate(zip(windows, reach, strict=True)):
            start, step = low + window.offsets[at[axis]], window.stride
            tap = entries_from(tap, lead + axis, start, sizes[axis], step)
        for of_axis, i in zip(masks, at, strict=True):
            tap = tap if of_axis[i] is None else where(of_axis[i], tap)
        taps.append(jnp.asarray(weights[at], block.dtype) * tap)
    return functools.reduce(operator.add, taps)


def _apart(
    block: Float[Array, "..."], windows: tuple[Window, ...]
) -> Float[Array, "..."]:
    """The outputs of windows at the places of their inputs, zeros between them."""
    strides = [window.stride for window in windows]
    lead = [(0, 0, 0)] * (block.ndim - len(windows))
    zero = jnp.zeros((), block.dtype)
    return lax.pad(block, zero, [*lead, *((0, s - 1, s - 1) for s in strides)])


def sums_by_axis(
    block: Float[Array, "..."],
    windows: tuple[Window, ...],
    sizes: tuple[int, ...],
    masks: list[Taps],
) -> Float[Array, "..."]:
    """Sum the entries under windows along the last axes, one after the other."""
    for axis, window in enumerate(windows):
        place = axis - len(windows)
        block = _window_sum(block, place, window, sizes[axis], masks[axis])
    return block


def sums_by_rows(
    block: Float[Array, "..."],
    windows: tuple[Window, ...],
    sizes: tuple[int, ...],
    masks: list[Taps],
) -> Float[Array, "..."]:
    """Sum the entries under windows on a canvas, along the last axis first.

    That axis is not padded, which no compiler vectorises: rows follow each other in
    memory, and a tap that leaves its row reaches into a neighbouring one. There it has
    a mask that does not hold, or what the other end of a periodic row has.
    """
    rank, (*others, last) = len(windows), windows
    lead, canvas = block.ndim - rank, block.shape[block.ndim - rank :]
    reach = [w.reach(*ends) for w, *ends in zip(others, canvas, sizes, strict=False)]
    around = {lead + axis for axis, window in enumerate(others) if window.periodic}
    if math.prod(window.count for window in windows) > _FEW_TAPS:
        still = [(0, 0)] * (block.ndim - 1)
        block = _sum_along_rows(block, last, sizes[-1], masks[-1], still, ())
        block = surrounded(block, [*[(0, 0)] * lead, *reach, (0, 0)], around)
    else:
        widths = [*[(0, 0)] * lead, *reach]
        block = _sum_along_rows(block, last, sizes[-1], masks[-1], widths, around)
    for axis, (window, (low, _)) in enumerate(zip(others, reach, strict=True)):
        taps = taps_under(block, axis - rank, window, low, sizes[axis])
        block = masked_sum(taps, masks[axis])
    return block


# Above so many taps, a row is added up once, and not for each row that reads it. Nor
# does XLA's CPU backend fuse more: it would lay the result out in one row, by indices
# that no loop of vectors has.
_FEW_TAPS = 12


def _sum_along_rows(
    block: Float[Array, "..."],
    window: Window,
    size: int,
    masks: Taps,
    widths: list[tuple[int, int]],
    around: Collection[int],
) -> Float[Array, "..."]:
    """Sum along the last axis; surround the axes before it, as `surrounded` does."""
    width = block.shape[-1]
    more = 1 if window.periodic else -(-max(window.reach(width, size)) // width)
    *others, (low, high) = widths
    block = surrounded(block, [*others, (low + more, high + more), (0, 0)], around)
    rows = block.shape[-2] - 2 * more
    laid_out = block.reshape(*block.shape[:-2], -1)

    def tap(offset: int) -> Float[Array, "..."]:
        start, count = more * width + offset, rows * size
        one = entries_from(laid_out, -1, start, count, window.stride)
        return one.reshape(*block.shape[:-2], rows, size)

    def along_circle(offset: int) -> Float[Array, "..."]:
        offset = offset % width
        here = jnp.arange(size, dtype=jnp.int32) * window.stride + offset < width
        return jnp.where(here, tap(offset), tap(offset - width)) if offset else tap(0)

    taps = map(along_circle if window.periodic else tap, window.offsets)
    return masked_sum([*taps], masks)


def _window_sum(
    block: Float[Array, "..."],
    axis: int,
    window: Window,
    size: int,
    masks: Taps,
) -> Float[Array, "..."]:
    """Sum the entries under each window along one axis.

    Each offset has a mask; where it is false, the entry counts as zero.
    """
    same_size = window.stride == 1 and block.shape[axis] == size
    if same_size and window.offsets == (0,) and masks == [None]:
        return block
    low, high = window.reach(block.shape[axis], size)
    # Without any border, compilers would compute the block again under each tap.
    apart = window.overlapping and not (low or high)
    block = surrounded_along(block, axis, (low, high + apart), window.periodic)
    return masked_sum(taps_under(block, axis, window, low, size), masks)


def taps_under(
    block: Float[Array, "..."], axis: int, window: Window, low: int, size: int
) -> list[Float[Array, "..."]]:
    """The entries at each offset, of a block with `low` entries before its first."""
    return [
        entries_from(block, axis, low + offset, size, window.stride)
        for offset in window.offsets
    ]


def masked_sum(taps: list[Float[Array, "..."]], masks: Taps) -> Float[Array, "..."]:
    """The sum of taps, each zero where it has a mask that does not hold."""
    return functools.reduce(
        operator.add,
        (
            tap if mask is None else where(mask, tap)
            for tap, mask in zip(taps, masks, strict=True)
        ),
    )
