"""The Cholesky factor of a kernel that is split over a mesh.

Each device has some rows, and all of their columns. Blocks of rows are eliminated in
turns, one of each device and then the next of each, so that all devices have work to
the end. That is a Cholesky factorisation of the matrix in another order, and the factor
is never put into that order: its rows and columns stay where those of the matrix are.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from eqtangents._arguments import checked_integer
from eqtangents._gram._placement import MeshOrMaker, Placement, is_traced, made_mesh
from eqtangents._refuse import refuse
from eqtangents._trees import without_derivative
from eqtangents.solvers._backing import ColumnBlock
from eqtangents.solvers._operator import GramOperator, noise_of
from eqtangents.solvers._pivots import check_symmetric
from eqtangents.solvers._preconditioner import AbstractPreconditioner


# The columns that are left are cut so many times: more cuts, fewer zeros multiplied.
_CUTS = 8
_NOT_DEFINITE = (
    "The kernel with its noise is not positive definite to rounding, so that it has no "
    "Cholesky factor: add noise, or compute in float64."
)

# Of one device: by blocks of rows, and devices and blocks of columns.
_Rows: TypeAlias = Float[Array, "blocks side devices blocks side"]
_Columns: TypeAlias = Float[Array, "devices blocks side columns"]
_Turns: TypeAlias = Float[Array, "devices side columns"]  # of one block of each device
_State = TypeVar("_State")
_product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


class _Grid(NamedTuple):
    """How rows and columns are divided: devices, blocks of each, and their side."""

    placement: Placement
    devices: int
    blocks: int
    side: int

    @classmethod
    def of(cls, n: int, placement: Placement, tile: int) -> "_Grid":
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

    def in_blocks(self, rows: Float[Array, "rows size"]) -> _Rows:
        """The rows of a device."""
        _, devices, blocks, side = self
        return rows.reshape(blocks, side, devices, blocks, side)


class Cholesky(AbstractPreconditioner):
    r"""The Cholesky factor of a kernel, on all devices that have parts of it.

    As a preconditioner it is exact: one step solves, and a few where rounding is large,
    as in float32; determinants are exact; and one factor serves all that asks for
    solutions.

    ```python
    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    operator = eqt.GramOperator(eqt.gram(net, x, mesh=mesh), noise=1e-2)
    solver = solvers.BlockCG(solvers.Cholesky(operator), rtol=1e-5)
    posterior = predict.GaussianProcess(operator, y, solver=solver)
    ```

    **Cost:** $n^3$ multiply-adds at most, less than half of that on many devices, which
    share them evenly; on each device about twice the memory of its rows while it is
    made, and what there is of the factor. Devices send each other as many numbers as
    the matrix has. Of a solve, `2 n**2` multiply-adds for each column.
    """

    factor: Float[Array, "padded padded"]
    diagonal: Float[Array, " n"]
    grid: _Grid = eqx.field(static=True)

    def __init__(
        self,
        operator: GramOperator,
        *,
        mesh: MeshOrMaker | None = None,
        tile: int = 256,
    ):
        """Factorise. It has no derivative, and solutions by it have theirs.

        **Arguments:**

        - `operator`: of one batch, with noise. Its matrix is formed.
        - `mesh`: devices that share the rows; by default those that have the matrix,
            which is not known within `jax.jit`.
        - `tile`: how many rows are eliminated at a time at most, where there is more
            than one device.

        **Raises:** `RuntimeError` if the matrix is not positive definite to rounding.
        `TypeError` or `ValueError` if an argument is of another kind, or the operator
        of two batches.
        """
        check_symmetric(operator)
        tile = checked_integer("tile", tile, 1)
        fixed = without_derivative(operator)
        matrix = fixed.backing.formed()
        mesh = _mesh_of(matrix) if mesh is None else made_mesh(mesh)
        self.grid = _Grid.of(operator.shape[0], Placement.of_rows(mesh), tile)
        factor, self.diagonal = _factorised(matrix, noise_of(fixed), self.grid)
        wrong = ~jnp.all(jnp.isfinite(self.diagonal))
        self.factor = refuse(factor, (wrong, _NOT_DEFINITE))

    def structure(self) -> jax.ShapeDtypeStruct:
        """As of the diagonal."""
        return jax.ShapeDtypeStruct(self.diagonal.shape, self.diagonal.dtype)

    def root(self, columns: ColumnBlock) -> ColumnBlock:
        """By the rows that each device has."""
        return self._mapped(_multiplied, columns)

    def root_inverse(self, columns: ColumnBlock) -> ColumnBlock:
        """By substitution, from the last block that was eliminated to the first."""
        return self._mapped(_solved_backward, columns)

    def root_inverse_transposed(self, columns: ColumnBlock) -> ColumnBlock:
        """By substitution, from the first block that was eliminated to the last."""
        return self._mapped(_solved_forward, columns)

    def log_determinant(self) -> Float[Array, ""]:
        """That of the diagonal of the factor, twice."""
        return 2 * jnp.sum(jnp.log(self.diagonal))

    def _mapped(self, function: Callable, columns: ColumnBlock) -> ColumnBlock:
        n, grid = columns.shape[0], self.grid
        padded = jnp.pad(columns, ((0, grid.size - n), (0, 0)))
        whole = padded.reshape(grid.devices, grid.blocks, grid.side, -1)
        found = grid.mapped(function, whole)(self.factor)
        return found.reshape(grid.size, -1)[:n]


def _mesh_of(matrix: Float[Array, "n n"]) -> Mesh | None:
    """The mesh that a matrix is split over, if that is known."""
    if is_traced(matrix) or not isinstance(matrix.sharding, NamedSharding):
        return None
    mesh = matrix.sharding.mesh
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


@eqx.filter_jit
def _factorised(
    matrix: Float[Array, "n n"], noise: Float[Array, " n"], grid: _Grid
) -> tuple[Float[Array, "padded padded"], Float[Array, " n"]]:
    """The factor, split by rows, and its diagonal."""
    n, placement = matrix.shape[0], grid.placement
    more = grid.size - n
    # Rows that fill the last blocks are those of the identity.
    noise = jnp.pad(noise, (0, more), constant_values=1.0)
    noise = noise.reshape(grid.devices, grid.blocks, grid.side)
    rows = placement.within(jnp.pad(matrix, (0, more)), placement.rows)

    def of_device(
        rows: Float[Array, "rows size"], noise: Float[Array, "devices blocks side"]
    ) -> Float[Array, "rows size"]:
        blocks = grid.in_blocks(rows)
        numbers = [jnp.arange(k, dtype=jnp.int32) for k in (grid.blocks, grid.side)]
        each, number = jnp.meshgrid(*numbers, indexing="ij")
        diagonal = each, number, grid.here, each, number
        blocks = blocks.at[diagonal].add(noise[grid.here])
        return _eliminated(grid, blocks).reshape(rows.shape)

    specs = placement.rows, PartitionSpec()
    factor = placement.mapped(of_device, specs, placement.rows)(rows, noise)
    diagonal = grid.mapped(_diagonal)(factor)
    return factor, diagonal.reshape(-1)[:n]


def _repeated(
    count: int, step: Callable[[Int[Array, ""], _State], _State], start: _State
) -> _State:
    """So many steps, which are given their number in the type of devices' numbers."""
    return lax.fori_loop(jnp.int32(0), jnp.int32(count), step, start)


