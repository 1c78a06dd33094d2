"""Tangent kernels that are never formed, as linear operators."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from eqtangents._gram._placement import (
    AnyMesh,
    MeshOrMaker,
    Placement,
    in_any_mesh,
    mesh_of,
    without_axis_types,
)
from eqtangents._parameters import Trainable
from eqtangents._trees import Batch, Params, Tree
from eqtangents.empirical._batches import checked_batches, size_of
from eqtangents.empirical._network import Network, check_model, differentiable
from eqtangents.empirical._over_mesh import by_example


class NTKOperator(lx.AbstractLinearOperator):
    r"""The neural tangent kernel of one network as a matrix-free linear operator.

    $$v \mapsto J(x_1)\, J(x_2)^\top v$$

    with the Jacobians $J$ of the outputs for a batch in the parameters. It maps trees
    of arrays like the outputs for `x2` to trees like the outputs for `x1`. Without
    `x2`, `x1` is paired with itself: the kernel is symmetric and positive semidefinite,
    as the operator tells solvers such as `lineax.CG`.

    ```python
    operator = eqt.NTKOperator(model, x)
    noise = 1e-3 * lx.IdentityLinearOperator(operator.in_structure())
    regularized = lx.TaggedLinearOperator(
        operator + noise, lx.positive_semidefinite_tag
    )
    solution = lx.linear_solve(regularized, y, lx.CG(rtol=1e-5, atol=1e-5))
    ```

    Functions of `lineax` take it as any other operator: `lx.materialise` forms its
    matrix, `lx.diagonal` takes but the diagonal.

    **Cost:** a product takes about four evaluations of the network on either batch.
    Over a mesh, each device does so for its share of the examples; devices add up one
    number for each parameter.
    """

    network: Network
    x1: PyTree[Array]
    x2: PyTree[Array] | None
    mesh: AnyMesh | None = eqx.field(static=True)

    def __init__(
        self,
        model: Callable[..., Any],
        x1: Batch,
        x2: Batch | None = None,
        params: Params | None = None,
        *,
        trainable: Trainable = None,
        state: eqx.nn.State | None = None,
        mesh: MeshOrMaker | None = None,
    ):
        """Take arguments as `eqtangents.empirical_ntk` does; all outputs are compared.

        **Raises:** `ValueError` if there is nothing to train, or the batches do not fit
        each other; `TypeError` if an argument is of another kind.
        """
        check_model(model, params, state, x1)
        self.network = Network(model, params, trainable, state)
        batches = checked_batches(x1, x2)
        self.mesh = without_axis_types(mesh_of(mesh, *batches))
        place = Placement.of_rows(self.mesh)
        self.x1, self.x2 = (
            None if x is None else place.put(x, place.fitting(size_of(x)))
            for x in batches
        )

    @property
    def other(self) -> PyTree[Array]:
        """The second batch."""
        return self.x1 if self.x2 is None else self.x2

    def outputs(self, x: PyTree[Array]) -> Callable[[list[Array]], PyTree[Array]]:
        """What the network returns for a batch, as a function of parameters."""
        given = lambda leaves: (self.network, leaves)
        return lambda leaves: by_example(_outputs_at, given(leaves), x, self.mesh)

    @differentiable()
    def mv(self, vector: Tree[Array]) -> Tree[Array]:
        """The product with a vector."""
        place = Placement.of_rows(self.mesh)
        laid = place.put(vector, place.fitting(size_of(self.other)))
        return in_any_mesh(_of_vector, self, laid)

    def as_matrix(self) -> Float[Array, "rows columns"]:
        """All entries, column by column."""
        return of_columns(self, lambda index, column: column).T

    def transpose(self) -> "NTKOperator":
        """The operator of the batches exchanged."""
        if self.x2 is None:
            return self
        return eqx.tree_at(lambda op: (op.x1, op.x2), self, (self.x2, self.x1))

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes of the outputs for `x2`."""
        return self._structure(self.other)

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes of the outputs for `x1`."""
        return self._structure(self.x1)

    def _structure(self, x: PyTree[Array]) -> PyTree[jax.ShapeDtypeStruct]:
        struct = lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        example = jax.tree.map(struct, x)
        one = jax.eval_shape(self.network, self.network.leaves, example)
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct((size_of(x), *s.shape), s.dtype), one
        )


def _of_vector(operator: NTKOperator, vector: Tree[Array]) -> Tree[Array]:
    leaves = operator.network.leaves
    _, pullback = jax.vjp(operator.outputs(operator.other), leaves)
    return jax.jvp(operator.outputs(operator.x1), (leaves,), pullback(vector))[1]


def _outputs_at(given: tuple[Network, list[Array]], x: PyTree[Array]) -> PyTree[Array]:
    """Outputs for a batch, at some parameters."""
    network, leaves = given
    return jax.vmap(lambda one: network(leaves, one))(x)


def of_columns(
    operator: NTKOperator, function: Callable[[Array, Array], Array]
) -> Float[Array, "columns ..."]:
    """`function(index, column)` for all columns, which are not held together."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    flat, unravel = ravel_pytree(zeros)

    def one(index: Array) -> Array:
        unit = jax.nn.one_hot(index, flat.size, dtype=flat.dtype)
        return function(index, ravel_pytree(operator.mv(unravel(unit)))[0])

    if not flat.size:
        rows = operator.out_size()
        shape = jax.eval_shape(function, jnp.int32(0), jnp.zeros(rows, flat.dtype))
        return jnp.zeros((0, *shape.shape), shape.dtype)
    indices = jnp.arange(flat.size, dtype=jnp.int32)
    return jax.lax.map(one, indices, batch_size=16)
