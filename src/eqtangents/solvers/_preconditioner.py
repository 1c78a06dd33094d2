"""What conjugate gradients are given of a kernel besides products with it."""

import abc

import equinox as eqx
import jax
import lineax as lx
from jaxtyping import Array, Float

from eqtangents.solvers._backing import ColumnBlock


class AbstractPreconditioner(eqx.Module):
    r"""A matrix $P = S S^\top$ that is easily inverted, and close to a kernel.

    Conjugate gradients need few steps where $P^{-1} (K + \sigma^2 I)$ has few
    eigenvalues that are far from one.
    """

    @abc.abstractmethod
    def structure(self) -> jax.ShapeDtypeStruct:
        """Of the vectors that it is multiplied with."""

    @abc.abstractmethod
    def root(self, columns: ColumnBlock) -> ColumnBlock:
        r"""$S$ times some columns."""

    @abc.abstractmethod
    def root_inverse(self, columns: ColumnBlock) -> ColumnBlock:
        r"""$S^{-\top}$ times some columns."""

    @abc.abstractmethod
    def root_inverse_transposed(self, columns: ColumnBlock) -> ColumnBlock:
        r"""$S^{-1}$ times some columns."""

    @abc.abstractmethod
    def log_determinant(self) -> Float[Array, ""]:
        r"""$\log\det P$."""

    def inverse(self, columns: ColumnBlock) -> ColumnBlock:
        r"""$P^{-1}$ times some columns.

        As a square, which rounding does not make negative.
        """
        return self.root_inverse(self.root_inverse_transposed(columns))

    def inverse_operator(self) -> lx.FunctionLinearOperator:
        """The inverse as a preconditioner for solvers of `lineax`.

        ```python
        options = {"preconditioner": preconditioner.inverse_operator()}
        lx.linear_solve(operator, y, lx.CG(rtol=1e-6, atol=1e-6), options=options)
        ```
        """
        return lx.FunctionLinearOperator(
            lambda vector: self.inverse(vector[:, None])[:, 0],
            self.structure(),
            lx.positive_semidefinite_tag,
        )