def _eliminated(grid: _Grid, rows: _Rows) -> _Rows:
    """The rows of the factor in the place of those of the matrix."""
    cuts = np.unique(np.linspace(0, grid.blocks, _CUTS + 1).astype(int))
    for first, last in itertools.pairwise(cuts.tolist()):
        left = rows[first:, :, :, first:]
        step = functools.partial(_one_eliminated, grid)
        left = _repeated((last - first) * grid.devices, step, left)
        rows = rows.at[first:, :, :, first:].set(left)
        rows = rows.at[:last, :, :, last:].set(0.0)  # eliminated before these columns
    return rows


def _one_eliminated(grid: _Grid, step: Int[Array, ""], rows: _Rows) -> _Rows:
    """One block of rows less among those that are left."""
    block, turn = step // grid.devices, step % grid.devices
    side, left = rows.shape[1], rows.shape[0]
    panel = rows[:, :, turn, block]
    root = jnp.linalg.cholesky(grid.of_device(turn, panel[block]))
    solved = solve_triangular(root, panel.reshape(-1, side).T, lower=True).T
    later = jnp.arange(left, dtype=jnp.int32) * grid.devices + grid.here > step
    below = jnp.where(later[:, None, None], solved.reshape(panel.shape), 0)
    everywhere = grid.gathered(below)

    def subtracted(i: Int[Array, ""], rows: _Rows) -> _Rows:
        return rows.at[i].add(-_product("xk,djyk->xdjy", below[i], everywhere))

    rows = lax.fori_loop(block, jnp.int32(left), subtracted, rows)
    kept = below.at[block].set(jnp.where(grid.here == turn, root, below[block]))
    return rows.at[:, :, turn, block].set(kept)


def _diagonal(grid: _Grid, rows: _Rows) -> Float[Array, "devices blocks side"]:
    mine = rows[:, :, grid.here]
    return grid.gathered(jnp.diagonal(jnp.diagonal(mine, axis1=0, axis2=2)))


def _multiplied(grid: _Grid, rows: _Rows, columns: _Columns) -> _Columns:
    """The factor times some columns."""
    return grid.gathered(_product("ixdjy,djyc->ixc", rows, columns))


def _solved_forward(grid: _Grid, rows: _Rows, columns: _Columns) -> _Columns:
    """The inverse of the factor times some columns."""

    def of_block(block: Int[Array, ""], known: _Columns) -> _Columns:
        known_part = _product("xdjy,djyc->xc", rows[block], known)
        rest = columns[grid.here, block] - known_part
        level = rows[block, :, :, block]

        def of_turn(turn: Int[Array, ""], found: _Turns) -> _Turns:
            less = rest - _product("xdy,dyc->xc", level, found)
            mine = solve_triangular(level[:, turn], less, lower=True)
            return found.at[turn].set(grid.of_device(turn, mine))

        zeros = jnp.zeros_like(columns[:, block])
        return known.at[:, block].set(_repeated(grid.devices, of_turn, zeros))

    return _repeated(grid.blocks, of_block, jnp.zeros_like(columns))


def _solved_backward(grid: _Grid, rows: _Rows, columns: _Columns) -> _Columns:
    """The inverse of the transposed factor times some columns."""

    def of_block(step: Int[Array, ""], known: _Columns) -> _Columns:
        block = grid.blocks - 1 - step
        below = _product("ixdy,ixc->dyc", rows[:, :, :, block], known[grid.here])
        rest = columns[:, block] - grid.total(below)
        level = rows[block, :, :, block]

        def of_turn(step: Int[Array, ""], found: _Turns) -> _Turns:
            turn = grid.devices - 1 - step
            below = _product("xy,xc->yc", level[:, turn], found[grid.here])
            less = rest[turn] - grid.total(below)
            mine = solve_triangular(level[:, turn], less, lower=True, trans="T")
            return found.at[turn].set(grid.of_device(turn, mine))

        zeros = jnp.zeros_like(rest)
        return known.at[:, block].set(_repeated(grid.devices, of_turn, zeros))

    return _repeated(grid.blocks, of_block, jnp.zeros_like(columns))
