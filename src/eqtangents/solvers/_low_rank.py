"""Matrices of low rank with a diagonal, which are easily inverted: preconditioners."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._products import matmul
from eqtangents._refuse import refuse
from eqtangents._types import Scalar
from eqtangents.solvers._backing import ColumnBlock
from eqtangents.solvers._preconditioner import AbstractPreconditioner


class LowRank(AbstractPreconditioner):
    r"""The matrix $P = F F^\top + D$, a preconditioner where it is close to a kernel.

    `eqtangents.rp_cholesky` and `eqtangents.solvers.nystroem` choose $F$ from the
    columns of a kernel; `eqtangents.solvers.feature_preconditioner` has features of a
    network in its place.

    Inverse and square roots come of the singular values of $D^{-1/2} F$, without
    differences of large numbers, so that they are good in float32, too.
    """

    factor: Float[Array, "n rank"]
    diagonal: Float[Array, " n"]
    basis: Float[Array, "n least"]  # the left singular vectors
    values: Float[Array, " least"]  # the squares of the singular values

    def __init__(
        self,
        factor: Float[Array, "n rank"],
        diagonal: Scalar | Float[Array, " n"],
    ):
        r"""Decompose.

        **Arguments:**

        - `factor`: $F$.
        - `diagonal`: of $D$, positive: the noise of the kernel, and about as much as
            $F F^\top$ is wrong by.

        **Raises:** `RuntimeError` if a number of the diagonal is not positive.

        **Cost:** of the order of `n rank**2` multiply-adds.
        """
        self.factor = factor
        diagonal = jnp.broadcast_to(
            jnp.asarray(diagonal, factor.dtype), factor.shape[:1]
        )
        wrong = ~jnp.all(diagonal > 0)
        self.diagonal = refuse(diagonal, (wrong, "`diagonal` must be positive."))
        self.basis, self.values = _decomposed(factor, self.diagonal)

    def multiply(self, columns: ColumnBlock) -> ColumnBlock:
        """The product with some columns."""
        low = matmul(self.factor, matmul(self.factor.T, columns))
        return low + self.diagonal[:, None] * columns

    def structure(self) -> jax.ShapeDtypeStruct:
        """As of the diagonal."""
        return jax.ShapeDtypeStruct(self.diagonal.shape, self.diagonal.dtype)

    def root(self, columns: ColumnBlock) -> ColumnBlock:
        """By the singular values."""
        return self._root_diagonal * self._stretched(columns, 0.5)

    def root_inverse(self, columns: ColumnBlock) -> ColumnBlock:
        """By the singular values."""
        return self._stretched(columns, -0.5) / self._root_diagonal

    def root_inverse_transposed(self, columns: ColumnBlock) -> ColumnBlock:
        """By the singular values."""
        return self._stretched(columns / self._root_diagonal, -0.5)

    def log_determinant(self) -> Float[Array, ""]:
        """That of the diagonal, and of what is beside it."""
        return jnp.sum(jnp.log(self.diagonal)) + jnp.sum(jnp.log1p(self.values))

    @property
    def _root_diagonal(self) -> Float[Array, "n 1"]:
        return jnp.sqrt(self.diagonal)[:, None]

    def _stretched(self, columns: ColumnBlock, power: float) -> ColumnBlock:
        r"""$(I + D^{-1/2} F F^\top D^{-1/2})^p$ times some columns."""
        more = jnp.expm1(power * jnp.log1p(self.values))
        return columns + matmul(
            self.basis, more[:, None] * matmul(self.basis.T, columns)
        )


@jax.jit
def _decomposed(
    factor: Float[Array, "n rank"], diagonal: Float[Array, " n"]
) -> tuple[Float[Array, "n least"], Float[Array, " least"]]:
    q, r = jnp.linalg.qr(factor / jnp.sqrt(diagonal)[:, None])
    u, s, _ = jnp.linalg.svd(r, full_matrices=False)
    return matmul(q, u), s**2
