"""Sums of the entries of a block under windows, and the transposes of these sums."""

import functools
import operator
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents._transposed import with_transpose
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
    widths = {False: [(0, 0)] * block.ndim, True: [(0, 0)] * block.ndim}
    for axis, window in enumerate(windows):
        widths[window.periodic][lead + axis] = reach[axis]
    block = surrounded(surrounded(block, widths[False]), widths[True], "wrap")
    taps = []
    for at in np.ndindex(weights.shape):
        if isinstance(weights, np.ndarray) and not weights[at]:
            continue
        tap = block
        for axis, (window, (low, _)) in enumerate(zip(windows, reach, strict=True)):
            start, step = low + window.offsets[at[axis]], window.stride
            stop = start + (sizes[axis] - 1) * step + 1
            tap = lax.slice_in_dim(tap, start, stop, step, lead + axis)
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


def rows_follow(windows: tuple[Window, ...]) -> bool:
    """Whether taps that leave their row of the last axis are masked or not used."""
    return windows[-1].count > 1 and not any(window.periodic for window in windows)


def sums_by_axis(
    block: Float[Array, "..."],
    windows: tuple[Window, ...],
    sizes: tuple[int, ...],
    masks: list[Taps],
) -> Float[Array, "..."]:
    """Sum the entries under windows along the last axes, one after the other."""
    for axis, window in enumerate(windows):
        place = axis - len(windows)
        block = window_sum(block, place, window, sizes[axis], masks[axis])
    return block


def sums_by_rows(
    block: Float[Array, "..."],
    windows: tuple[Window, ...],
    sizes: tuple[int, ...],
    masks: list[Taps],
) -> Float[Array, "..."]:
    """Sum the entries under windows on a canvas, along the last axis first.

    That axis is not padded, which no compiler vectorises: rows follow each other in
    memory, and a tap that leaves its row reaches into a neighbouring one.
    """
    rank, (*others, last) = len(windows), windows
    canvas = block.shape[block.ndim - rank :]
    reach = [w.reach(*ends) for w, *ends in zip(others, canvas, sizes, strict=False)]
    block = _sum_along_rows(block, last, sizes[-1], masks[-1], reach)
    for axis, (window, (low, _)) in enumerate(zip(others, reach, strict=True)):
        taps = _taps(block, axis - rank, window, low, sizes[axis])
        block = masked_sum(taps, masks[axis])
    return block


def _sum_along_rows(
    block: Float[Array, "..."],
    window: Window,
    size: int,
    masks: Taps,
    reach: list[tuple[int, int]],
) -> Float[Array, "..."]:
    """Sum along the last axis; pad the axes before it by `reach`, for their windows."""
    width = block.shape[-1]
    more = -(-max(window.reach(width, size)) // width)
    widths = [(0, 0)] * (block.ndim - 1 - len(reach)) + reach
    widths[-1] = (widths[-1][0] + more, widths[-1][1] + more)
    block = surrounded(block, [*widths, (0, 0)])
    rows = block.shape[-2] - 2 * more
    laid_out = block.reshape(*block.shape[:-2], -1)
    taps = _taps(laid_out, -1, window, more * width, rows * size)
    taps = [tap.reshape(*block.shape[:-2], rows, size) for tap in taps]
    return masked_sum(taps, masks)


def window_sum(
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
    widths = [(0, 0)] * block.ndim
    # Without any border, compilers would compute the block again under each tap.
    apart = window.overlapping and not (low or high)
    widths[axis] = (low, high + apart)
    block = surrounded(block, widths, "wrap" if window.periodic else "constant")
    return masked_sum(_taps(block, axis, window, low, size), masks)


def surrounded(
    block: Float[Array, "..."],
    widths: list[tuple[int, int]],
    mode: Literal["constant", "wrap"] = "constant",
) -> Float[Array, "..."]:
    """The block with more entries around it, kept apart from what reads them.

    A padding that is fused into its consumers branches for every entry.
    """
    if not any(map(any, widths)):
        return block
    return lax.optimization_barrier(jnp.pad(block, widths, mode=mode))


def _taps(
    block: Float[Array, "..."], axis: int, window: Window, low: int, size: int
) -> list[Float[Array, "..."]]:
    """The entries at each offset, of a block with `low` entries before its first."""
    length = (size - 1) * window.stride + 1
    starts = [low + offset for offset in window.offsets]
    return [
        lax.slice_in_dim(block, start, start + length, window.stride, axis)
        for start in starts
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
