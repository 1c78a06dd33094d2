r"""Windowed pooling along one axis, for the displacements of a group at a time.

$$K'_{qq'} = \sum_{i, j} K_{s q + i,\, s q' + j}$$

One position after the other: first the sums $M_{q, p'}$ over $i$ alone, with the second
position fixed, so that an input at the displacement $e$ is part of $M$ at $f = e + i$;
then those over $j$, of all $M$ at $f = s t + j$, where $t = q' - q$. That takes $2 c$
additions for windows of $c$ positions, not $c^2$, and the second half adds up whole
blocks. Inputs come in groups of all $e = s t + \rho$ with $0 \le \rho < s$; a group
adds to the outputs at $t$ and at a few displacements before and after it.
"""

import dataclasses
import functools
import operator
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents.covariance._lattice import along, positions, where
from eqtangents.covariance._window import Window
from eqtangents.covariance._window_sums import masked_sum, surrounded


# Of the rows of some groups, where an input exists, if not everywhere.
_Existing: TypeAlias = Bool[Array, "rows canvas"] | None


@dataclasses.dataclass(frozen=True)
class PooledAxis:
    """One axis of a table: output displacements up to `reach`, on a canvas."""

    window: Window
    canvas: int
    reach: int

    @property
    def before(self) -> int:
        """How many rows before its own a group adds to."""
        return (self.window.count - 1) // self.window.stride

    @property
    def after(self) -> int:
        """How many rows after its own a group adds to."""
        return 1 + (self.window.count - 2) // self.window.stride

    @property
    def spread(self) -> int:
        """How many more rows than groups there are."""
        return self.before + self.after

    @functools.cached_property
    def residues(self) -> list[int]:
        r"""Every $\rho$ that some pair of offsets leads to."""
        stride, count = self.window.stride, self.window.count
        return sorted({delta % stride for delta in range(1 - count, count)})

    @property
    def whole(self) -> bool:
        """Whether groups go all around the canvas, and so hold every displacement."""
        return 2 * self.reach + self.spread + 1 >= self.canvas

    @property
    def first(self) -> int:
        """The `t` of the first group."""
        return 0 if self.whole else -self.reach - self.after

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self.canvas if self.whole else 2 * self.reach + self.spread + 1

    @property
    def above(self) -> int:
        """The canvas of the inputs."""
        return self.canvas * self.window.stride

    @property
    def above_reach(self) -> int:
        """The largest displacement of the inputs, either way."""
        end = self.first + self.groups
        return self.above if self.whole else self.window.stride * max(end, -self.first)

    def inputs(self, groups: int) -> Int[np.ndarray, " groups_and_residues"]:
        """The displacements of the first groups, which may be negative."""
        steps = (self.first + np.arange(groups))[:, None] * self.window.stride
        return (steps + np.array(self.residues)).reshape(-1)

    def counted(self, corner: Int[Array, ""], groups: int) -> list[_Existing]:
        """Where the second input of a pair exists, for the rows of some groups.

        For each offset; `None` where it exists whenever the output does.
        """
        window = self.window
        rows = np.arange(groups + self.spread) + (self.first - self.before)
        t = corner + rows.astype(np.int32)
        output = (positions(self.canvas)[None] + t[:, None]) % self.canvas

        def inside(offset: int) -> _Existing:
            places = np.arange(window.size_out) * window.stride + offset
            if window.periodic or np.all((places >= 0) & (places < window.size_in)):
                return None
            there = output * window.stride + offset
            return (there >= 0) & (there < window.size_in)

        return [inside(offset) for offset in window.offsets]

    def summed(
        self,
        block: Float[Array, "..."],
        number: int,
        rank: int,
        counted: list[_Existing],
    ) -> Float[Array, "..."]:
        """The rows that groups add up to, along the axis of positions of this number.

        The block is `(*rows, *pairs, *canvas)`, with a row for each input of a group.
        """
        window, entry = self.window, block.ndim - rank + number
        count, stride = window.count, window.stride
        block = self._with_all_residues(block, number)
        outputs = block.shape[number] // stride + self.spread
        rows = (outputs - 1) * stride + count
        sums = self._over_first(block, number, entry, rows)
        taps = [_slices(sums, number, j, outputs, stride) for j in range(count)]
        others = [axis for axis in range(block.ndim) if axis not in (number, entry)]
        masks = [None if m is None else jnp.expand_dims(m, others) for m in counted]
        return masked_sum(taps, masks)

    def _over_first(
        self, block: Float[Array, "..."], number: int, entry: int, rows: int
    ) -> Float[Array, "..."]:
        """The sums over first positions, in as many rows as those over second need.

        Inputs that several windows share have zeros in the rows around them, once;
        otherwise those under each offset do: they are not more in all.
        """
        window, count = self.window, self.window.count
        shared, given = window.overlapping, block.shape[number]
        low, high = window.reach(block.shape[entry], self.canvas)
        if not window.periodic and block.shape[entry] > window.size_in:
            exist = positions(block.shape[entry]) < window.size_in
            block = where(along(exist, 0, block.ndim - entry), block)
        block = _surrounded_along(block, entry, low, high, window.periodic)
        if shared:
            block = _surrounded_along(block, number, count - 1, count - 1)

        def tap(i: int) -> Float[Array, "..."]:
            start = low + window.offsets[i]
            one = _slices(block, entry, start, self.canvas, window.stride)
            if shared:
                return _slices(one, number, count - 1 - i, given + count - 1)
            return _surrounded_along(one, number, i, max(0, rows - given - i))

        sums = functools.reduce(operator.add, map(tap, range(count)))
        if not shared:
            return sums
        start = self.before * window.stride
        more = rows - start - sums.shape[number]
        return _surrounded_along(sums, number, start, more)

    def _with_all_residues(
        self, block: Float[Array, "..."], number: int
    ) -> Float[Array, "..."]:
        """The inputs of groups, zero for residues that no pair of offsets leads to."""
        stride, own = self.window.stride, self.residues
        if len(own) == stride:
            return block
        lead, rest = block.shape[:number], block.shape[number + 1 :]
        given = jnp.moveaxis(block.reshape(*lead, -1, len(own), *rest), number + 1, 0)
        every = [
            given[own.index(rho)] if rho in own else jnp.zeros_like(given[0])
            for rho in range(stride)
        ]
        return jnp.stack(every, number + 1).reshape(*lead, -1, *rest)

    def folded(self, number: int, table: Float[Array, "..."]) -> Float[Array, "..."]:
        """A table whose first rows have what rows a whole canvas later have, too.

        These have one displacement.
        """
        rows = table.shape[number]
        for start in range(self.canvas, rows if self.whole else 0, self.canvas):
            count = min(self.canvas, rows - start)
            first, again = (_slices(table, number, i, count) for i in (0, start))
            total = lax.optimization_barrier(first + again)  # It is put in its place.
            table = lax.dynamic_update_slice(table, total, [0] * table.ndim)
        return table

    def row(self, d: Int[Array, ""]) -> Int[Array, ""]:
        """The row of a displacement in the table; `first - before` is in the first."""
        if self.whole:
            return (d + self.before) % self.canvas
        return (d + self.reach) % self.canvas + self.spread


def _surrounded_along(
    block: Float[Array, "..."],
    axis: int,
    low: int,
    high: int,
    periodic: bool = False,
) -> Float[Array, "..."]:
    widths = [(0, 0)] * block.ndim
    widths[axis] = (low, high)
    return surrounded(block, widths, {axis} if periodic else ())


def _slices(
    block: Float[Array, "..."], axis: int, start: int, count: int, stride: int = 1
) -> Float[Array, "..."]:
    """So many entries of an axis, the first of them at `start`."""
    stop = start + (count - 1) * stride + 1
    return lax.slice_in_dim(block, start, stop, stride, axis)
