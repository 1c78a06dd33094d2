"""The inverse of a kernel with its noise: by a factorisation, or by steps."""

import abc

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from eqtangents._products import matmul
from eqtangents.predict._definiteness import cholesky_of
from eqtangents.predict._posterior import (
    exact_log_density,
    exact_variance,
    left_out,
    posterior_covariance,
    solve_columns,
    trained_covariance,
)
from eqtangents.predict._training_set import NO_MATRIX, TrainingSet
from eqtangents.solvers import (
    BlockCG,
    GramOperator,
    log_density,
    posterior_variance,
    solve,
)
from eqtangents.solvers._solve import checked_solver


NEEDLESS = (
    "`solver` is given, but `k_train_train` is a matrix, which is factorised. Make it "
    "a `GramOperator` to solve by steps."
)


class AbstractInverse(eqx.Module):
    """What a posterior needs of the inverse; outputs with one noise are a group."""

    @abc.abstractmethod
    def times(self, targets: Float[Array, "rows columns"]) -> Float[Array, "r c"]:
        """The inverse times the targets of each group."""

    @abc.abstractmethod
    def covariance(
        self,
        k_test_train: Float[Array, "rows_test rows"],
        k_test_test: Float[Array, "rows_test rows_test"],
    ) -> Float[Array, "groups rows_test rows_test"]:
        """Covariance of the test outputs in each group."""

    @abc.abstractmethod
    def variance(
        self,
        k_test_train: Float[Array, "rows_test rows"],
        k_test_diagonal: Float[Array, " rows_test"],
    ) -> Float[Array, "groups rows_test"]:
        """The diagonal of the covariance, never negative."""

    @abc.abstractmethod
    def trained_covariance(
        self,
        ntk_test_train: Float[Array, "rows_test rows"],
        nngp_train_train: Float[Array, "rows rows"],
        nngp_test_train: Float[Array, "rows_test rows"],
        nngp_test_test: Float[Array, "rows_test rows_test"],
    ) -> Float[Array, "groups rows_test rows_test"]:
        """Covariance of networks trained to the end, where this has the NTK."""

    @abc.abstractmethod
    def log_density(
        self,
        targets: Float[Array, "rows columns"],
        solution: Float[Array, "rows columns"],
    ) -> Float[Array, ""]:
        """Log density of the targets, whose solution is this."""

    @abc.abstractmethod
    def left_out(
        self,
        targets: Float[Array, "rows columns"],
        solution: Float[Array, "rows columns"],
    ) -> tuple[Float[Array, "rows columns"], Float[Array, "rows columns"]]:
        """Mean and variance of each target, given all other rows."""

    def left_out_log_density(
        self,
        targets: Float[Array, "rows columns"],
        solution: Float[Array, "rows columns"],
    ) -> Float[Array, ""]:
        """Log density of each target given all other rows, summed."""
        mean, variance = self.left_out(targets, solution)
        misfit = (targets - mean) ** 2 / variance
        return -jnp.sum(misfit + jnp.log(2 * jnp.pi * variance)) / 2


