"""Tangent kernels that are never formed, as linear operators."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from eqtangents._linearization import Trainable
from eqtangents.empirical._kernel import checked_batches
from eqtangents.empirical._network import Network, example_of, size_of


class NTKOperator(lx.AbstractLinearOperator):
    r"""The neural tangent kernel of one network as a matrix-free linear operator.

    $$v \mapsto J(x_1)\, J(x_2)^\top v$$

    with the Jacobians $J$ of the outputs for a batch in the parameters. It maps what
    has the structure and shape of the outputs for `x2` to what has those for `x1`.
    Without `x2` it is that of `x1` with itself: symmetric and positive semidefinite,
    and solvers such as `lineax.CG` are told so.

    ```python
    operator = eqt.NTKOperator(model, x)
    noise = 1e-3 * lx.IdentityLinearOperator(operator.in_structure())
    regularized = lx.TaggedLinearOperator(
        operator + noise, lx.positive_semidefinite_tag
    )
    solution = lx.linear_solve(regularized, y, lx.CG(rtol=1e-5, atol=1e-5))
    ```

    **Cost:** a product takes about four evaluations of the network on either batch.
    """

    network: Network
    x1: PyTree[Array]
    x2: PyTree[Array] | None

    def __init__(
        self,
        model: Callable[..., Any],
        x1: PyTree[Array],
        x2: PyTree[Array] | None = None,
        params: PyTree | None = None,
        *,
        trainable: Trainable = eqx.is_inexact_array,
    ):
        """Take arguments as `eqtangents.empirical_ntk` does.

        **Raises:** `ValueError` if there is nothing to train, or the batches do not fit
        each other.
        """
        self.network = Network(model, params, trainable)
        self.x1, self.x2 = checked_batches(x1, x2)

    @property
    def _other(self) -> PyTree[Array]:
        return self.x1 if self.x2 is None else self.x2

    def _outputs(self, x: PyTree[Array]) -> Callable[[list[Array]], PyTree[Array]]:
        return lambda leaves: jax.vmap(lambda one: self.network(leaves, one))(x)

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """The product with a vector."""
        leaves = self.network.leaves
        _, pullback = jax.vjp(self._outputs(self._other), leaves)
        return jax.jvp(self._outputs(self.x1), (leaves,), pullback(vector))[1]

    def as_matrix(self) -> Float[Array, "rows columns"]:
        """All entries, column by column."""
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self.in_structure())
        flat, unravel = ravel_pytree(zeros)
        columns = jax.lax.map(
            lambda column: ravel_pytree(self.mv(unravel(column)))[0],
            jnp.eye(flat.size, dtype=flat.dtype),
            batch_size=16,
        )
        return columns.T

    def transpose(self) -> "NTKOperator":
        """The operator of the batches exchanged."""
        if self.x2 is None:
            return self
        return eqx.tree_at(lambda op: (op.x1, op.x2), self, (self.x2, self.x1))

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes of the outputs for `x2`."""
        return self._structure(self._other)

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes of the outputs for `x1`."""
        return self._structure(self.x1)

    def _structure(self, x: PyTree[Array]) -> PyTree[jax.ShapeDtypeStruct]:
        one = jax.eval_shape(self.network, self.network.leaves, example_of(x))
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct((size_of(x), *s.shape), s.dtype), one
        )


@lx.is_symmetric.register(NTKOperator)
@lx.is_positive_semidefinite.register(NTKOperator)
def _of_one_batch(operator: NTKOperator) -> bool:
    return operator.x2 is None


@lx.is_diagonal.register(NTKOperator)
@lx.is_tridiagonal.register(NTKOperator)
@lx.has_unit_diagonal.register(NTKOperator)
@lx.is_lower_triangular.register(NTKOperator)
@lx.is_upper_triangular.register(NTKOperator)
@lx.is_negative_semidefinite.register(NTKOperator)
def _never(operator: NTKOperator) -> bool:
    return False


@lx.linearise.register(NTKOperator)
@lx.materialise.register(NTKOperator)
@lx.conj.register(NTKOperator)
def _itself(operator: NTKOperator) -> NTKOperator:
    return operator


class Estimate(eqx.Module):
    """A mean over random samples, and its standard error."""

    mean: PyTree[Array]
    standard_error: PyTree[Array]


def estimate_trace(
    operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n_samples: int
) -> Estimate:
    r"""The trace of a square operator, from products with random signs.

    $$\operatorname{tr} A = \mathbb{E}\, z^\top A z$$

    **Arguments:**

    - `operator`: any real one, an `eqtangents.NTKOperator` say.
    - `key`: draws the signs.
    - `n_samples`: how many products to take, at least 2.

    **Raises:** `ValueError` if there are fewer.

    **Source:** Hutchinson 1990.
    """

    def one(z: PyTree[Array], product: PyTree[Array]) -> Array:
        return _dot(z, product)

    return _estimate(one, operator, key, n_samples)


def estimate_diagonal(
    operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n_samples: int
) -> Estimate:
    r"""The diagonal of a square operator, from products with random signs.

    $$\operatorname{diag} A = \mathbb{E}\, z \odot A z$$

    Arguments and errors are those of `eqtangents.estimate_trace`.

    **Source:** Bekas et al. 2007.
    """

    def one(z: PyTree[Array], product: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(jnp.multiply, z, product)

    return _estimate(one, operator, key, n_samples)


def estimate_effective_rank(
    operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n_samples: int
) -> Estimate:
    r"""How many eigenvalues of a symmetric operator matter.

    $$(\operatorname{tr} A)^2 / \operatorname{tr} A^2$$

    from the same products for both traces; the error is propagated to first order.
    Arguments and errors are those of `eqtangents.estimate_trace`.
    """

    def one(z: PyTree[Array], product: PyTree[Array]) -> tuple[Array, Array]:
        return _dot(z, product), _dot(product, product)

    traces, squares = _samples(one, operator, key, n_samples)
    trace, square = jnp.mean(traces), jnp.mean(squares)
    rank = trace**2 / square
    # The derivative of the ratio in both means, along each sample.
    spread = rank * (2 * (traces - trace) / trace - (squares - square) / square)
    return Estimate(rank, jnp.std(spread, ddof=1) / n_samples**0.5)


def _dot(a: PyTree[Array], b: PyTree[Array]) -> Array:
    return jnp.dot(ravel_pytree(a)[0], ravel_pytree(b)[0])


def _estimate(
    function: Callable, operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n: int
) -> Estimate:
    samples = _samples(function, operator, key, n)
    return Estimate(
        jax.tree.map(lambda s: jnp.mean(s, axis=0), samples),
        jax.tree.map(lambda s: jnp.std(s, axis=0, ddof=1) / n**0.5, samples),
    )


@eqx.filter_jit
def _samples(
    function: Callable, operator: lx.AbstractLinearOperator, key: PRNGKeyArray, n: int
) -> PyTree[Array]:
    """`function(z, operator z)` for vectors of random signs."""
    if n < 2:
        raise ValueError(
            f"`n_samples` is {n}, but a standard error needs at least 2 samples."
        )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    flat, unravel = ravel_pytree(zeros)

    def one(key: PRNGKeyArray) -> PyTree[Array]:
        z = unravel(jr.rademacher(key, flat.shape, flat.dtype))
        return function(z, operator.mv(z))

    return jax.lax.map(one, jr.split(key, n))
