"""Kernels of finite networks, whose examples are divided over the devices of a mesh.

What devices hand to one another are the inputs of a tangent kernel, and the outputs of
a kernel of outputs: whatever has few numbers. The rows of a Jacobian have, for each
output, as many as there are parameters, or values inside of the network; they are
formed where they are needed.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int, PyTree

from eqtangents._gram._gram import gram_of_pairs, lengthened
from eqtangents._gram._layout import plan_over
from eqtangents._gram._pairs import AbstractPairs
from eqtangents._gram._placement import (
    AnyMesh,
    MeshOrMaker,
    Placement,
    mesh_of,
)
from eqtangents._gram._plan import Plan
from eqtangents._tile_plan import Examples
from eqtangents.empirical._batches import size_of
from eqtangents.empirical._choice import Explanation
from eqtangents.empirical._evaluate import (
    Contributions,
    KernelOptions,
    explanations,
    is_contributions,
    output_products,
    outputs_of_batch,
    tangent_contributions,
)
from eqtangents.empirical._network import Network


class TangentPairs(AbstractPairs):
    """Contributions to the tangent kernel of a network."""

    network: Network
    options: KernelOptions

    def __call__(
        self, x1: Examples, x2: Examples | None, first_row: Int[Array, ""] | None
    ) -> PyTree[Contributions]:
        """Added up, unless leaves are to be told apart."""
        found = tangent_contributions(self.network, x1, x2, self.options)
        if self.options.by_leaf:
            return found
        total = lambda terms: Contributions([terms.total])
        return jax.tree.map(total, found, is_leaf=is_contributions)

    @property
    def shared_axes(self) -> int:
        """Diagonal ones."""
        return len(self.options.diagonal_axes)

    def is_mirrored(self, x: Examples) -> bool:
        """Outputs are mirrored as well."""
        return True

    def tile(self, x: Examples, plan: Plan) -> tuple[int, int]:
        """All that a device has, so that it forms each row of the Jacobian once.

        What the rows take is limited by `chunk_size`.
        """
        return plan.rows, plan.columns


class OutputPairs(AbstractPairs):
    """Products of outputs, which are the examples."""

    options: KernelOptions

    def __call__(
        self, x1: Examples, x2: Examples | None, first_row: Int[Array, ""] | None
    ) -> PyTree[Array]:
        """For each of several outputs."""
        return output_products(x1, x2, self.options)

    @property
    def shared_axes(self) -> int:
        """Diagonal ones."""
        return len(self.options.diagonal_axes)

    def is_mirrored(self, x: Examples) -> bool:
        """Those of complex outputs are conjugates."""
        return not any(map(jnp.iscomplexobj, jax.tree.leaves(x)))

    def tile(self, x: Examples, plan: Plan) -> tuple[int, int]:
        """All that a device has."""
        return plan.rows, plan.columns


def divided_tangents(
    network: Network,
    x1: PyTree[Array],
    x2: PyTree[Array] | None,
    options: KernelOptions,
    mesh: MeshOrMaker | None,
) -> PyTree[Contributions]:
    """Contributions to the kernel of each output, by all devices of a mesh."""
    return gram_of_pairs(TangentPairs(network, options), x1, x2, mesh_of(mesh, x1, x2))


def explained_over(
    network: Network,
    x1: PyTree[Array],
    x2: PyTree[Array] | None,
    options: KernelOptions,
    mesh: MeshOrMaker | None,
) -> PyTree[Explanation]:
    """The ways to each output's kernel, with what one device of a mesh has to do."""
    devices, second = mesh_of(mesh, x1, x2), x1 if x2 is None else x2
    if devices is None or devices.size == 1 or not (size_of(x1) and size_of(second)):
        return explanations(network, x1, x2, options)
    plan, _ = plan_over(TangentPairs(network, options), x1, x2, devices)
    rows, columns = (
        jax.tree.map(lambda a, n=n: jnp.zeros_like(a, shape=(n, *a.shape[1:])), x)
        for x, n in zip((x1, second), plan.sizes, strict=True)
    )
    tiles = math.prod(plan.table().shape[1:3])
    return jax.tree.map(
        lambda of_tile: of_tile.repeated(tiles),
        explanations(network, rows, columns, options),
        is_leaf=lambda node: isinstance(node, Explanation),
    )


def divided_products(
    whole: tuple[Any, Any, Any],
    x1: PyTree[Array],
    x2: PyTree[Array] | None,
    options: KernelOptions,
    mesh: MeshOrMaker | None,
) -> PyTree[Array]:
    """Products of outputs, each of which one device of a mesh has computed."""
    devices = mesh_of(mesh, x1, x2)
    outputs1, outputs2 = (
        None if x is None else by_example(outputs_of_batch, whole, x, devices)
        for x in (x1, x2)
    )
    return gram_of_pairs(OutputPairs(options), outputs1, outputs2, devices)


def by_example(
    function: Callable[[Any, PyTree[Array]], PyTree[Array]],
    given: Any,
    x: PyTree[Array],
    mesh: AnyMesh | None,
) -> PyTree[Array]:
    """A function of a batch, that each device calls with its own examples.

    **Arguments:**

    - `function`: takes `given` and a batch, and treats each example by itself.
    - `given`: what all devices have whole.
    """
    place = Placement.of_rows(mesh)
    parts = place.count(place.row_axes)
    longer = -(-size_of(x) // parts) * parts
    rows = jax.tree.map(lambda leaf: lengthened(leaf, longer), x)
    laid = place.put(given, PartitionSpec()), place.put(rows, place.rows)
    return _by_example(function, place, size_of(x), *laid)


@eqx.filter_jit
def _by_example(
    function: Callable[[Any, PyTree[Array]], PyTree[Array]],
    place: Placement,
    count: int,
    given: Any,
    rows: PyTree[Array],
) -> PyTree[Array]:
    arrays, rest = eqx.partition(given, eqx.is_array)

    def of_device(arrays: PyTree[Array], rows: PyTree[Array]) -> PyTree[Array]:
        return function(eqx.combine(arrays, rest), rows)

    run = place.mapped(of_device, (PartitionSpec(), place.rows), place.rows)
    return place.cut(run(arrays, rows), count)
