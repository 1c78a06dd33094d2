r"""Windowed pooling: the two positions of a pair range over their windows freely.

$$K'_{qq'} = \sum_{i, j} K_{s q + i,\, s q' + j}$$

Inputs are asked for in groups of displacements, of which each adds to the outputs at a
few displacements. No input is needed twice, and nothing of the inputs' resolution is
stored but a box of groups.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from eqtangents._buffers import materialised
from eqtangents.covariance._block import Block, BlockRule
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame, Scope
from eqtangents.covariance._pooled_axis import PooledAxis
from eqtangents.covariance._stencil import strided
from eqtangents.covariance._table import Sweep, at_displacement
from eqtangents.covariance._window import Window


class Pooled(AbstractCovariance):
    """Sums over all pairs of positions of two windows."""

    asks = "everywhere"
    asks_coinciding = "otherwise"
    nonzero_where_masked = True

    def __init__(self, upstream: AbstractCovariance, windows: tuple[Window, ...]):
        """Sum outputs over windows, one for each axis."""
        upstream, self.windows, outline = strided(upstream, windows)
        self.above = (upstream,)
        self.outline = outline.keeping(outline.canvas).replace(diagonal=False)

    def bind(self, frame: Frame) -> BlockRule:
        """Compute the displacements that are asked for, unless a table has them."""
        if not self.windows:
            return frame.bind(self.upstream)
        rank, canvas, reach = self.outline.rank, frame.canvas, frame.reach
        if canvas is None:
            canvas, reach = self.outline.canvas, (0,) * rank
        tables: list[_Table] = frame.scope.memo.once(self, frame.self_pairs, list)
        table = next((t for t in tables if t.serves(frame)), None)
        if table is None:
            axes = tuple(map(PooledAxis, self.windows, canvas, reach))
            table = _Table(self._blocks(frame.scope, axes, frame.self_pairs), axes)
            tables.append(table)
        if frame.canvas is not None:
            return frame.lookup(table.blocks, table.look)
        zero, crop = jnp.zeros(rank, jnp.int32), tuple(map(slice, self.outline.size))
        look = lambda leaf: table.look(leaf, zero)[..., *crop]
        return frame.constant(jax.tree.map(look, table.blocks))

    def _blocks(
        self, scope: Scope, axes: tuple[PooledAxis, ...], self_pairs: bool
    ) -> Block:
        """The blocks of a table, `(*displacements, *pairs, *canvas)`."""
        canvas, above, reach = (
            tuple(getattr(axis, name) for axis in axes)
            for name in ("canvas", "above", "above_reach")
        )
        sweep = Sweep(scope, self.upstream, above, self_pairs=self_pairs, reach=reach)
        rows = tuple(axis.groups + axis.spread for axis in axes)
        empty = jnp.broadcast_to(scope.zero, (*rows, *sweep.frame.pairs, *canvas))
        wants_ntk = sweep.frame.wants_ntk and self.outline.trainable
        tables = Block(empty, empty if wants_ntk else None)
        groups = tuple(axis.groups for axis in axes)
        most = sweep.most // math.prod(len(axis.residues) for axis in axes)
        box = _box_of(groups, tuple(axis.spread for axis in axes), most)
        counts = tuple(g // b for g, b in zip(groups, box, strict=True))
        corners = np.array([*np.ndindex(*counts)], np.int32) * np.array([box], np.int32)

        def add(tables: Block, corner: Int[Array, " rank"]) -> tuple[Block, None]:
            slabs = _box_sums(sweep, axes, box, corner)
            put = lambda table, slab: _added_at(table, slab, corner)
            return jax.tree.map(put, tables, slabs), None

        tables, _ = lax.scan(add, tables, jnp.asarray(corners))
        for number, axis in enumerate(axes):
            tables = jax.tree.map(functools.partial(axis.folded, number), tables)
        return tables


class _Table(NamedTuple):
    """The blocks at some displacements, `(*displacements, *pairs, *canvas)`."""

    blocks: Block
    axes: tuple[PooledAxis, ...]

    def serves(self, frame: Frame) -> bool:
        """Whether the table has all displacements that a frame asks for."""
        if frame.canvas is None:
            return True
        return frame.canvas == tuple(axis.canvas for axis in self.axes) and all(
            axis.whole or axis.reach >= reach
            for axis, reach in zip(self.axes, frame.reach, strict=True)
        )

    def look(
        self, leaf: Float[Array, "..."], d: Int[Array, " rank"]
    ) -> Float[Array, "..."]:
        """The block at a displacement."""
        rows = [axis.row(d[i]) for i, axis in enumerate(self.axes)]
        return at_displacement(leaf, jnp.stack(rows))


def _box_of(
    counts: tuple[int, ...], spreads: tuple[int, ...], most: int
) -> tuple[int, ...]:
    """The sizes of equal boxes that divide a grid, of at most so many points or one.

    Along each axis a box adds to so many more rows than it has points: there are as few
    rows as can be, for all points together.
    """
    divisors = [[b for b in range(1, n + 1) if not n % b] for n in counts]
    boxes = [b for b in itertools.product(*divisors) if math.prod(b) <= max(1, most)]
    share = lambda b, spread: (b + spread) / b
    return min(boxes, key=lambda box: math.prod(map(share, box, spreads)))


def _box_sums(
    sweep: Sweep,
    axes: tuple[PooledAxis, ...],
    box: tuple[int, ...],
    corner: Int[Array, " rank"],
) -> Block:
    """The sums that a box of groups adds to the rows of a table from its corner on."""
    here = [*zip(axes, corner, box, strict=True)]
    counted = materialised(lambda: [axis.counted(c, b) for axis, c, b in here], corner)
    first = [axis.inputs(groups) for axis, groups in zip(axes, box, strict=True)]
    first = np.stack(np.meshgrid(*first, indexing="ij"), -1).astype(np.int32)
    strides = np.array([axis.window.stride for axis in axes], np.int32)
    canvas = np.array([axis.above for axis in axes], np.int32)
    start = (corner * strides)[None]
    displacements = (start + first.reshape(-1, len(axes))) % canvas[None]

    def slab(leaf: Float[Array, "..."]) -> Float[Array, "..."]:
        leaf = leaf.reshape(*first.shape[:-1], *leaf.shape[1:])
        for number, axis in enumerate(axes):
            leaf = axis.summed(leaf, number, len(axes), counted[number])
        return leaf

    return jax.tree.map(slab, sweep.blocks(displacements))


def _added_at(
    table: Float[Array, "..."], slab: Float[Array, "..."], row: Int[Array, " rank"]
) -> Float[Array, "..."]:
    """A table with a slab added to the rows that begin at `row`."""
    start = [*row] + [jnp.zeros((), row.dtype)] * (table.ndim - row.size)
    old = lax.dynamic_slice(table, start, slab.shape)
    return lax.dynamic_update_slice(table, old + slab, start)
