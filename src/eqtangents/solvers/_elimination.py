"""Elimination and substitution by devices that have rows of a matrix.

Each device has some rows, and all of their columns. Blocks of rows are eliminated in
turns, one of each device and then the next of each, so that all devices have work to
the end. That is a Cholesky factorisation of the matrix in another order, and the factor
is never put into that order: its rows and columns stay where those of the matrix are.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from eqtangents._gram._placement import Placement
from eqtangents._products import einsum


# Of one device: by blocks of rows, and devices and blocks of columns.
OwnRows: TypeAlias = Float[Array, "blocks side devices blocks side"]
AllColumns: TypeAlias = Float[Array, "devices blocks side columns"]
Turns: TypeAlias = Float[Array, "devices side columns"]  # of one block of each device

# The columns that are left are cut so many times: more cuts, fewer zeros factor_times.
_CUTS = 8
_Carry = TypeVar("_Carry")


class RowGrid(NamedTuple):
    """How rows and columns are divided: devices, blocks of each, and their side."""

    placement: Placement
    devices: int
    blocks: int
    side: int

    @classmethod
    def of(cls, n: int, placement: Placement, tile: int) -> "RowGrid":
        """So many blocks of equal size that none is larger than `tile`."""
        devices = placement.count(placement.row_axes)
        blocks = 1 if devices == 1 else -(-n // (devices * tile))
        return cls(placement, devices, blocks, -(-n // (devices * blocks)))

    @property
    def size(self) -> int:
        """Of the matrix, with rows that fill the last blocks."""
        return self.devices * self.blocks * self.side

    @property
    def here(self) -> Int[Array, ""]:
        """The number of this device."""
        axes = self.placement.row_axes
        return lax.axis_index(axes) if axes else jnp.zeros((), jnp.int32)

    def total(self, part: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The sum over devices."""
        return lax.psum(part, self.placement.row_axes)

    def of_device(
        self, turn: Int[Array, ""], part: Float[Array, "*s"]
    ) -> Float[Array, "*s"]:
        """What one device has, on all of them."""
        return self.total(jnp.where(self.here == turn, part, jnp.zeros_like(part)))

    def gathered(self, part: Float[Array, "*s"]) -> Float[Array, "devices *s"]:
        """What all devices have."""
        axes = self.placement.row_axes
        return lax.all_gather(part, axes) if axes else part[None]

    def mapped(self, function: Callable, *more: Array) -> Callable[[Array], Array]:
        """A function of a device's rows and of whole arrays, whose result is whole."""
        specs = self.placement.rows, *(PartitionSpec() for _ in more)
        of_rows = lambda rows, *more: function(self, self.in_blocks(rows), *more)
        whole = self.placement.mapped(of_rows, specs, PartitionSpec())
        return lambda rows: whole(rows, *more)

    def in_blocks(self, rows: Float[Array, "rows size"]) -> OwnRows:
        """The rows of a device."""
        _, devices, blocks, side = self
        return rows.reshape(blocks, side, devices, blocks, side)


def _stepped(
    count: int, step: Callable[[Int[Array, ""], _Carry], _Carry], start: _Carry
) -> _Carry:
    """So many steps, which are given their number in the type of devices' numbers."""
    return lax.fori_loop(jnp.int32(0), jnp.int32(count), step, start)


def eliminated(grid: RowGrid, rows: OwnRows) -> OwnRows:
    """The rows of the factor in the place of those of the matrix."""
    cuts = np.unique(np.linspace(0, grid.blocks, _CUTS + 1).astype(int))
    for first, last in itertools.pairwise(cuts.tolist()):
        left = rows[first:, :, :, first:]
        step = functools.partial(_one_eliminated, grid)
        left = _stepped((last - first) * grid.devices, step, left)
        rows = rows.at[first:, :, :, first:].set(left)
        rows = rows.at[:last, :, :, last:].set(0.0)  # eliminated before these columns
    return rows


def _one_eliminated(grid: RowGrid, step: Int[Array, ""], rows: OwnRows) -> OwnRows:
    """One block of rows less among those that are left."""
    block, turn = step // grid.devices, step % grid.devices
    side, left = rows.shape[1], rows.shape[0]
    panel = rows[:, :, turn, block]
    root = jnp.linalg.cholesky(grid.of_device(turn, panel[block]))
    solved = solve_triangular(root, panel.reshape(-1, side).T, lower=True).T
    later = jnp.arange(left, dtype=jnp.int32) * grid.devices + grid.here > step
    below = jnp.where(later[:, None, None], solved.reshape(panel.shape), 0)
    everywhere = grid.gathered(below)

    def subtracted(i: Int[Array, ""], rows: OwnRows) -> OwnRows:
        return rows.at[i].add(-einsum("xk,djyk->xdjy", below[i], everywhere))

    rows = lax.fori_loop(block, jnp.int32(left), subtracted, rows)
    kept = below.at[block].set(jnp.where(grid.here == turn, root, below[block]))
    return rows.at[:, :, turn, block].set(kept)


def factor_diagonal(
    grid: RowGrid, rows: OwnRows
) -> Float[Array, "devices blocks side"]:
    mine = rows[:, :, grid.here]
    return grid.gathered(jnp.diagonal(jnp.diagonal(mine, axis1=0, axis2=2)))


def factor_times(grid: RowGrid, rows: OwnRows, columns: AllColumns) -> AllColumns:
    """The factor times some columns."""
    return grid.gathered(einsum("ixdjy,djyc->ixc", rows, columns))


def forward_solved(grid: RowGrid, rows: OwnRows, columns: AllColumns) -> AllColumns:
    """The inverse of the factor times some columns."""

    def of_block(block: Int[Array, ""], known: AllColumns) -> AllColumns:
        known_part = einsum("xdjy,djyc->xc", rows[block], known)
        rest = columns[grid.here, block] - known_part
        level = rows[block, :, :, block]

        def of_turn(turn: Int[Array, ""], found: Turns) -> Turns:
            less = rest - einsum("xdy,dyc->xc", level, found)
            mine = solve_triangular(level[:, turn], less, lower=True)
            return found.at[turn].set(grid.of_device(turn, mine))

        zeros = jnp.zeros_like(columns[:, block])
        return known.at[:, block].set(_stepped(grid.devices, of_turn, zeros))

    return _stepped(grid.blocks, of_block, jnp.zeros_like(columns))


def backward_solved(grid: RowGrid, rows: OwnRows, columns: AllColumns) -> AllColumns:
    """The inverse of the transposed factor times some columns."""

    def of_block(step: Int[Array, ""], known: AllColumns) -> AllColumns:
        block = grid.blocks - 1 - step
        below = einsum("ixdy,ixc->dyc", rows[:, :, :, block], known[grid.here])
        rest = columns[:, block] - grid.total(below)
        level = rows[block, :, :, block]

        def of_turn(step: Int[Array, ""], found: Turns) -> Turns:
            turn = grid.devices - 1 - step
            below = einsum("xy,xc->yc", level[:, turn], found[grid.here])
            less = rest[turn] - grid.total(below)
            mine = solve_triangular(level[:, turn], less, lower=True, trans="T")
            return found.at[turn].set(grid.of_device(turn, mine))

        zeros = jnp.zeros_like(rest)
        return known.at[:, block].set(_stepped(grid.devices, of_turn, zeros))

    return _stepped(grid.blocks, of_block, jnp.zeros_like(columns))
