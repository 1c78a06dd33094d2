"""Costs of computing a tangent kernel, from shapes alone."""

import dataclasses
import functools
import math
from typing import Any

from jax import lax
from jax.extend import core
from jax.extend.core import primitives
from jaxtyping import PyTree

from eqtangents._jaxpr import jaxpr_and_consts, shape_of, traced
from eqtangents.empirical._analyse import Recipe, analyse
from eqtangents.empirical._contraction import dense_flops, paths
from eqtangents.empirical._network import Network
from eqtangents.empirical._pairing import RowCounts


# Floating-point operations in the time that one byte is moved in. Processors of all
# kinds are within a few times of this, and it decides between costs far apart.
FLOPS_PER_BYTE = 8.0
# The time of an operation on one column at a time, or on weights of its own for each,
# where an operation on all rows of a Jacobian at once, with common weights, takes 1.
COLUMN_FLOP_TIME = 4.0
# By how much a Jacobian must be cheaper: backward passes through weights, convolutions
# above all, are slower than the contractions that structure makes of them.
DENSE_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Cost:
    """Operations, memory traffic in bytes, and peak memory in bytes."""

    flops: float
    traffic: float
    peak: float
    flop_time: float = 1.0

    @property
    def time(self) -> float:
        """The estimated time, in units of one floating-point operation on matrices."""
        return self.flop_time * self.flops + FLOPS_PER_BYTE * self.traffic


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations of one evaluation of a program, and numbers it writes."""

    flops: float = 0.0
    written: float = 0.0
    has_custom_vjp: bool = False


def work(program: Any) -> Work:
    """Count the operations and writes of a traced program.

    A `while` loop counts as one iteration, since its length is unknown.
    """
    flops, written, custom = 0.0, 0.0, False
    for eqn in jaxpr_and_consts(program)[0].eqns:
        inner = [
            work(item)
            for value in eqn.params.values()
            for item in (value if isinstance(value, tuple | list) else (value,))
            if isinstance(item, core.Jaxpr | core.ClosedJaxpr)
        ]
        if not inner:
            size = float(sum(math.prod(shape_of(v)) for v in eqn.outvars))
            inner = [Work(size * _per_output(eqn), size)]
        count = eqn.params["length"] if eqn.primitive is lax.scan_p else 1
        flops += count * sum(one.flops for one in inner)
        written += count * sum(one.written for one in inner)
        custom |= eqn.primitive is primitives.custom_vjp_call_p
        custom |= any(one.has_custom_vjp for one in inner)
    return Work(flops, written, custom)


def _per_output(eqn: core.JaxprEqn) -> float:
    """Operations for one number of the result."""
    if eqn.primitive is lax.dot_general_p:
        (axes, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * math.prod(shape_of(eqn.invars[0])[axis] for axis in axes)
    if eqn.primitive is lax.conv_general_dilated_p:
        _, *others = eqn.params["dimension_numbers"].rhs_spec
        return 2.0 * math.prod(shape_of(eqn.invars[1])[axis] for axis in others)
    return 1.0


class Costs:
    """Costs of the kernel of one network, at one example's shape."""

    def __init__(self, network: Network, example: PyTree, *, symmetric: bool):
        """Trace the network; nothing is compiled."""
        leaves = network.leaves
        program = traced(network, leaves, example)
        self.recipe = functools.cache(
            functools.partial(analyse, program, leaves, example)
        )
        self.symmetric = symmetric
        self.sizes = [leaf.size for leaf in leaves]
        self.work = work(program.closed)
        self.structured = self.recipe(frozenset())
        dtypes = [output.dtype for output in self.structured.outputs]
        self.itemsize = max((dtype.itemsize for dtype in dtypes), default=4)

    def cheapest_dense(self, counts1: RowCounts, counts2: RowCounts) -> frozenset[int]:
        """Parameters for which a Jacobian is cheaper than to use their structure."""
        found = paths(self.structured, counts1, counts2)
        rows = self._rows(counts1, counts2)
        return frozenset(
            i
            for i, size in enumerate(self.sizes)
            if dense_flops(counts1, counts2, size) + rows * self.structured.forming(i)
            < DENSE_SHARE * sum(path.flops for path in found.get(i, ()))
        )

    def of_rows(self, recipe: Recipe, counts1: RowCounts, counts2: RowCounts) -> Cost:
        """The cost of cotangents, factors and their contraction."""
        rows, found = self._rows(counts1, counts2), paths(recipe, counts1, counts2)
        examples = rows // max(counts1.outputs, 1)
        flat = [path for leaf in found.values() for path in leaf]
        contraction = sum(path.flops for path in flat)
        largest = max((path.largest for path in flat), default=0.0)
        forming = sum(map(self.structured.forming, recipe.dense))
        cotangents = sum(math.prod(tap.shape) for tap in recipe.taps)
        factors = sum(
            math.prod(array.shape)
            for use in recipe.uses
            for array in use.part.varying()
        )
        held = rows * cotangents + examples * (factors + self.work.written) + largest
        moved = rows * (2 * self.work.written + 2 * cotangents) + 2 * largest
        flops = examples * self.work.flops + rows * (self.work.flops + forming)
        return Cost(flops + contraction, self.itemsize * moved, self.itemsize * held)

    def of_products(self, counts1: RowCounts, counts2: RowCounts, batch: int) -> Cost:
        """The cost of products of the kernel with all columns of the identity."""
        columns, n1 = counts2.examples * counts2.outputs, counts1.examples
        flops = columns * (2 + n1) * self.work.flops
        written = (2 + n1) * self.work.written + 3 * sum(self.sizes)
        held = batch * (sum(self.sizes) + n1 * self.work.written)
        moved, held = self.itemsize * columns * written, self.itemsize * held
        return Cost(flops, moved, held, COLUMN_FLOP_TIME)

    def _rows(self, counts1: RowCounts, counts2: RowCounts) -> int:
        """How many rows of Jacobians are needed: of `x1` alone if it has no partner."""
        rows = counts1.examples * counts1.outputs
        return rows if self.symmetric else rows + counts2.examples * counts2.outputs
