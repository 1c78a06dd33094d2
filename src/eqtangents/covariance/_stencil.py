"""Windows that move over positions, and convolutions: both positions move alike."""

import dataclasses
import functools
import operator
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents.covariance._covariance import (
    AbstractCovariance,
    Block,
    BlockRule,
    Evaluation,
    Frame,
    Lookup,
)
from eqtangents.covariance._gathered import recanvassed, wrap_uneven
from eqtangents.covariance._lattice import along, partner, where
from eqtangents.covariance._outline import Outline
from eqtangents.covariance._window import Window, seen_through


# Where the entries of one tap count, along one of the last axes; `None` for everywhere.
_Counted: TypeAlias = Bool[Array, "..."] | None


class Stencil(AbstractCovariance):
    r"""$K'_{pp'} = \sum_o K_{s p + o,\, s p' + o}$ over the offsets of a window.

    Inputs have `s` times the displacement of the outputs, so that a stride
    leaves all other displacements uncomputed.
    """

    nonzero_where_masked = True

    def __init__(
        self,
        upstream: AbstractCovariance,
        windows: tuple[Window, ...],
        *,
        mask: Bool[Array, "n *size_out"] | None = None,
    ):
        """Sum over windows, one for each axis.

        `mask`: the output's positions, unless they are those seen through the windows.
        """
        self.upstream, self.windows, outline = strided(upstream, windows)
        self.outline = outline if mask is None else outline.replace(mask=mask)

    def bind(self, frame: Frame) -> BlockRule:
        """Look the masks of all axes up, then sum."""
        above = frame.strided(tuple(window.stride for window in self.windows))
        upstream = above.bind(self.upstream)
        canvas = self.outline.size if frame.canvas is None else frame.canvas
        coincide = frame.canvas is None
        masks = [
            [
                None
                if coincide or window.periodic
                else _tap_mask(above, self.windows, axis, offset)
                for offset in window.offsets
            ]
            for axis, window in enumerate(self.windows)
        ]
        by_rows = not coincide and frame.read_once and _rows_follow(self.windows)

        def total(block: Float[Array, "..."], at: Evaluation) -> Float[Array, "..."]:
            here = [[mask and mask(at) for mask in of_axis] for of_axis in masks]
            sums = _sums_by_rows if by_rows else _sums_by_axis
            return sums(block, self.windows, canvas, here)

        def rule(at: Evaluation) -> Block:
            nngp, ntk, _ = at(upstream)
            return Block(total(nngp, at), None if ntk is None else total(ntk, at))

        return rule


