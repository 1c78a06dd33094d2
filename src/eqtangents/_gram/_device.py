"""What one device does: the tiles of its rows, and the exchange with the others."""

import math
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from eqtangents._gram._pairs import AbstractPairs
from eqtangents._gram._plan import Plan
from eqtangents._tile_plan import Examples, examples_from
from eqtangents._tiles import mirrored, swapped_axes


# The rows of a matrix that a device has, or of each of several matrices.
MatrixRows: TypeAlias = PyTree[Shaped[Array, "..."]]


class Corner(NamedTuple):
    """Where a tile begins, as `Plan.table` tells."""

    row: Int[Array, ""]  # among the device's rows
    source: Int[Array, ""]  # among the examples of columns that are at hand
    column: Int[Array, ""]  # among the device's columns
    own: Int[Array, ""]  # whether these are the examples of the device's own rows


class Device(NamedTuple):
    """One of the devices that carry out a plan."""

    pairs: AbstractPairs
    plan: Plan
    axes: tuple[str, ...]  # of the mesh, that rows are split over

    def empty(self, x1: Examples, x2: Examples) -> MatrixRows:
        """MatrixRows of NaN: a tile that nobody computes is seen."""
        zero = jnp.zeros((), jnp.int32)
        shapes = eqx.filter_eval_shape(
            self._tile, x1, x2, Corner(zero, zero, zero, zero)
        )

        def rows(like: jax.ShapeDtypeStruct) -> Shaped[Array, "..."]:
            fill = jnp.nan if jnp.issubdtype(like.dtype, jnp.inexact) else 0
            shape = (self.plan.rows, self.plan.width, *like.shape[2:])
            return jnp.full(shape, fill, like.dtype)

        return jax.tree.map(rows, shapes)

    def advanced(
        self,
        rows: MatrixRows,
        x1: Examples,
        x2: Examples,
        tiles: Int[Array, "length 4"],
    ) -> MatrixRows:
        """The rows with some more tiles, one after the other."""
        size = self.plan.sizes[0]

        def step(
            rows: MatrixRows, numbers: Int[Array, " 4"]
        ) -> tuple[MatrixRows, None]:
            tile = Corner(*numbers)
            found = jax.checkpoint(self._tile)(x1, x2, tile)

            def put(
                row: Shaped[Array, "..."], block: Shaped[Array, "..."]
            ) -> Shaped[Array, "..."]:
                start = [tile.row, tile.column] + [jnp.zeros_like(tile.row)] * (
                    block.ndim - 2
                )
                row = lax.dynamic_update_slice(row, block, start)
                if self.plan.mirrors_alone:
                    start = jnp.stack([tile.row, tile.column])
                    return mirrored(row, size, start, self.pairs.shared_axes)
                return row

            return jax.tree.map(put, rows, found), None

        return lax.scan(step, rows, tiles)[0]

    def moved_on(self, x2: Examples) -> Examples:
        """The examples of columns that the next device had."""
        count = self.plan.row_devices
        if count == 1:
            return x2
        order = [((device + 1) % count, device) for device in range(count)]
        return jax.tree.map(lambda leaf: lax.ppermute(leaf, self.axes, order), x2)

    def completed(self, rows: MatrixRows) -> MatrixRows:
        """The rows with what other devices have of their mirror."""
        if not self.plan.symmetric or self.plan.mirrors_alone:
            return rows
        return jax.tree.map(self._with_mirror, rows)

    @property
    def _number(self) -> Int[Array, ""]:
        if not self.axes:
            return jnp.zeros((), jnp.int32)
        return lax.axis_index(self.axes).astype(jnp.int32)

    def _tile(self, x1: Examples, x2: Examples, tile: Corner) -> MatrixRows:
        size1, size2 = self.plan.sizes
        part1 = examples_from(x1, tile.row, size1)
        part2 = examples_from(x2, tile.source, size2)
        if not self.plan.symmetric:
            return self.pairs(part1, part2, None)
        if self.plan.ring:
            own = examples_from(x1, tile.source, size2)
            pick = lambda a, b: lax.select(tile.own > 0, a, b)
            part2 = jax.tree.map(pick, own, part2)
        first_row = self._number * self.plan.rows + tile.row - tile.column
        return self.pairs(part1, part2, first_row)

    def _with_mirror(self, leaf: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        rows, _, *rest = leaf.shape
        parts = leaf.reshape(rows, self.plan.blocks, rows, *rest)
        parts = lax.all_to_all(parts, self.axes, 1, 1)
        # (other, block, own, *shared, *p, *q): others' rows and this one's columns
        shared = self.pairs.shared_axes
        swapped = swapped_axes(len(rest), shared)
        order = (2, 1, 0, *(3 + axis for axis in swapped))
        mirror = parts.transpose(order).reshape(leaf.shape)
        positions = rest[shared : (shared + len(rest)) // 2]
        owned = self._owned_positions(self._owned_entries(), positions)
        owned = jnp.expand_dims(owned, tuple(range(2, 2 + shared)))
        return jnp.where(owned, leaf, mirror)

    def _owned_entries(self) -> tuple[Bool[Array, "rows width"], Bool[Array, "r w"]]:
        """Which entries count as this device's, and which are an example with itself.

        Of two that mirror each other one does: of those within a tile the upper one.
        """
        plan, size = self.plan, self.plan.sizes[0]
        table = lax.dynamic_index_in_dim(
            jnp.asarray(plan.owned()), self._number, keepdims=False
        )
        count, blocks = table.shape[0], plan.blocks
        # Each tile's fact is broadcast to its entries: a gather of them would be slow.
        owned = jnp.broadcast_to(
            table.reshape(count, 1, blocks, count, 1),
            (count, size, blocks, count, size),
        )
        owned = owned.reshape(count * size, blocks, count * size)
        owned = owned[: plan.rows, :, : plan.rows].reshape(plan.rows, plan.width)
        row = jnp.arange(plan.rows, dtype=jnp.int32) + self._number * plan.rows
        column = jnp.arange(plan.width, dtype=jnp.int32)
        tile = lambda at: at // plan.rows * count + at % plan.rows // size
        row, column = row[:, None], column[None]
        below = (row > column) & (tile(row) == tile(column))
        return owned & ~below, row == column

    def _owned_positions(
        self, owned: tuple[Bool[Array, "rows width"], Bool[Array, "r w"]], size: list
    ) -> Bool[Array, "rows width *positions"]:
        """The same of pairs of positions, those of one example with itself halved."""
        entries, identical = owned
        count = math.prod(size)
        below = jnp.arange(count)[:, None] > jnp.arange(count)[None]
        lead = (..., None, None)
        kept = entries[lead] & ~(identical[lead] & below[None, None])
        return kept.reshape(*entries.shape, *size, *size)
