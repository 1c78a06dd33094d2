"""What computing a tangent kernel costs, from shapes alone."""

import dataclasses
import math
from typing import Any, Literal, TypeAlias

from jax.extend import core
from jaxtyping import PyTree

from eqtangents._jaxpr import jaxpr_and_consts, shape_of
from eqtangents.empirical._contraction import Rows, dense_flops
from eqtangents.empirical._network import Network
from eqtangents.empirical._structure import Structure


Implementation: TypeAlias = Literal["jacobian", "structured", "vector_products"]

# Floating-point operations in the time that one byte is moved in. Processors of all
# kinds are within a few times of this, and it decides between costs far apart.
FLOPS_PER_BYTE = 8.0
# Of an operation on one column at a time, or on weights of its own for each, where one
# on all rows of a Jacobian at once, with common weights, takes 1.
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
        """In units of one floating-point operation on matrices."""
        return self.flop_time * self.flops + FLOPS_PER_BYTE * self.traffic


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations of one evaluation of a program, and numbers it writes."""

    flops: float = 0.0
    written: float = 0.0
    has_custom_vjp: bool = False


def work(program: Any) -> Work:
    """Of a traced program. Loops that end on a condition count once."""
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
        count = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        flops += count * sum(one.flops for one in inner)
        written += count * sum(one.written for one in inner)
        custom |= eqn.primitive.name == "custom_vjp_call"
        custom |= any(one.has_custom_vjp for one in inner)
    return Work(flops, written, custom)


def _per_output(eqn: core.JaxprEqn) -> float:
    """Operations for one number of the result."""
    if eqn.primitive.name == "dot_general":
        (axes, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * math.prod(shape_of(eqn.invars[0])[axis] for axis in axes)
    if eqn.primitive.name == "conv_general_dilated":
        _, *others = eqn.params["dimension_numbers"].rhs_spec
        return 2.0 * math.prod(shape_of(eqn.invars[1])[axis] for axis in others)
    return 1.0


class Costs:
    """Costs of the kernel of one network, at one example's shape."""

    def __init__(self, network: Network, example: PyTree, *, symmetric: bool):
        """Trace the network; nothing is compiled."""
        self.network, self.example, self.symmetric = network, example, symmetric
        self.sizes = [leaf.size for leaf in network.leaves]
        self.whole = Structure(network, example, frozenset())
        self.work = work(self.whole.program)
        dtypes = [output.dtype for output in self.whole.outputs]
        self.itemsize = max((dtype.itemsize for dtype in dtypes), default=4)

    def cheapest_dense(self, rows1: Rows, rows2: Rows) -> frozenset[int]:
        """Parameters for which a Jacobian is cheaper than to use their structure."""
        plans = self.whole.plans(rows1, rows2)
        rows = self._rows(rows1, rows2)
        return frozenset(
            i
            for i, size in enumerate(self.sizes)
            if dense_flops(rows1, rows2, size) + rows * self.whole.forming(i)
            < DENSE_SHARE * sum(plan.flops for plan in plans.get(i, ()))
        )

    def of_rows(self, structure: Structure, rows1: Rows, rows2: Rows) -> Cost:
        """Of cotangents, factors and their contraction."""
        rows, plans = self._rows(rows1, rows2), structure.plans(rows1, rows2)
        examples = rows // max(rows1.outputs, 1)
        flat = [plan for leaf in plans.values() for plan in leaf]
        contraction = sum(plan.flops for plan in flat)
        largest = max((plan.largest for plan in flat), default=0.0)
        forming = sum(map(self.whole.forming, structure.dense))
        cotangents = sum(math.prod(tap.shape) for tap in structure.taps)
        factors = sum(
            math.prod(array.shape) for use in structure.factors for array in use
        )
        held = rows * cotangents + examples * (factors + self.work.written) + largest
        moved = rows * (2 * self.work.written + 2 * cotangents) + 2 * largest
        flops = examples * self.work.flops + rows * (self.work.flops + forming)
        return Cost(flops + contraction, self.itemsize * moved, self.itemsize * held)

    def of_products(self, rows1: Rows, rows2: Rows, batch: int) -> Cost:
        """Of products of the kernel with all columns of the identity."""
        columns, n1 = rows2.examples * rows2.outputs, rows1.examples
        flops = columns * (2 + n1) * self.work.flops
        written = (2 + n1) * self.work.written + 3 * sum(self.sizes)
        held = batch * (sum(self.sizes) + n1 * self.work.written)
        moved, held = self.itemsize * columns * written, self.itemsize * held
        return Cost(flops, moved, held, COLUMN_FLOP_TIME)

    def _rows(self, rows1: Rows, rows2: Rows) -> int:
        """How many rows of Jacobians, with those of `x1` alone if it has no partner."""
        rows = rows1.examples * rows1.outputs
        return rows if self.symmetric else rows + rows2.examples * rows2.outputs