def strided(
    upstream: AbstractCovariance, windows: tuple[Window, ...]
) -> tuple[AbstractCovariance, tuple[Window, ...], Outline]:
    """The input on a canvas that windows can move on, the windows, the output's facts.

    A canvas of size `G` after a stride `s` needs one of size `s G` before it, at least
    as large as the smallest that the input allows. A periodic window wraps around the
    canvas itself, which must then have the size of the axis, a multiple of the stride.
    """
    mask, original = upstream.outline.mask, windows
    for axis, window in enumerate(windows):
        if window.periodic and window.size_in % window.stride:
            low, high = window.padding
            upstream = wrap_uneven(upstream, axis, low, high)
            offsets = tuple(o + low for o in window.offsets)
            size_in = window.size_in + low + high
            flat = dataclasses.replace(
                window, offsets=offsets, size_in=size_in, periodic=False
            )
            windows = (*windows[:axis], flat, *windows[axis + 1 :])
    sizes = tuple(w.size_out for w in windows)

    def needs(g: int, w: Window) -> int:
        return max(w.size_out, -(-g // w.stride))

    def fits(g: int, fixed_canvas: bool, w: Window) -> bool:
        if w.periodic:
            return g == w.size_in
        return not fixed_canvas or needs(g, w) * w.stride == g

    outline = upstream.outline
    if not all(map(fits, outline.canvas, outline.fixed_canvas, windows)):
        upstream = recanvassed(upstream)
    outline = upstream.outline
    return (
        upstream,
        windows,
        outline.replace(
            size=sizes,
            mask=None if mask is None else seen_through(mask, original),
            canvas=tuple(map(needs, outline.canvas, windows)),
            fixed_canvas=tuple(
                fixed_canvas or w.periodic
                for fixed_canvas, w in zip(outline.fixed_canvas, windows, strict=True)
            ),
        ),
    )


def _rows_follow(windows: tuple[Window, ...]) -> bool:
    """Whether taps that leave their row of the last axis are masked or not used."""
    return windows[-1].count > 1 and not any(window.periodic for window in windows)


def _sums_by_axis(
    block: Float[Array, "..."],
    windows: tuple[Window, ...],
    sizes: tuple[int, ...],
    masks: list[list[_Counted]],
) -> Float[Array, "..."]:
    """Sum the entries under windows along the last axes, one after the other."""
    for axis, window in enumerate(windows):
        place = axis - len(windows)
        block = window_sum(block, place, window, sizes[axis], masks[axis])
    return block


def _sums_by_rows(
    block: Float[Array, "..."],
    windows: tuple[Window, ...],
    sizes: tuple[int, ...],
    masks: list[list[_Counted]],
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
        block = _masked_sum(taps, masks[axis])
    return block


def _sum_along_rows(
    block: Float[Array, "..."],
    window: Window,
    size: int,
    masks: list[_Counted],
    reach: list[tuple[int, int]],
) -> Float[Array, "..."]:
    """Sum along the last axis; pad the axes before it by `reach`, for their windows."""
    width = block.shape[-1]
    more = -(-max(window.reach(width, size)) // width)
    widths = [(0, 0)] * (block.ndim - 1 - len(reach)) + reach
    widths[-1] = (widths[-1][0] + more, widths[-1][1] + more)
    block = _surrounded(block, [*widths, (0, 0)])
    rows = block.shape[-2] - 2 * more
    laid_out = block.reshape(*block.shape[:-2], -1)
    taps = _taps(laid_out, -1, window, more * width, rows * size)
    taps = [tap.reshape(*block.shape[:-2], rows, size) for tap in taps]
    return _masked_sum(taps, masks)


def window_sum(
    block: Float[Array, "..."],
    axis: int,
    window: Window,
    size: int,
    masks: list[_Counted],
) -> Float[Array, "..."]:
    """Sum the entries under each window along one axis.

    Each offset has a mask; where it is false, the entry counts as zero.
    """
    if window.offsets == (0,) and window.stride == 1 and masks == [None]:
        return block
    low, high = window.reach(block.shape[axis], size)
    widths = [(0, 0)] * block.ndim
    widths[axis] = (low, high)
    block = _surrounded(block, widths, "wrap" if window.periodic else "constant")
    return _masked_sum(_taps(block, axis, window, low, size), masks)


def _surrounded(
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


def _masked_sum(
    taps: list[Float[Array, "..."]], masks: list[_Counted]
) -> Float[Array, "..."]:
    """The sum of taps, each zero where it has a mask that does not hold."""
    return functools.reduce(
        operator.add,
        (
            tap if mask is None else where(mask, tap)
            for tap, mask in zip(taps, masks, strict=True)
        ),
    )


def _tap_mask(
    above: Frame, windows: tuple[Window, ...], axis: int, offset: int
) -> Lookup[Bool[Array, "..."]] | None:
    """Register where both positions, moved by `offset`, are inside the input."""
    assert above.canvas is not None
    window, rank = windows[axis], len(windows)
    size, stride = window.size_in, window.stride
    real = np.arange(window.size_out) * stride + offset
    if np.all((0 <= real) & (real < size)):
        return None  # The partner is inside, too, wherever the output exists.
    canvas = above.canvas[axis]

    def look(d: Int[Array, " rank"]) -> Bool[Array, "..."]:
        here, there = jnp.arange(canvas)[::stride], partner(canvas, d[axis])[::stride]
        inside = [(p + offset >= 0) & (p + offset < size) for p in (here, there)]
        return along(inside[0] & inside[1], axis, rank)

    return above.mask(("tap", axis, size, offset, stride, rank), look)
