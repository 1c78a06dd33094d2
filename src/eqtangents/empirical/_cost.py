"""Costs of computing a tangent kernel, from shapes alone."""

import dataclasses
import functools
import math

from jaxtyping import Array, PyTree

from eqtangents._jaxpr import Program, traced
from eqtangents.empirical._analyse import Recipe, analyse
from eqtangents.empirical._contraction import dense_flops, paths, waist_path
from eqtangents.empirical._network import Network
from eqtangents.empirical._pairing import RowCounts, pairing
from eqtangents.empirical._rows import counts_below
from eqtangents.empirical._waist import find_waist


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

    def repeated(self, times: int) -> "Cost":
        """The cost of so many of the same, one after the other."""
        return dataclasses.replace(
            self, flops=times * self.flops, traffic=times * self.traffic
        )

    def __add__(self, other: "Cost") -> "Cost":
        """The cost of both, at one rate, with all that they hold."""
        return Cost(
            self.flops + other.flops,
            self.traffic + other.traffic,
            self.peak + other.peak,
            self.flop_time,
        )


class Recipes:
    """The recipes for one program, and the cheapest one for a kernel."""

    def __init__(
        self,
        program: Program,
        leaves: list[Array],
        example: PyTree,
        *,
        symmetric: bool,
        waist: int | None = None,
    ):
        """Analyse a traced network. `waist` is the leaf that is the value of one."""
        self._program, self._leaves, self._example = program, leaves, example
        self.symmetric, self._waist = symmetric, waist
        self._analysed = functools.cache(
            functools.partial(analyse, program, leaves, example)
        )
        self._structured = self.recipe(frozenset())

    def recipe(self, dense: frozenset[int]) -> Recipe:
        """The recipe that keeps some parameters whole."""
        whole = dense if self._waist is None else dense | {self._waist}
        found = self._analysed(whole)
        formed = sum(map(self._structured.forming, dense)) if dense else 0.0
        return dataclasses.replace(found, formed=formed, waist=self._waist)

    def cheapest(
        self, counts1: RowCounts, counts2: RowCounts, most_rows: int | None = None
    ) -> Recipe:
        """The recipe with the least operations for these rows and columns.

        No more than `most_rows` are to be held of one example.
        """
        rows = min(counts1.outputs, most_rows or counts1.outputs)
        halves = self._halves(rows)
        if halves is None:
            return self.recipe(self._cheapest_dense(counts1, counts2))
        below, above = halves
        recipe = above.recipe(above._cheapest_dense(counts1, counts2))
        (value,) = below._structured.outputs
        narrow1, narrow2 = (
            pairing(value.shape, (), ()).counts(counts.examples)
            for counts in (counts1, counts2)
        )
        below = below.cheapest(narrow1, narrow2, most_rows)
        return dataclasses.replace(recipe, below=below)

    def _halves(self, rows: int) -> "tuple[Recipes, Recipes] | None":
        """Recipes below and above the waist."""
        if not rows:  # nothing is narrower than no outputs
            return None
        waist = find_waist(self._program, self._leaves, self._example, rows)
        if waist is None:
            return None
        leaves = [*self._leaves, waist.value]
        of = functools.partial(Recipes, example=self._example, symmetric=self.symmetric)
        below = of(waist.below, self._leaves)
        return below, of(waist.above, leaves, waist=len(self._leaves))

    def _cheapest_dense(self, counts1: RowCounts, counts2: RowCounts) -> frozenset[int]:
        """Parameters for which a Jacobian is cheaper than to use their structure."""
        structured = self._structured
        found = paths(structured, counts1, counts2)
        rows = _rows(counts1, counts2, symmetric=self.symmetric)
        return frozenset(
            i
            for i, terms in found.items()
            if dense_flops(counts1, counts2, self._leaves[i].size)
            + rows * structured.forming(i)
            < DENSE_SHARE * sum(path.flops for path in terms)
        )


class Costs:
    """Costs of the kernel of one network, at one example's shape."""

    def __init__(self, network: Network, example: PyTree, *, symmetric: bool):
        """Trace the network; nothing is compiled."""
        leaves, self.symmetric = network.leaves, symmetric
        program = traced(network, leaves, example)
        self.recipes = Recipes(program, leaves, example, symmetric=symmetric)
        self.size = sum(leaf.size for leaf in leaves)
        self.jacobian = self.recipes.recipe(frozenset(range(len(leaves))))
        dtypes = [output.dtype for output in self.jacobian.outputs]
        self.itemsize = max((dtype.itemsize for dtype in dtypes), default=4)

    def of_rows(self, recipe: Recipe, counts1: RowCounts, counts2: RowCounts) -> Cost:
        """The cost of cotangents, factors and their contraction."""
        rows = _rows(counts1, counts2, symmetric=self.symmetric)
        found = paths(recipe, counts1, counts2)
        examples = rows // max(counts1.outputs, 1)
        flat = [path for leaf in found.values() for path in leaf]
        if recipe.below is not None:
            flat.append(waist_path(recipe, counts1, counts2))
        contraction = sum(path.flops for path in flat)
        largest = max((path.largest for path in flat), default=0.0)
        cotangents = sum(math.prod(tap.shape) for tap in recipe.taps)
        factors = sum(
            math.prod(array.shape)
            for use in recipe.uses
            for array in use.part.varying()
        )
        work = recipe.work
        held = rows * cotangents + examples * (factors + work.written) + largest
        moved = rows * (2 * work.written + 2 * cotangents) + 2 * largest
        flops = examples * work.flops + rows * (work.flops + recipe.formed)
        cost = Cost(flops + contraction, self.itemsize * moved, self.itemsize * held)
        if recipe.below is None:
            return cost
        narrow = (counts_below(recipe, counts) for counts in (counts1, counts2))
        return cost + self.of_rows(recipe.below, *narrow)

    def of_products(self, counts1: RowCounts, counts2: RowCounts, batch: int) -> Cost:
        """The cost of products of the kernel with all columns of the identity."""
        columns, n1 = counts2.examples * counts2.outputs, counts1.examples
        work = self.jacobian.work
        flops = columns * (2 + n1) * work.flops
        written = (2 + n1) * work.written + 3 * self.size
        held = batch * (self.size + n1 * work.written)
        moved, held = self.itemsize * columns * written, self.itemsize * held
        return Cost(flops, moved, held, COLUMN_FLOP_TIME)


def _rows(counts1: RowCounts, counts2: RowCounts, *, symmetric: bool) -> int:
    """How many rows of Jacobians are needed: of `x1` alone if it has no partner."""
    rows = counts1.examples * counts1.outputs
    return rows if symmetric else rows + counts2.examples * counts2.outputs
