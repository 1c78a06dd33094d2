"""The Cholesky factor of a kernel that may be split over a mesh."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from eqtangents._arguments import checked_integer
from eqtangents._gram._placement import MeshOrMaker, Placement, made_mesh
from eqtangents._refuse import refuse
from eqtangents._trees import without_derivative
from eqtangents._types import is_traced
from eqtangents.solvers._backing import ColumnBlock
from eqtangents.solvers._elimination import (
    RowGrid,
    backward_solved,
    eliminated,
    factor_diagonal,
    factor_times,
    forward_solved,
)
from eqtangents.solvers._operator import GramOperator, noise_of
from eqtangents.solvers._pivots import check_symmetric
from eqtangents.solvers._preconditioner import AbstractPreconditioner


_NOT_DEFINITE = (
    "The kernel with its noise is not positive definite to rounding, so that it has no "
    "Cholesky factor: add noise, or compute in float64."
)


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
    grid: RowGrid = eqx.field(static=True)

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
        mesh = _mesh_with(matrix) if mesh is None else made_mesh(mesh)
        self.grid = RowGrid.of(operator.shape[0], Placement.of_rows(mesh), tile)
        factor, self.diagonal = _factor_of(matrix, noise_of(fixed), self.grid)
        wrong = ~jnp.all(jnp.isfinite(self.diagonal))
        self.factor = refuse(factor, (wrong, _NOT_DEFINITE))

    def structure(self) -> jax.ShapeDtypeStruct:
        """As of the diagonal."""
        return jax.ShapeDtypeStruct(self.diagonal.shape, self.diagonal.dtype)

    def root(self, columns: ColumnBlock) -> ColumnBlock:
        """By the rows that each device has."""
        return self._mapped(factor_times, columns)

    def root_inverse(self, columns: ColumnBlock) -> ColumnBlock:
        """By substitution, from the last block that was eliminated to the first."""
        return self._mapped(backward_solved, columns)

    def root_inverse_transposed(self, columns: ColumnBlock) -> ColumnBlock:
        """By substitution, from the first block that was eliminated to the last."""
        return self._mapped(forward_solved, columns)

    def log_determinant(self) -> Float[Array, ""]:
        """That of the diagonal of the factor, twice."""
        return 2 * jnp.sum(jnp.log(self.diagonal))

    def _mapped(self, function: Callable, columns: ColumnBlock) -> ColumnBlock:
        n, grid = columns.shape[0], self.grid
        padded = jnp.pad(columns, ((0, grid.size - n), (0, 0)))
        whole = padded.reshape(grid.devices, grid.blocks, grid.side, -1)
        found = grid.mapped(function, whole)(self.factor)
        return found.reshape(grid.size, -1)[:n]


def _mesh_with(matrix: Float[Array, "n n"]) -> Mesh | None:
    """The mesh that a matrix is split over, if that is known."""
    if is_traced(matrix) or not isinstance(matrix.sharding, NamedSharding):
        return None
    mesh = matrix.sharding.mesh
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


@eqx.filter_jit
def _factor_of(
    matrix: Float[Array, "n n"], noise: Float[Array, " n"], grid: RowGrid
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
        return eliminated(grid, blocks).reshape(rows.shape)

    specs = placement.rows, PartitionSpec()
    factor = placement.mapped(of_device, specs, placement.rows)(rows, noise)
    diagonal = grid.mapped(factor_diagonal)(factor)
    return factor, diagonal.reshape(-1)[:n]
