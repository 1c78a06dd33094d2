"""Windows that move over positions, and convolutions: both positions move alike."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

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


@dataclasses.dataclass(frozen=True)
class Window:
    """Output `q` covers inputs `q * stride + o` for the offsets `o`.

    Inputs out of range are zero, or wrap around where `periodic`.
    """

    offsets: tuple[int, ...]
    stride: int
    size_in: int
    size_out: int
    periodic: bool

    @classmethod
    def of(
        cls,
        size: int,
        *,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        padding: Literal["VALID", "SAME", "CIRCULAR"] | tuple[int, int] = "VALID",
    ) -> "Window":
        """The window of a kernel on an axis; its output may be empty or negative.

        `padding` may be the numbers of zeros before and after the input.
        """
        extent = (kernel - 1) * dilation + 1
        if padding == "VALID":
            padding = (0, 0)
        if not isinstance(padding, str):
            low, high = padding
            size_out = (low + size + high - extent) // stride + 1
        else:
            size_out = -(-size // stride)
            low = max((size_out - 1) * stride + extent - size, 0) // 2
        offsets = tuple(i * dilation - low for i in range(kernel))
        return cls(offsets, stride, size, size_out, padding == "CIRCULAR")

    @property
    def count(self) -> int:
        """The number of inputs that a window covers, in range or not."""
        return len(self.offsets)

    @property
    def padding(self) -> tuple[int, int]:
        """The number of inputs missing below the first and beyond the last."""
        return self.reach(self.size_in, self.size_out)

    def reach(self, size_in: int, size_out: int) -> tuple[int, int]:
        """The padding needed when input and output are stored on these canvases."""
        last = (size_out - 1) * self.stride + self.offsets[-1]
        return max(0, -self.offsets[0]), max(0, last - (size_in - 1))

    def counts(self) -> tuple[int, ...]:
        """The number of inputs in range that each window covers."""
        return tuple(
            len(self.offsets)
            if self.periodic
            else sum(0 <= q * self.stride + o < self.size_in for o in self.offsets)
            for q in range(self.size_out)
        )


def seen_through(
    mask: Bool[Array, "*n_and_size"], windows: Sequence[Window]
) -> Bool[Array, "*n_and_size_out"]:
    """The mask of outputs: an output exists where the centre of its window does.

    Where windows keep the size, the mask stays as it is.
    """
    if all(window.size_in == window.size_out for window in windows):
        return mask
    for axis, window in enumerate(windows, mask.ndim - len(windows)):
        centre = window.offsets[(window.count - 1) // 2]
        at = np.arange(window.size_out) * window.stride + centre
        at = at % window.size_in if window.periodic else at.clip(0, window.size_in - 1)
        mask = jnp.take(mask, at, axis)
    return mask


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
        """Sum one axis after the other."""
        strides = tuple(window.stride for window in self.windows)
        above = frame.strided(strides)
        upstream = above.bind(self.upstream)
        canvas = self.outline.size if frame.canvas is None else frame.canvas
        masks = [
            [
                _tap_mask(above, self.windows, axis, offset)
                if frame.canvas is not None and not window.periodic
                else None
                for offset in window.offsets
            ]
            for axis, window in enumerate(self.windows)
        ]

        def total(block: Float[Array, "..."], at: Evaluation) -> Float[Array, "..."]:
            for axis, window in enumerate(self.windows):
                here = [None if mask is None else mask(at) for mask in masks[axis]]
                block = window_sum(
                    block, axis - len(self.windows), window, canvas[axis], here
                )
            return block

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


def window_sum(
    block: Float[Array, "..."],
    axis: int,
    window: Window,
    size: int,
    masks: list[Bool[Array, "..."] | None],
) -> Float[Array, "..."]:
    """Sum the entries under each window along one axis.

    Each offset has a mask; where it is false, the entry counts as zero.
    """
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
) -> Lookup[Bool[Array, "..."]] | None:
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
        return None  # The partner is inside, too, wherever the output exists.

    def look(d: Int[Array, " rank"]) -> Bool[Array, "..."]:
        here, there = jnp.arange(canvas)[::stride], partner(canvas, d[axis])[::stride]
        inside = [(p + offset >= 0) & (p + offset < size) for p in (here, there)]
        return jnp.broadcast_to(along(inside[0] & inside[1], axis, len(shape)), shape)

    return above.mask(("tap", axis, size, offset, shape), look)