class CholeskyInverse(AbstractInverse):
    """By Cholesky factors, one for each group."""

    cholesky: Float[Array, "groups rows rows"]

    def times(self, targets: Float[Array, "rows columns"]) -> Float[Array, "r c"]:
        """Exactly."""
        return solve_columns(self.cholesky, targets)

    def covariance(
        self,
        k_test_train: Float[Array, "rows_test rows"],
        k_test_test: Float[Array, "rows_test rows_test"],
    ) -> Float[Array, "groups rows_test rows_test"]:
        """Exactly."""
        return posterior_covariance(self.cholesky, k_test_train, k_test_test)

    def variance(
        self,
        k_test_train: Float[Array, "rows_test rows"],
        k_test_diagonal: Float[Array, " rows_test"],
    ) -> Float[Array, "groups rows_test"]:
        """Exactly."""
        return exact_variance(self.cholesky, k_test_train, k_test_diagonal)

    def trained_covariance(
        self,
        ntk_test_train: Float[Array, "rows_test rows"],
        nngp_train_train: Float[Array, "rows rows"],
        nngp_test_train: Float[Array, "rows_test rows"],
        nngp_test_test: Float[Array, "rows_test rows_test"],
    ) -> Float[Array, "groups rows_test rows_test"]:
        """Exactly."""
        return trained_covariance(
            self.cholesky,
            ntk_test_train,
            nngp_train_train,
            nngp_test_train,
            nngp_test_test,
        )

    def log_density(
        self,
        targets: Float[Array, "rows columns"],
        solution: Float[Array, "rows columns"],
    ) -> Float[Array, ""]:
        """Exactly."""
        return exact_log_density(self.cholesky, targets, solution)

    def left_out(
        self,
        targets: Float[Array, "rows columns"],
        solution: Float[Array, "rows columns"],
    ) -> tuple[Float[Array, "rows columns"], Float[Array, "rows columns"]]:
        """Exactly."""
        return left_out(self.cholesky, targets, solution)


class SteppedInverse(AbstractInverse):
    """By conjugate gradients: a solve for each question. All outputs are one group."""

    operator: GramOperator
    solver: BlockCG

    def times(self, targets: Float[Array, "rows columns"]) -> Float[Array, "r c"]:
        """By one solve."""
        return solve(self.operator, targets, self.solver).value

    def covariance(
        self,
        k_test_train: Float[Array, "rows_test rows"],
        k_test_test: Float[Array, "rows_test rows_test"],
    ) -> Float[Array, "groups rows_test rows_test"]:
        """By a solve for all test outputs; wrong by the square of its residual."""
        solution = self.times(k_test_train.T)
        residual = k_test_train.T - self.operator.multiply(solution)
        half = matmul((k_test_train.T / 2 + residual / 2).T, solution)
        return (k_test_test - (half + half.T))[None]

    def variance(
        self,
        k_test_train: Float[Array, "rows_test rows"],
        k_test_diagonal: Float[Array, " rows_test"],
    ) -> Float[Array, "groups rows_test"]:
        """By solves for some test outputs at a time."""
        bounds = posterior_variance(
            self.operator, k_test_train, k_test_diagonal, self.solver
        )
        return jnp.maximum(bounds.value, 0)[None]

    def trained_covariance(
        self,
        ntk_test_train: Float[Array, "rows_test rows"],
        nngp_train_train: Float[Array, "rows rows"],
        nngp_test_train: Float[Array, "rows_test rows"],
        nngp_test_test: Float[Array, "rows_test rows_test"],
    ) -> Float[Array, "groups rows_test rows_test"]:
        """By a solve for all test outputs."""
        solved = self.times(ntk_test_train.T)
        half = matmul(
            (matmul(nngp_train_train, solved) / 2 - nngp_test_train.T).T, solved
        )
        return (nngp_test_test + (half + half.T))[None]

    def log_density(
        self,
        targets: Float[Array, "rows columns"],
        solution: Float[Array, "rows columns"],
    ) -> Float[Array, ""]:
        """An estimate, always by the same random signs: it is smooth in the kernel."""
        return log_density(self.operator, targets, self.solver, key=jr.key(0)).mean

    def left_out(
        self,
        targets: Float[Array, "rows columns"],
        solution: Float[Array, "rows columns"],
    ) -> tuple[Float[Array, "rows columns"], Float[Array, "rows columns"]]:
        """Not without all entries of the inverse."""
        raise ValueError(NO_MATRIX)


def inverse_of(data: TrainingSet, solver: BlockCG | None) -> AbstractInverse:
    """The inverse of the kernel with its noise."""
    if isinstance(data.kernel, GramOperator):
        return SteppedInverse(data.kernel, checked_solver(solver))
    if solver is not None:
        raise ValueError(NEEDLESS)
    return CholeskyInverse(cholesky_of(data.kernel, data.noise))
