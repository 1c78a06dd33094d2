"""Covariances stored at all displacements of a canvas: computed, arranged, looked up.

A table `(*canvas, *pairs, *canvas)` has the displacement first and the position last. A
dense covariance `(*pairs, *size, *size)` has the two positions of each pair.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from eqtangents._budget import budget
from eqtangents._transposed import with_transpose
from eqtangents.covariance._block import Block, BlockRule
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame, Scope
from eqtangents.covariance._lattice import along, displacements, largest_divisor
from eqtangents.covariance._outline import Outline


class Sweep:
    """A loop over displacements of one covariance, on one canvas."""

    def __init__(
        self,
        scope: Scope,
        node: AbstractCovariance,
        canvas: tuple[int, ...],
        *,
        self_pairs: bool,
        reach: tuple[int, ...] | None = None,
    ):
        """Bind the rule of `node`, and so compute all that no displacement changes.

        Along each axis, displacements are at most `reach`; by default they are all.
        """
        self.canvas, self.reach = canvas, canvas if reach is None else reach
        self.frame = scope.frame(self_pairs=self_pairs, canvas=canvas, reach=self.reach)
        self.rule = self.frame.bind_in_order(node)

    @property
    def most(self) -> int:
        """How many displacements fill a block, the widest of all that lead here."""
        entries = math.prod(self.frame.pairs) * self.frame.registry.widest
        itemsize = self.frame.scope.dtype.itemsize
        return max(1, budget().block_bytes // (entries * itemsize))

    def batches(self) -> Int[Array, "batches batch rank"]:
        """The displacements, split into equal batches that fill a block."""
        return self._split(jnp.asarray(displacements(self.canvas, self.reach)))

    def _split(
        self, displacements: Int[Array, "n rank"]
    ) -> Int[Array, "batches batch rank"]:
        count, rank = displacements.shape
        return displacements.reshape(-1, largest_divisor(count, self.most), rank)

    def batch(self, displacements: Int[Array, "n rank"]) -> Block:
        """The blocks of a batch, recomputed when differentiated."""
        blocks = lambda ds: self.frame.apart(self.frame.blocks(self.rule, ds))
        return jax.checkpoint(blocks)(displacements)

    def blocks(self, displacements: Int[Array, "n rank"]) -> Block:
        """The blocks at any number of displacements, a batch after the other."""
        batches = self._split(displacements)
        if batches.shape[0] == 1:
            return self.batch(displacements)
        blocks = lax.map(self.batch, batches)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), blocks)


def at_displacement(
    table: Float[Array, "..."], d: Int[Array, " rank"]
) -> Float[Array, "..."]:
    """The block of a table at a displacement, `(*pairs, *canvas)`."""
    rank = d.shape[0]
    start = [*d] + [jnp.zeros((), d.dtype)] * (table.ndim - rank)
    row = lax.dynamic_slice(table, start, (1,) * rank + table.shape[rank:])
    return row[(0,) * rank]


class Stored(AbstractCovariance):
    """A covariance whose tables are at hand, one for each kind of pairs."""

    in_buffers = True

    def __init__(self, tables: dict[bool, Block], outline: Outline):
        """Serve the tables of a covariance, with `self_pairs` as keys."""
        self.tables, self.outline = tables, outline

    def bind(self, frame: Frame) -> BlockRule:
        table = self.tables[frame.self_pairs]
        if frame.canvas is not None:
            assert frame.canvas == self.outline.canvas
            return frame.lookup(table, at_displacement)
        zero = jnp.zeros(self.outline.rank, jnp.int32)
        crop = tuple(map(slice, self.outline.size))
        look = lambda leaf: at_displacement(leaf, zero)[..., *crop]
        return frame.constant(jax.tree.map(look, table))


def tabulate(
    scope: Scope,
    node: AbstractCovariance,
    canvas: tuple[int, ...],
    *,
    self_pairs: bool,
) -> Block:
    """The table of a covariance, `(*canvas, *pairs, *canvas)`."""

    def build() -> Block:
        sweep = Sweep(scope, node, canvas, self_pairs=self_pairs)
        stacked = lax.map(sweep.batch, sweep.batches())
        return jax.tree.map(lambda leaf: leaf.reshape(canvas + leaf.shape[2:]), stacked)

    node = scope.stored.get(node, node)
    if isinstance(node, Stored) and canvas == node.outline.canvas:
        return node.tables[self_pairs]
    return scope.memo.once(node, ("table", canvas, self_pairs), build)


def tables_of(
    scope: Scope, node: AbstractCovariance, canvas: tuple[int, ...]
) -> dict[bool, Block]:
    """The tables of a covariance for both kinds of pairs, with `self_pairs` as keys."""
    return {own: tabulate(scope, node, canvas, self_pairs=own) for own in (True, False)}


def dense_block(
    scope: Scope, node: AbstractCovariance, *, self_pairs: bool = False
) -> Block:
    """The entries of all pairs of positions, `(*pairs, *size, *size)`."""
    canvas, size, rank = node.outline.canvas, node.outline.size, node.outline.rank
    if not rank:
        return scope.coincident(node, self_pairs=self_pairs)
    crop = tuple(map(slice, size))

    def pick(table: Float[Array, "..."]) -> Float[Array, "..."]:
        # (*displacement, *pairs, *position) -> (*pairs, *position, *displacement)
        entries = jnp.moveaxis(table, range(rank), range(-rank, 0))
        return _turned(entries, rank, -1)[(..., *crop, *crop)]

    return jax.tree.map(pick, tabulate(scope, node, canvas, self_pairs=self_pairs))


def coinciding(
    dense: Float[Array, "..."], size: tuple[int, ...]
) -> Float[Array, "..."]:
    """The entries of a dense covariance at coinciding positions, `(*pairs, *size)`."""
    here = [along(np.arange(h), axis, len(size)) for axis, h in enumerate(size)]
    return dense[(*[slice(None)] * (dense.ndim - 2 * len(size)), *here, *here)]


def by_displacement(
    dense: Float[Array, "..."], canvas: tuple[int, ...]
) -> Float[Array, "..."]:
    """The table of a dense covariance whose positions fill a canvas."""
    rank = len(canvas)
    # (*pairs, *position, *displacement) -> (*displacement, *pairs, *position)
    return jnp.moveaxis(_turned(dense, rank, 1), range(-rank, 0), range(rank))


def _turned(x: Float[Array, "..."], rank: int, turns: int) -> Float[Array, "..."]:
    """Entries `(*p, *i)` from `(*p, *j)` where `j` is `i + turns * p`, around a canvas.

    It turns second positions into displacements, and these back. Its transpose turns
    the other way; JAX would scatter, an entry after the other.
    """

    def turned(x: Float[Array, "..."], turns: int) -> Float[Array, "..."]:
        sizes = [*enumerate(x.shape[-rank:])]
        # Counted by the program: a constant of NumPy's has no place on a mesh in which
        # the solution of an equation, which this stands for, could be transposed.
        count = lambda g, axis: along(jnp.arange(g), axis, 2 * rank)
        here = [count(g, axis) for axis, g in sizes]
        there = [(count(g, rank + axis) + turns * here[axis]) % g for axis, g in sizes]
        entries = x.at[(..., *here, *there)]
        return entries.get(mode="promise_in_bounds", wrap_negative_indices=False)

    forth, back = lambda x: turned(x, turns), lambda x: turned(x, -turns)
    return with_transpose(forth, back, x)
