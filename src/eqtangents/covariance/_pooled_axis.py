r"""Windowed pooling along one axis, for the displacements of a group at a time.

$$K'_{qq'} = \sum_{i, j} K_{s q + i,\, s q' + j}$$

One position after the other: first the sums $M_{q, p'}$ over $i$ alone, with the second
position fixed, so that an input at the displacement $e$ is part of $M$ at $f = e + i$;
then those over $j$, of all $M$ at $f = s t + j$, where $t = q' - q$. That takes $2 c$
additions for windows of $c$ positions, not $c^2$, and the second half adds up whole
blocks. Windows that share no input are added up at once: that is an addition for each
input. Inputs come in groups of all $e = s t + \rho$ with $0 \le \rho < s$; a group
adds to the outputs at $t$ and at a few displacements before and after it.
"""

import dataclasses
import functools
import itertools
import operator
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents.covariance._borders import entries_from, surrounded_along
from eqtangents.covariance._lattice import along, positions, where
from eqtangents.covariance._window import Window
from eqtangents.covariance._window_sums import Taps, masked_sum, taps_under


# Of the rows of some groups, where an input exists, if not everywhere.
_Existing: TypeAlias = Bool[Array, "rows canvas"] | None


# Of so many positions, a window has few pairs of them.
_FEW = 8


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
            if window.always_meets(offset):
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
        entry = block.ndim - rank + number
        block = self._with_all_residues(block, number)
        block = self._with_borders(block, entry)
        others = [axis for axis in range(block.ndim) if axis not in (number, entry)]
        masks = [None if m is None else jnp.expand_dims(m, others) for m in counted]
        # What precedes a later axis is a sum, which its terms would compute anew.
        apart = not (self.window.overlapping or number) and self.window.count <= _FEW
        add_up = self._all_at_once if apart else self._one_after_the_other
        return add_up(block, number, entry, masks)

    def _with_borders(
        self, block: Float[Array, "..."], entry: int
    ) -> Float[Array, "..."]:
        """The block with all that windows see along an axis, zeros beyond the input."""
        window, canvas = self.window, block.shape[entry]
        if not window.periodic and canvas > window.size_in:
            exist = positions(canvas) < window.size_in
            block = where(along(exist, 0, block.ndim - entry), block)
        ends = window.reach(canvas, self.canvas)
        return surrounded_along(block, entry, ends, window.periodic)

    def _taps(
        self, block: Float[Array, "..."], entry: int
    ) -> list[Float[Array, "..."]]:
        """The entries under each offset, of a block with its borders."""
        low, _ = self.window.reach(self.above, self.canvas)
        return taps_under(block, entry, self.window, low, self.canvas)

    def _one_after_the_other(
        self,
        block: Float[Array, "..."],
        number: int,
        entry: int,
        masks: Taps,
    ) -> Float[Array, "..."]:
        """The sums over first positions, and of these the sums over second ones."""
        count, stride = self.window.count, self.window.stride
        given, more = block.shape[number], count - 1
        block = surrounded_along(block, number, (more, more))
        sums = functools.reduce(
            operator.add,
            (
                entries_from(tap, number, more - i, given + more)
                for i, tap in enumerate(self._taps(block, entry))
            ),
        )
        outputs, start = given // stride + self.spread, self.before * stride
        stop = (outputs - 1) * stride + count - start - sums.shape[number]
        sums = surrounded_along(sums, number, (start, max(0, stop)))
        taps = [entries_from(sums, number, j, outputs, stride) for j in range(count)]
        return masked_sum(taps, masks)

    def _all_at_once(
        self,
        block: Float[Array, "..."],
        number: int,
        entry: int,
        masks: Taps,
    ) -> Float[Array, "..."]:
        """The sums over pairs of offsets, where no two windows share an input.

        A group adds to its own row, and with offsets `j < i` to the next.
        """
        count, stride = self.window.count, self.window.stride
        groups, total = block.shape[number] // stride, []
        # XLA computes what is read in up to 15 places there, unless it has a border.
        border = 1 if count**2 <= 15 else 0
        taps = [
            surrounded_along(tap, number, (0, border))
            for tap in self._taps(block, entry)
        ]
        for after in range(self.spread + 1):
            of_rows = [
                None if m is None else entries_from(m, number, after, groups)
                for m in masks
            ]
            offsets = itertools.product(range(count), repeat=2)
            pairs = [(i, j) for i, j in offsets if (j < i) == after]
            first = stride * after
            terms = [
                entries_from(taps[i], number, first + j - i, groups, stride)
                for i, j in pairs
            ]
            rows = masked_sum(terms, [of_rows[j] for _, j in pairs])
            ends = (after, self.spread - after)
            total.append(surrounded_along(rows, number, ends))
        return functools.reduce(operator.add, total)

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
            first, again = (entries_from(table, number, i, count) for i in (0, start))
            total = lax.optimization_barrier(first + again)  # It is put in its place.
            table = lax.dynamic_update_slice(table, total, [0] * table.ndim)
        return table

    def row(self, d: Int[Array, ""]) -> Int[Array, ""]:
        """The row of a displacement in the table; `first - before` is in the first."""
        if self.whole:
            return (d + self.before) % self.canvas
        return (d + self.reach) % self.canvas + self.spread
