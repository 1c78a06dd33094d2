"""What `lineax` asks of a tangent kernel: its tags, its matrix, and parts of that."""

import functools
import math

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from eqtangents._gram._placement import explicit_in_force, in_any_mesh
from eqtangents.empirical._batches import size_of
from eqtangents.empirical._network import Network, differentiable
from eqtangents.empirical._operator import NTKOperator, of_columns
from eqtangents.empirical._over_mesh import by_example


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
def _linearise(operator: NTKOperator) -> lx.AbstractLinearOperator:
    """Products that run the network no more: both passes are held.

    Not in a mesh whose axes are explicit: these are left to the compiler for the time
    of a product alone.
    """
    if explicit_in_force():
        return operator
    leaves = operator.network.leaves
    _, pullback = jax.vjp(operator.outputs(operator.other), leaves)
    _, forward = jax.linearize(operator.outputs(operator.x1), leaves)
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
    x1, x2 = operator.x1, operator.other
    if size_of(x1) != size_of(x2):
        size = min(operator.in_size(), operator.out_size())
        return of_columns(operator, lambda i, column: column.at[i].get(mode="fill"))[
            :size
        ]
    return in_any_mesh(_own_products, operator)


def _own_products(operator: NTKOperator) -> Float[Array, " size"]:
    pairs = operator.x1, operator.other
    given = operator.network, operator.network.leaves
    return ravel_pytree(by_example(_diagonals, given, pairs, operator.mesh))[0]


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
    near = of_columns(
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
