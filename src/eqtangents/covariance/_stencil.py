"""Windows that move over positions, and convolutions: both positions move alike."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from eqtangents.covariance._block import Block, BlockRule, Evaluation, Lookup
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame
from eqtangents.covariance._gathered import recanvassed, wrap_uneven
from eqtangents.covariance._joined_rows import joined_mask, joined_sums
from eqtangents.covariance._lattice import along, partner, positions
from eqtangents.covariance._outline import Outline
from eqtangents.covariance._window import Window, seen_through
from eqtangents.covariance._window_sums import (
    Counted,
    SumUnder,
    TapWeights,
    sums_by_axis,
    sums_by_rows,
    sums_under,
    weighted_sums_under,
)


class Stencil(AbstractCovariance):
    r"""$K'_{pp'} = \sum_o K_{s p + o,\, s p' + o}$ over the offsets of a window.

    Or $\sum_o w_o K_{s p + o,\, s p' + o}$ with weights $w_o$. Inputs have `s` times
    the displacement of the outputs, so that a stride leaves all other displacements
    uncomputed.
    """

    nonzero_where_masked = True
    in_buffers = True

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
        self.nonnegative = upstream.nonnegative
        upstream, self.windows, outline = strided(upstream, windows)
        self.above, self.stride = (upstream,), tuple(w.stride for w in self.windows)
        self.outline = outline if mask is None else outline.replace(mask=mask)
        self.weights: TapWeights | None = None

    def weighted(self, weights: TapWeights) -> "Stencil":
        """The same inputs under the same windows, with a variance for each tap."""
        other = copy.copy(self)
        other.weights = weights
        return other

    def bind(self, frame: Frame) -> BlockRule:
        """Look the masks of all axes up, then sum."""
        windows, weights, factor = _taps_with_weight(self.windows, self.weights)
        above = frame.strided(self.stride)
        upstream = above.bind(self.upstream)
        canvas = self.outline.size if frame.canvas is None else frame.canvas
        summed = self._summed(frame, windows)
        joined = weights is None and summed is joined_sums
        counted = _tap_masks(above, windows, joined=joined)

        def sums(block: Float[Array, "..."], at: Evaluation) -> Float[Array, "..."]:
            here = [[tap and tap(at) for tap in of_axis] for of_axis in counted]
            if weights is not None:
                return weighted_sums_under(block, windows, canvas, here, weights)
            return sums_under(block, windows, canvas, here, summed)

        def total(block: Float[Array, "..."], at: Evaluation) -> Float[Array, "..."]:
            total = frame.together(sums(above.apart(block), at))
            return total if factor == 1 else jnp.asarray(factor, total.dtype) * total

        def rule(at: Evaluation) -> Block:
            nngp, ntk, _ = at(upstream)
            return Block(total(nngp, at), None if ntk is None else total(ntk, at))

        return rule

    def repeated(self, frame: Frame) -> bool:
        """Whether compilers repeat the whole sum wherever it is read."""
        windows, weights, _ = _taps_with_weight(self.windows, self.weights)
        return weights is not None or self._summed(frame, windows) is not sums_by_axis

    def _summed(self, frame: Frame, windows: tuple[Window, ...]) -> SumUnder:
        """How windows are summed whose taps weigh the same."""
        circles = [window.periodic for window in windows]
        known = frame.canvas is not None or all(circles)  # Else rows have no masks.
        if windows[-1].count == 1 or not known or circles == [True]:
            return sums_by_axis
        stay = not any(circles) and all(window.stride == 1 for window in windows)
        return joined_sums if frame.joined and stay else sums_by_rows


def _taps_with_weight(
    windows: tuple[Window, ...], weights: TapWeights | None
) -> tuple[tuple[Window, ...], TapWeights | None, float]:
    """The windows without what has no weight, the weights, and a factor for the sums.

    Taps alike, and so a single one, have no weights but the factor.
    """
    if not isinstance(weights, np.ndarray):
        return windows, weights, 1.0
    read = [np.unique(places) for places in np.nonzero(weights)]
    weights = weights[np.ix_(*read)]
    windows = tuple(
        dataclasses.replace(window, offsets=tuple(window.offsets[i] for i in places))
        for window, places in zip(windows, read, strict=True)
    )
    if np.all(weights == weights.flat[0]):
        return windows, None, float(weights.flat[0])
    return windows, weights, 1.0


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


def _tap_masks(
    above: Frame, windows: tuple[Window, ...], *, joined: bool
) -> list[list[Lookup[Counted] | None]]:
    """Register where both positions of an entry, moved with each tap, are inputs.

    `joined`: for `joined_sums`. Nothing is registered where all taps count, nor where
    positions coincide: there are zeros around them.
    """
    rank = len(windows)

    def tap(axis: int, offset: int) -> Lookup[Counted] | None:
        window = windows[axis]
        size, stride = window.size_in, window.stride
        if above.canvas is None or window.always_meets(offset):
            return None  # The partner is inside, too, wherever the output exists.
        canvas = above.canvas

        def placed(places: Bool[Array, " n"]) -> Bool[Array, "..."]:
            if joined:
                return joined_mask(places, axis, windows, canvas)
            return along(places, axis, rank)

        def look(d: Int[Array, " rank"]) -> Counted:
            here, there = positions(canvas[axis]), partner(canvas[axis], d[axis])
            inside = [
                (p[::stride] + offset >= 0) & (p[::stride] + offset < size)
                for p in (here, there)
            ]
            counted = Counted.of(inside[0] & inside[1], offset, stride)
            return jax.tree.map(placed, counted)

        reach = tuple(w.reach(g, g) for w, g in zip(windows, canvas, strict=True))
        key = ("tap", axis, size, offset, stride, rank, reach if joined else ())
        return above.mask(key, look)

    return [
        [tap(axis, offset) for offset in window.offsets]
        for axis, window in enumerate(windows)
    ]
