"""Where the channels and positions of a layer's output stand in an array.

A layer has its output as `(channels, *spatial)`; a program has it in any order, with
axes split and merged. Both are sequences of the same factors: an axis of 12 heads of 64
channels is one axis of 768, or two.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True, eq=False)
class AxisFactor:
    """A part of an axis, of some size above one; compared by identity."""

    size: int


AxisFactors = tuple[AxisFactor, ...]


def axis_factors(size: int) -> AxisFactors:
    """A new factor of a size; axes of size one have none."""
    return () if size == 1 else (AxisFactor(size),)


def size_of_factors(of_axis: Sequence[AxisFactor]) -> int:
    """The size of an axis."""
    return math.prod(factor.size for factor in of_axis)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The factors of an array's axes, and those of the layer's output that it shows.

    AxisFactors of `axes` that the output has not are repetitions.
    """

    channels: AxisFactors
    positions: tuple[AxisFactors, ...]
    axes: tuple[AxisFactors, ...]

    @classmethod
    def first(cls, shape: Sequence[int]) -> "Layout":
        """The layout of the output itself."""
        channels, *positions = (axis_factors(n) for n in shape)
        return cls(channels, tuple(positions), (channels, *positions))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(map(size_of_factors, self.axes))

    @property
    def spatial(self) -> AxisFactors:
        """The factors of all positions, in the order of the output."""
        return tuple(factor for axis in self.positions for factor in axis)

    @property
    def repeated(self) -> AxisFactors:
        """The factors along which the array only repeats."""
        own = {*self.channels, *self.spatial}
        return tuple(f for axis in self.axes for f in axis if f not in own)

    def with_axes(self, axes: Sequence[AxisFactors]) -> "Layout":
        """The same output, seen with other axes."""
        return Layout(self.channels, self.positions, tuple(axes))

    def transposed(self, order: Sequence[int]) -> "Layout":
        """With axes in another order."""
        return self.with_axes([self.axes[axis] for axis in order])

    def split(self, factor: AxisFactor, parts: AxisFactors) -> "Layout":
        """With a factor written as a product."""
        replaced = lambda axis: tuple(
            part for f in axis for part in (parts if f is factor else (f,))
        )
        return Layout(
            replaced(self.channels),
            tuple(map(replaced, self.positions)),
            tuple(map(replaced, self.axes)),
        )

    def reshaped(self, shape: Sequence[int]) -> "Layout | None":
        """With axes of other sizes; `None` if these cut through factors."""
        layout, axes = self, []
        start = 0
        for n in shape:
            taken, need = [], n
            while need > 1:
                row = [f for axis in layout.axes for f in axis]
                factor = row[start]
                if need % factor.size:
                    if factor.size % need:
                        return None
                    parts = (AxisFactor(need), AxisFactor(factor.size // need))
                    layout = layout.split(factor, parts)
                    factor = parts[0]
                taken.append(factor)
                need //= factor.size
                start += 1
            axes.append(len(taken))
        row, cut = [f for axis in layout.axes for f in axis], 0
        groups = []
        for count in axes:
            groups.append(tuple(row[cut : cut + count]))
            cut += count
        return layout.with_axes(groups)

    def signature(self) -> tuple:
        """The same for layouts that differ in how factors are named or split alone."""
        places = {}
        for number, group in enumerate((self.channels, *self.positions)):
            stride = 1
            for factor in reversed(group):
                places[factor] = (number, stride)
                stride *= factor.size
        marks = []
        for axis in self.axes:
            merged: list[list[int]] = []
            for factor in axis:
                number, stride = places.get(factor, (-1, 0))
                last = merged[-1] if merged else [-2, 0, 0]
                follows = number < 0 or last[1] == stride * factor.size
                if last[0] == number and follows:
                    last[1], last[2] = stride, last[2] * factor.size
                else:
                    merged.append([number, stride, factor.size])
            marks.append(tuple(map(tuple, merged)))
        return tuple(marks)


def matched(one: Layout, other: Layout) -> tuple[Layout, Layout] | None:
    """Both layouts of arrays of one shape, split until their factors pair up."""
    for axis in range(len(one.axes)):
        i = 0
        while i < len(one.axes[axis]):
            a, b = one.axes[axis][i], other.axes[axis][i]
            if a.size > b.size:
                if a.size % b.size:
                    return None
                one = one.split(a, (AxisFactor(b.size), AxisFactor(a.size // b.size)))
            elif b.size > a.size:
                if b.size % a.size:
                    return None
                other = other.split(
                    b, (AxisFactor(a.size), AxisFactor(b.size // a.size))
                )
            i += 1
    return one, other


def shown_array(
    value: Float[np.ndarray, "..."], layout: Layout
) -> Float[np.ndarray, "..."]:
    """The array that a layout has, of a layer's output."""
    row = [*layout.channels, *layout.spatial, *layout.repeated]
    own = len(row) - len(layout.repeated)
    value = value.reshape([f.size for f in row[:own]] + [1] * len(layout.repeated))
    value = np.broadcast_to(value, [f.size for f in row])
    order = [row.index(f) for axis in layout.axes for f in axis]
    return value.transpose(order).reshape(layout.shape)


def output_array(
    array: Float[np.ndarray, "..."], layout: Layout
) -> Float[np.ndarray, "..."]:
    """A layer's output, of the array that a layout without repetitions has."""
    row = [f for axis in layout.axes for f in axis]
    array = array.reshape([f.size for f in row])
    order = [row.index(f) for f in (*layout.channels, *layout.spatial)]
    shape = [size_of_factors(g) for g in (layout.channels, *layout.positions)]
    return array.transpose(order).reshape(shape)
