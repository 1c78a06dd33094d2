"""Convolutions with shared weights: both positions of a pair move by one offset."""

from collections.abc import Hashable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents.covariance._covariance import AbstractCovariance, Outline
from eqtangents.covariance._frame import Block, BlockRule, Evaluation, Frame
from eqtangents.covariance._gathered import Gathered, wrap_uneven
from eqtangents.covariance._lattice import along, partner, where
from eqtangents.covariance._windows import Window, seen_through


class Stencil(AbstractCovariance):
    r"""$K'_{pp'} = \sum_o K_{s p + o,\, s p' + o}$ over the offsets of a window.

    The displacement of the inputs is `s` times that of the outputs, so that a stride
    leaves all others uncomputed.
    """

    nonzero_where_masked = True

    def __init__(self, upstream: AbstractCovariance, windows: tuple[Window, ...]):
        """Sum over windows, one for each axis."""
        self.upstream, self.windows, self.outline = strided(upstream, windows)

    def bind(self, frame: Frame) -> BlockRule:
        """Sum one axis after the other."""
        strides = tuple(window.stride for window in self.windows)
        above = frame.strided(strides)
        upstream = above.bind(self.upstream)
        canvas = self.outline.size if frame.canvas is None else frame.canvas
        masks = {
            (axis, offset): _tap_mask(above, self.windows, axis, offset)
            for axis, window in enumerate(self.windows)
            for offset in window.offsets
            if frame.canvas is not None and not window.periodic
        }

        def total(block: Float[Array, "..."], at: Evaluation) -> Float[Array, "..."]:
            for axis, window in enumerate(self.windows):
                block = window_sum(
                    block,
                    axis - len(self.windows),
                    window,
                    canvas[axis],
                    [at.masks.get(masks.get((axis, o))) for o in window.offsets],
                )
            return block

        def rule(at: Evaluation) -> Block:
            nngp, ntk, _ = at(upstream)
            return Block(total(nngp, at), None if ntk is None else total(ntk, at))

        return rule


def strided(
    upstream: AbstractCovariance, windows: tuple[Window, ...]
) -> tuple[AbstractCovariance, tuple[Window, ...], Outline]:
    """The input on a canvas that the windows can move on, and the output's facts.

    A canvas of size `G` after a stride `s` needs one of size `s G` before it, at least
    as large as what the input asks for. A periodic window wraps around the canvas
    itself, whose size must then be that of the axis and a multiple of the stride.
    """
    mask, original = upstream.outline.mask, windows
    for axis, window in enumerate(windows):
        if window.periodic and window.size_in % window.stride:
            low, high = window.padding
            upstream = wrap_uneven(upstream, axis, low, high)
            offsets = tuple(o + low for o in window.offsets)
            size_in = window.size_in + low + high
            flat = Window(offsets, window.stride, size_in, window.size_out, False)
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
        upstream = Gathered(upstream)
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


def window_sum(
    block: Float[Array, "..."],
    axis: int,
    window: Window,
    size: int,
    masks: list[Bool[Array, "..."] | None],
) -> Float[Array, "..."]:
    """Sum the entries under each window along one axis, zero where a mask says no."""
    offsets, stride = window.offsets, window.stride
    if offsets == (0,) and stride == 1 and masks == [None]:
        return block
    low, high = window.reach(block.shape[axis], size)
    if low or high:
        widths = [(0, 0)] * block.ndim
        widths[axis] = (low, high)
        block = jnp.pad(block, widths, mode="wrap" if window.periodic else "constant")
        # A padding that is fused into its consumers branches for every entry.
        block = lax.optimization_barrier(block)
    total = None
    for offset, mask in zip(offsets, masks, strict=True):
        start = offset + low
        tap = lax.slice_in_dim(
            block, start, start + (size - 1) * stride + 1, stride, axis
        )
        if mask is not None:
            tap = where(mask, tap)
        total = tap if total is None else total + tap
    assert total is not None
    return total


def _tap_mask(
    above: Frame, windows: tuple[Window, ...], axis: int, offset: int
) -> Hashable | None:
    """Register where both positions, moved by `offset`, are inside the input."""
    assert above.canvas is not None
    window = windows[axis]
    canvas, size, stride = above.canvas[axis], window.size_in, window.stride
    # Written out to the whole block: a broadcast inside of a fusion is slower.
    shape = tuple(
        g // w.stride if i <= axis else g
        for i, (g, w) in enumerate(zip(above.canvas, windows, strict=True))
    )
    real = np.arange(window.size_out) * stride + offset
    if np.all((0 <= real) & (real < size)):
        return None  # Then so is the other one, wherever the output exists.

    def look(d: Int[Array, " rank"]) -> Bool[Array, "..."]:
        here, there = jnp.arange(canvas)[::stride], partner(canvas, d[axis])[::stride]
        inside = [(p + offset >= 0) & (p + offset < size) for p in (here, there)]
        return jnp.broadcast_to(along(inside[0] & inside[1], axis, len(shape)), shape)

    return above.mask(("tap", axis, size, offset, shape), look)
