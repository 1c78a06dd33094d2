"""Which tiles of a matrix of kernels each device computes, and in which order.

Device $d$ has the $d$-th share of the rows. If the matrix is symmetric, of the blocks
$(d, d + k)$ and $(d + k, d)$ one is computed, by device $d$, for $k$ below half the
number $D$ of devices, counted modulo $D$; at $k = D / 2$ both devices compute every
other tile, and of a block on the diagonal the tiles on and above it. So all devices
compute as many tiles, up to one.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Int

from eqtangents._tile_plan import evenly


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the pairs of two batches are divided into tiles, and these over devices."""

    n1: int
    n2: int
    tile: tuple[int, int]  # at most so many examples of either batch are in one
    row_devices: int = 1
    column_devices: int = 1
    symmetric: bool = False
    ring: bool = False

    @property
    def rows(self) -> int:
        """How many examples of the first batch a device has; the last may repeat."""
        return math.ceil(self.n1 / self.row_devices)

    @property
    def blocks(self) -> int:
        """In how many parts, that one device has or gets, its columns come."""
        return self.row_devices if self.symmetric or self.ring else 1

    @property
    def columns(self) -> int:
        """How many examples of the second batch are in one part."""
        return math.ceil(self.n2 / (self.blocks * self.column_devices))

    @property
    def width(self) -> int:
        """How many columns of the matrix a device has."""
        return self.blocks * self.columns

    @property
    def sizes(self) -> tuple[int, int]:
        """How many examples of either batch a tile has."""
        rows, columns = max(1, self.rows), max(1, self.columns)
        return evenly(rows, self.tile[0]), evenly(columns, self.tile[1])

    @property
    def mirrors_alone(self) -> bool:
        """Whether one device has both halves of a symmetric matrix."""
        return self.symmetric and self.row_devices == 1

    @property
    def padded(self) -> tuple[int, int]:
        """How many examples either batch has with its last one repeated."""
        return self.rows * self.row_devices, self.width * self.column_devices

    @property
    def pairs(self) -> int:
        """How many pairs of examples there are, of two that mirror each other one."""
        return self.n1 * (self.n1 + 1) // 2 if self.symmetric else self.n1 * self.n2

    def pairs_of(self, tile: tuple[int, int]) -> int:
        """How many of them are in a tile of the whole matrix."""
        rows, columns = (
            min(size, n - i * size)
            for i, size, n in zip(tile, self.sizes, (self.n1, self.n2), strict=True)
        )
        on_diagonal = self.symmetric and tile[0] == tile[1]
        return rows * (rows + 1) // 2 if on_diagonal else rows * columns

    def assigned(self, device: int) -> list[tuple[int, int, int]]:
        """The tiles of a device: a row of tiles, the distance of a block, a column.

        The block is that of the device at this distance; without a ring and symmetry
        there is one block, at no distance.
        """
        rows, columns = map(_tile_count, (self.rows, self.columns), self.sizes)
        return [
            (i, k, j)
            for k in range(self.blocks)
            for i in range(rows)
            for j in range(columns)
            if not self.symmetric or self._computes(device, i, k, j)
        ]

    def _computes(self, device: int, i: int, k: int, j: int) -> bool:
        if k == 0:
            return i <= j
        if 2 * k == self.blocks:
            return (i + j) % 2 == (2 * device >= self.blocks)
        return 2 * k < self.blocks

    def visits(self, device: int) -> list[list[tuple[int, int, int]]]:
        """The tiles of a device by the visits of other devices' examples.

        In a ring the examples of the second batch move on by one device before each
        visit. Those that a device has itself are at hand all the time if the batches
        are the same, and their tiles even out how long visits take.
        """
        tiles = self.assigned(device)
        if not self.ring:
            return [tiles]
        if not self.symmetric:
            return [
                [tile for tile in tiles if tile[1] == k % self.blocks]
                for k in range(1, self.blocks + 1)
            ]
        visits = [
            [tile for tile in tiles if tile[1] == k]
            for k in range(1, self.blocks // 2 + 1)
        ] or [[]]
        for tile in tiles:
            if tile[1] == 0:
                min(visits, key=len).append(tile)
        return visits

    def table(self) -> Int[np.ndarray, "devices visits length 4"]:
        """The tiles of each row of devices: where they begin, as `Corner` has it.

        Shorter visits do their last tile again.
        """
        visits = [self.visits(device) for device in range(self.row_devices)]
        length = max(len(tiles) for each in visits for tiles in each)
        again = lambda tiles: tiles + tiles[-1:] * (length - len(tiles))
        return np.array(
            [
                [[self._starts(d, *tile) for tile in again(tiles)] for tiles in each]
                for d, each in enumerate(visits)
            ],
            np.int32,
        )

    def _starts(self, device: int, i: int, k: int, j: int) -> tuple[int, ...]:
        (t1, t2), block = self.sizes, (device + k) % self.blocks
        # The last tile overlaps the one before where sizes do not divide the whole.
        row, inside = min(i * t1, self.rows - t1), min(j * t2, self.columns - t2)
        column = block * self.columns + inside
        own = self.symmetric and self.ring and k == 0
        return row, inside if self.ring else column, column, own

    def owned(self) -> Bool[np.ndarray, "devices rows columns"]:
        """Which tiles of a symmetric matrix the device computes that has their rows."""
        count = _tile_count(self.rows, self.sizes[0])
        owned = np.zeros((self.blocks, count, self.blocks, count), bool)
        for device in range(self.blocks):
            for i, k, j in self.assigned(device):
                owned[device, i, (device + k) % self.blocks, j] = True
        return owned.reshape(self.blocks, count, -1)


def _tile_count(count: int, size: int) -> int:
    return math.ceil(count / size)
