"""From arguments that have been checked to kernels."""

import operator
from functools import reduce
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from eqtangents._trees import varies, varying_zero
from eqtangents.empirical._batches import example_of, size_of
from eqtangents.empirical._choice import (
    Candidate,
    Explanation,
    Implementation,
    candidates,
    chosen,
)
from eqtangents.empirical._compute import from_products, from_rows
from eqtangents.empirical._cost import Costs
from eqtangents.empirical._network import (
    Network,
    differentiable,
    outputs_of_one,
    parameter_names,
)
from eqtangents.empirical._pairing import Pairing, pairing


Arguments = TypeVar("Arguments")


class Contributions(eqx.Module):
    """The contributions of parameters to a kernel: one a leaf, if these are known."""

    arrays: list[Array]

    @property
    def total(self) -> Array:
        """The kernel."""
        return reduce(operator.add, self.arrays)


class KernelOptions(eqx.Module):
    """Which outputs a kernel compares, and how it is computed."""

    trace_axes: tuple[int, ...] | None = eqx.field(static=True)
    diagonal_axes: tuple[int, ...] = eqx.field(static=True)
    implementation: Implementation = eqx.field(static=True, default="auto")
    chunk_size: int | None = eqx.field(static=True, default=None)
    by_leaf: bool = eqx.field(static=True, default=False)  # or the whole kernel alone

    def pairing(self, shape: tuple[int, ...]) -> Pairing:
        """How the axes of an output of some shape are compared."""
        return pairing(shape, self.trace_axes, self.diagonal_axes)


@eqx.filter_jit
@differentiable()
def tangent_contributions(
    network: Network,
    x1: PyTree[Array],
    x2: PyTree[Array] | None,
    options: KernelOptions,
) -> PyTree[Contributions]:
    """Contributions to the kernel of each output."""
    network, x1, x2 = _varying_alike((network, x1, x2))
    shapes, treedef = _output_structs(network, x1)
    costs = _costs_of(network, x1, x2)
    found = []
    for i, shape in enumerate(shapes):
        paired = options.pairing(shape.shape)
        ways = _ways(costs, x1, x2, paired, options)
        way = chosen(ways, _way_of_rates(network, options.implementation))
        by_leaf = options.by_leaf or network.rates is not None
        terms = _computed(network, x1, x2, i, paired, way, by_leaf)
        arrays = [paired.assembled(term).astype(shape.dtype) for term in terms]
        if network.rates is not None:
            rates = zip(network.rates, arrays, strict=True)
            arrays = [jnp.asarray(rate, a.dtype) * a for rate, a in rates]
        found.append(Contributions(arrays))
    return treedef.unflatten(found)


def _way_of_rates(network: Network, implementation: Implementation) -> Implementation:
    """The way that keeps parameters apart, if they have learning rates of their own."""
    if network.rates is None:
        return implementation
    if implementation == "vector_products":
        raise ValueError(
            '`implementation` is "vector_products", which does not keep parameters '
            "apart, but `trainable` has learning rates of some. Choose "
            '"structured" or "jacobian".'
        )
    return "structured" if implementation == "auto" else implementation


def outputs_of_batch(whole: tuple[Any, Any, Any], x: PyTree[Array]) -> PyTree[Array]:
    """Outputs; `whole` has the arguments of `outputs_of_one` but one."""
    return jax.vmap(lambda example: outputs_of_one(*whole, example))(x)


@eqx.filter_jit
def output_products(
    outputs1: PyTree[Array], outputs2: PyTree[Array] | None, options: KernelOptions
) -> PyTree[Array]:
    """Products of the outputs for two batches, or for one."""

    def of(one: Array, other: Array) -> Array:
        paired = options.pairing(one.shape[1:])
        rows = paired.grouped(one), paired.grouped(other)
        found = jnp.einsum("idtf,jdtg->ijdfg", rows[0], jnp.conj(rows[1]))
        return paired.assembled(found)

    return jax.tree.map(of, outputs1, outputs1 if outputs2 is None else outputs2)


@differentiable()
def explanations(
    network: Network,
    x1: PyTree[Array],
    x2: PyTree[Array] | None,
    options: KernelOptions,
) -> PyTree[Explanation]:
    """The ways to each output's kernel, and the choice among them."""
    shapes, treedef = _output_structs(network, x1)
    costs = _costs_of(network, x1, x2)
    found = []
    for shape in shapes:
        ways = _ways(costs, x1, x2, options.pairing(shape.shape), options)
        way = chosen(ways, options.implementation)
        found.append(Explanation(parameter_names(network), ways, way))
    return treedef.unflatten(found)


def _costs_of(network: Network, x1: PyTree[Array], x2: PyTree[Array] | None) -> Costs:
    return Costs(network, example_of(x1), symmetric=x2 is None)


def _ways(
    costs: Costs,
    x1: PyTree[Array],
    x2: PyTree[Array] | None,
    paired: Pairing,
    options: KernelOptions,
) -> list[Candidate]:
    """All ways to the kernel of one output, cheapest first."""
    n1, n2 = size_of(x1), size_of(x1 if x2 is None else x2)
    counts = paired.counts(n1), paired.counts(n2)
    return candidates(costs, *counts, options.chunk_size)


def _computed(
    network: Network,
    x1: PyTree[Array],
    x2: PyTree[Array] | None,
    output: int,
    paired: Pairing,
    way: Candidate,
    by_leaf: bool,
) -> list[Array]:
    """The terms of a kernel: one for each leaf, or one."""
    size = way.chunk_size
    if way.name == "vector_products":
        other = x1 if x2 is None else x2
        return [from_products(network, x1, other, output, paired, size)]
    owner = network.owner if by_leaf else [0] * len(network.leaves)
    parts = from_rows(way.recipe, network.leaves, owner, x1, x2, output, paired, size)
    n1, n2 = size_of(x1), size_of(x1 if x2 is None else x2)
    _, d, _, f = paired.counts(n1)
    zeros = jnp.zeros((n1, n2, d, f, f))
    return [parts.get(number, zeros) for number in range(max(owner) + 1)]


def _varying_alike(arguments: Arguments) -> Arguments:
    """The arguments, varying over the axes of a mesh that any of them varies over.

    Inside of `jax.shard_map`, results of a program have the type that it was traced
    with, so that it must be traced as it is run.
    """
    arrays, rest = eqx.partition(arguments, eqx.is_array)
    if not varies(arrays):
        return arguments
    zero = varying_zero(arrays, jnp.dtype("float32"))

    def varying(array: Array) -> Array:
        if not jnp.issubdtype(array.dtype, jnp.number):
            return array
        return array + zero.astype(array.dtype)

    return eqx.combine(jax.tree.map(varying, arrays), rest)


def is_contributions(node: Any) -> bool:
    """Whether this is the kernel of one output."""
    return isinstance(node, Contributions)


def _output_structs(
    network: Network, x1: PyTree[Array]
) -> tuple[list[jax.ShapeDtypeStruct], Any]:
    """Shapes of the outputs for one example."""
    shape = jax.eval_shape(network, network.leaves, example_of(x1))
    return jax.tree.flatten(shape)
