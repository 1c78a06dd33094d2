"""Tangent kernels that are never formed, as linear operators."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from eqtangents._gram._placement import (
    MeshOrMaker,
    Placement,
    made_mesh,
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
    mesh: Mesh | None = eqx.field(static=True)

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
        self.mesh = without_axis_types(made_mesh(mesh))
        place = Placement.of_rows(self.mesh)
        self.x1, self.x2 = (
            None if x is None else place.put(x, place.fitting(size_of(x)))
            for x in checked_batches(x1, x2)
        )

    @property
    def _other(self) -> PyTree[Array]:
        return self.x1 if self.x2 is None else self.x2

    def _outputs(self, x: PyTree[Array]) -> Callable[[list[Array]], PyTree[Array]]:
        given = lambda leaves: (self.network, leaves)
        return lambda leaves: by_example(_outputs_at, given(leaves), x, self.mesh)

    @differentiable()
    def mv(self, vector: Tree[Array]) -> Tree[Array]:
        """The product with a vector."""
        leaves = self.network.leaves
        _, pullback = jax.vjp(self._outputs(self._other), leaves)
        return jax.jvp(self._outputs(self.x1), (leaves,), pullback(vector))[1]

    def as_matrix(self) -> Float[Array, "rows columns"]:
        """All entries, column by column."""
        return _of_columns(self, lambda index, column: column).T

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
        struct = lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        example = jax.tree.map(struct, x)
        one = jax.eval_shape(self.network, self.network.leaves, example)
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct((size_of(x), *s.shape), s.dtype), one
        )


def _outputs_at(given: tuple[Network, list[Array]], x: PyTree[Array]) -> PyTree[Array]:
    """Outputs for a batch, at some parameters."""
    network, leaves = given
    return jax.vmap(lambda one: network(leaves, one))(x)


def _of_columns(
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


def _is_one_number(operator: NTKOperator) -> bool:
    return operator.in_size() == 1 and operator.out_size() == 1


@lx.is_positive_semidefinite.register(NTKOperator)
def _is_positive_semidefinite(operator: NTKOperator) -> bool:
    return operator.x2 is None


@lx.is_symmetric.register(NTKOperator)
def _is_symmetric(operator: NTKOperator) -> bool:
    return operator.x2 is None or _is_one_number(operator)


@lx.is_diagonal.register(NTKOperator)
@lx.is_tridiagonal.register(NTKOperator)
@lx.is_lower_triangular.register(NTKOperator)
@lx.is_upper_triangular.register(NTKOperator)
def _is_sparse(operator: NTKOperator) -> bool:
    return _is_one_number(operator)


@lx.has_unit_diagonal.register(NTKOperator)
@lx.is_negative_semidefinite.register(NTKOperator)
def _never(operator: NTKOperator) -> bool:
    return False


@lx.conj.register(NTKOperator)
def _conj(operator: NTKOperator) -> NTKOperator:
    return operator  # it is real


@lx.linearise.register(NTKOperator)
@differentiable()
def _linearise(operator: NTKOperator) -> lx.FunctionLinearOperator:
    """Products that run the network no more: both passes are held."""
    leaves = operator.network.leaves
    _, pullback = jax.vjp(operator._outputs(operator._other), leaves)
    _, forward = jax.linearize(operator._outputs(operator.x1), leaves)
    return lx.FunctionLinearOperator(
        lambda vector: forward(*pullback(vector)),
        operator.in_structure(),
        _tags(operator),
    )


@lx.materialise.register(NTKOperator)
def _materialise(operator: NTKOperator) -> lx.AbstractLinearOperator:
    """All entries, as blocks between the outputs of either batch."""
    matrix = operator.as_matrix()
    outputs, treedef = jax.tree.flatten(operator.out_structure())
    inputs, in_treedef = jax.tree.flatten(operator.in_structure())
    rows = _cut(matrix, 0, outputs)
    blocks = [
        jax.tree.unflatten(
            in_treedef,
            [
                block.reshape(*output.shape, *given.shape)
                for block, given in zip(_cut(row, 1, inputs), inputs, strict=True)
            ],
        )
        for row, output in zip(rows, outputs, strict=True)
    ]
    return lx.PyTreeLinearOperator(
        jax.tree.unflatten(treedef, blocks), operator.out_structure(), _tags(operator)
    )


def _cut(matrix: Array, axis: int, parts: list[jax.ShapeDtypeStruct]) -> list[Array]:
    """Cut a matrix along an axis into the blocks of each part."""
    ends = np.cumsum([math.prod(part.shape) for part in parts])
    return jnp.split(matrix, ends[:-1], axis)


def _tags(operator: NTKOperator) -> frozenset[object]:
    symmetric = operator.x2 is None
    return frozenset({lx.positive_semidefinite_tag} if symmetric else ())


@lx.diagonal.register(NTKOperator)
@differentiable()
def _operator_diagonal(operator: NTKOperator) -> Float[Array, " size"]:
    """Products of rows of both Jacobians, each of one example alone."""
    x1, x2 = operator.x1, operator._other
    if size_of(x1) != size_of(x2):
        size = min(operator.in_size(), operator.out_size())
        return _of_columns(operator, lambda i, column: column.at[i].get(mode="fill"))[
            :size
        ]
    given = operator.network, operator.network.leaves
    return ravel_pytree(by_example(_diagonals, given, (x1, x2), operator.mesh))[0]


def _diagonals(
    given: tuple[Network, list[Array]], pairs: tuple[PyTree[Array], PyTree[Array]]
) -> PyTree[Array]:
    """The products of rows of two examples, for each output."""
    network, leaves = given

    def of_example(examples: tuple[PyTree, PyTree]) -> PyTree[Array]:
        one, other = (
            jax.vjp(functools.partial(network, example=x), leaves) for x in examples
        )
        flat, unravel = ravel_pytree(one[0])

        def entry(index: Array) -> Array:
            unit = unravel(jax.nn.one_hot(index, flat.size, dtype=flat.dtype))
            (row1,), (row2,) = one[1](unit), other[1](unit)
            return sum(map(jnp.vdot, row1, row2), start=jnp.zeros((), flat.dtype))

        found = jax.lax.map(entry, jnp.arange(flat.size), batch_size=16)
        return unravel(found)

    return jax.lax.map(of_example, pairs)


@lx.tridiagonal.register(NTKOperator)
def _tridiagonal(
    operator: NTKOperator,
) -> tuple[Float[Array, " size"], Float[Array, " lower"], Float[Array, " upper"]]:
    """Three entries of each column, which are not held together."""
    rows, columns = operator.out_size(), operator.in_size()
    near = _of_columns(
        operator,
        lambda i, column: (
            jnp.pad(column, 1).at[i + jnp.arange(3, dtype=i.dtype)].get(mode="fill")
        ),
    )
    above, main, below = near.T
    diagonal = min(rows, columns)
    return (
        main[:diagonal],
        below[: min(rows - 1, columns)],
        above[1 : min(rows, columns - 1) + 1],
    )
