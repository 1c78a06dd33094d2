"""A matrix of kernels that is computed anew, tile by tile, in each product."""

import math
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from eqtangents._arguments import described
from eqtangents._gram._gram import gram_of_pairs, lengthened
from eqtangents._gram._pairs import AbstractPairs
from eqtangents._gram._placement import Placement, whole_of
from eqtangents._products import matmul
from eqtangents._tile_plan import (
    Examples,
    batch_size,
    evenly,
    examples_from,
    like_one,
)
from eqtangents.solvers._backing import AbstractBacking, ColumnBlock, WholeMatrix


class NeverFormed(AbstractBacking):
    """The kernels of all pairs of two batches, or of one with itself.

    Of a symmetric matrix one of two tiles that mirror each other is computed, and used
    twice. Tiles are dealt to the devices of a mesh, which have all examples each.
    """

    pairs: AbstractPairs
    x1: Examples
    x2: Examples | None
    entry: np.dtype = eqx.field(static=True)
    tile: int = eqx.field(static=True)  # at most so many examples on a side
    mesh: Mesh | None = eqx.field(static=True)

    def __init__(
        self,
        pairs: AbstractPairs,
        x1: Examples,
        x2: Examples | None,
        tile: int,
        mesh: Mesh | None,
    ):
        """Raise unless the kernel of two examples is a floating number."""
        self.pairs, self.x1, self.x2, self.tile, self.mesh = pairs, x1, x2, tile, mesh
        one, other = like_one(x1), like_one(self._second)
        entry = eqx.filter_eval_shape(pairs, one, other, None)
        is_one = isinstance(entry, jax.ShapeDtypeStruct) and entry.shape == (1, 1)
        if not (is_one and jnp.issubdtype(entry.dtype, jnp.floating)):
            raise ValueError(
                f"`kernel` gives {described(entry)} for one pair of examples, but one "
                'matrix of numbers is needed: `kind="ntk"` or `kind="nngp"` of a '
                "network with one output that ends in a readout, `nn.Flatten` or "
                "`nn.GlobalAvgPool`."
            )
        self.entry = np.dtype(entry.dtype)

    @property
    def dtype(self) -> np.dtype:
        """As of the kernel of two examples."""
        return self.entry

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of examples."""
        return batch_size(self.x1), batch_size(self._second)

    @property
    def _second(self) -> Examples:
        return self.x1 if self.x2 is None else self.x2

    def transposed(self) -> "NeverFormed":
        """The kernels of the batches exchanged."""
        if self.x2 is None:
            return self
        return eqx.tree_at(lambda k: (k.x1, k.x2), self, (self.x2, self.x1))

    def multiply(self, columns: Float[Array, "n2 columns"]) -> ColumnBlock:
        """One step, compiled once, for each tile."""
        placement = Placement(self.mesh, self._axes)
        devices = placement.count(self._axes)
        n1, n2 = self.shape
        size1, size2 = evenly(n1, self.tile), evenly(n2, self.tile)
        counts = -(-n1 // size1), -(-n2 // size2)
        work = _TileSums(self.x2 is None, (size1, size2), counts)
        padded = [
            jax.tree.map(lambda a, n=n: lengthened(a, n), x)
            for x, n in zip((self.x1, self._second), work.padded, strict=True)
        ]
        lacking = work.padded[1] - self.shape[1]
        columns = jnp.pad(columns, ((0, lacking), (0, 0)))
        arrays, rest = eqx.partition(self.pairs, eqx.is_array)

        def of_device(
            table: Int[Array, "length 4"], arrays: PyTree, *batches: Any
        ) -> Float[Array, "1 rows columns"]:
            return work.summed(eqx.combine(arrays, rest), table, *batches)[None]

        whole = PartitionSpec()
        run = placement.mapped(
            of_device, (placement.rows, whole, whole, whole, whole), placement.rows
        )
        table = placement.put(jnp.asarray(work.table(devices)), placement.rows)
        shared = placement.put((arrays, *padded, columns), whole)
        # Without a sum inside, derivatives do not depend on what the devices share.
        return jnp.sum(run(table, *shared), axis=0)[: self.shape[0]]

    @property
    def _axes(self) -> tuple[str, ...]:
        return () if self.mesh is None else tuple(self.mesh.axis_names)

    def diagonal(self) -> Float[Array, " least"]:
        """The kernels of pairs in the same place, one tile on the diagonal a time."""
        n = min(self.shape)
        size = evenly(n, self.tile)
        starts = np.minimum(np.arange(-(-n // size)) * size, n - size)

        def part(start: Int[Array, ""]) -> Float[Array, " size"]:
            one = examples_from(self.x1, start, size)
            other = None if self.x2 is None else examples_from(self.x2, start, size)
            return jnp.diagonal(self.pairs(one, other, None))

        found = lax.map(part, jnp.asarray(starts, jnp.int32))
        place = starts[:, None] + np.arange(size)
        return jnp.zeros(n, found.dtype).at[place].set(found)

    def columns(self, chosen: Int[Array, " columns"]) -> ColumnBlock:
        """The kernels with some examples."""
        picked = jax.tree.map(lambda a: a[chosen], self._second)
        return whole_of(lambda found: found, self._gram(picked))

    def formed(self) -> WholeMatrix:
        """As `eqtangents.gram` does."""
        return self._gram(self.x2)

    def _gram(self, x2: Examples | None) -> WholeMatrix:
        found = gram_of_pairs(self.pairs, self.x1, x2, self.mesh)
        return cast(WholeMatrix, found)


class _TileSums(eqx.Module):
    """Which tiles a product consists of."""

    symmetric: bool
    sizes: tuple[int, int]
    counts: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """How many examples either batch has with its last one repeated."""
        return self.sizes[0] * self.counts[0], self.sizes[1] * self.counts[1]

    def table(self, devices: int) -> Int[np.ndarray, "tiles 4"]:
        """The row and column of each tile, and how often it and its mirror count.

        Devices have as many each: tiles that are none count zero times.
        """
        rows, columns = np.indices(self.counts).reshape(2, -1)
        kept = (rows <= columns) | (not self.symmetric)
        mirrored = (rows < columns) & self.symmetric
        table = np.stack([rows, columns, np.ones_like(rows), mirrored], 1)[kept]
        length = math.ceil(len(table) / devices) * devices
        dealt = np.zeros((length, 4), np.int32)
        dealt[: len(table)] = table
        return dealt.reshape(-1, devices, 4).swapaxes(0, 1).reshape(length, 4)

    def summed(
        self,
        pairs: AbstractPairs,
        table: Int[Array, "tiles 4"],
        x1: Examples,
        x2: Examples,
        columns: Float[Array, "n2 columns"],
    ) -> ColumnBlock:
        """The sum of what some tiles contribute to the product."""
        size1, size2 = self.sizes

        @eqx.filter_checkpoint
        def contribution(
            place: Int[Array, " 4"],
            pairs: AbstractPairs,
            x1: Examples,
            x2: Examples,
            v: Array,
        ) -> tuple[Array, Array | None]:
            row, column = place[0] * size1, place[1] * size2
            part1 = examples_from(x1, row, size1)
            part2 = examples_from(x2, column, size2)
            tile = pairs(part1, part2, row - column if self.symmetric else None)
            counted, mirrored = place[2:].astype(tile.dtype)
            below = lax.dynamic_slice_in_dim(v, column, size2)
            if not self.symmetric:
                return counted * matmul(tile, below), None
            above = lax.dynamic_slice_in_dim(v, row, size1)
            return counted * matmul(tile, below), mirrored * matmul(tile.T, above)

        def step(product: Array, place: Int[Array, " 4"]) -> tuple[Array, None]:
            own, mirror = contribution(place, pairs, x1, x2, columns)
            product = _with_rows_added(product, own, place[0] * size1)
            if mirror is not None:
                product = _with_rows_added(product, mirror, place[1] * size2)
            return product, None

        start = jnp.zeros((self.padded[0], columns.shape[1]), columns.dtype)
        return lax.scan(step, start, table)[0]


def _with_rows_added(
    product: ColumnBlock, more: Float[Array, "size columns"], start: Int[Array, ""]
) -> ColumnBlock:
    old = lax.dynamic_slice_in_dim(product, start, more.shape[0])
    return lax.dynamic_update_slice_in_dim(product, old + more, start, 0)
