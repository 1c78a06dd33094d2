"""The ways to a tangent kernel, and the choice of the cheapest."""

import dataclasses
import math
from typing import Literal, TypeAlias

from eqtangents.empirical._analyse import Recipe
from eqtangents.empirical._compute import tile_of
from eqtangents.empirical._cost import Cost, Costs
from eqtangents.empirical._pairing import RowCounts


Implementation: TypeAlias = Literal["auto", "structured", "jacobian", "vector_products"]

# The memory that a kernel may take unless it is given a chunk size.
BUDGET_BYTES = 2**31
_MAX_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to compute a kernel, and its cost."""

    name: str
    recipe: Recipe
    chunk_size: int  # rows of either side, or columns, at a time
    cost: Cost


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The ways to compute a kernel and their costs, cheapest first; `print` it."""

    names: list[str]  # of parameters
    candidates: list[Candidate]
    choice: Candidate

    def repeated(self, times: int) -> "Explanation":
        """Of so many tiles, one after the other."""
        ways = [
            dataclasses.replace(way, cost=way.cost.repeated(times))
            for way in self.candidates
        ]
        pairs = zip(self.candidates, ways, strict=True)
        (choice,) = (new for way, new in pairs if way is self.choice)
        return Explanation(self.names, ways, choice)

    def __str__(self) -> str:
        """A table of the ways, and one of the parameters."""
        lines = [f"{'':18}{'GFLOP':>11}{'GiB moved':>11}{'GiB held':>11}{'chunk':>8}"]
        for way in self.candidates:
            mark = "* " if way is self.choice else "  "
            cost = way.cost
            lines.append(
                f"{mark}{way.name:16}{cost.flops / 1e9:11.3g}"
                f"{cost.traffic / 2**30:11.3g}{cost.peak / 2**30:11.3g}"
                f"{way.chunk_size:8}"
            )
        (way,) = (way for way in self.candidates if way.name == "structured")
        recipe, dense = way.recipe, way.recipe.dense
        lines.append("structured: the way each parameter is treated")
        while recipe.below is not None:
            width = math.prod(recipe.taps[recipe.waist_tap].shape)
            lines.append(f"  the network passes through {width} numbers")
            recipe = recipe.below
            dense |= recipe.dense
        for i, name in enumerate(self.names):
            lines.append(f"  {'Jacobian ' if i in dense else 'structure'} {name}")
        return "\n".join(lines)


def candidates(
    costs: Costs, counts1: RowCounts, counts2: RowCounts, chunk_size: int | None
) -> list[Candidate]:
    """All ways to a kernel with these rows and columns, cheapest first."""
    cheap = costs.recipes.cheapest(counts1, counts2, chunk_size)
    found = [
        _rows_candidate("structured", costs, cheap, counts1, counts2, chunk_size),
        _rows_candidate(
            "jacobian", costs, costs.jacobian, counts1, counts2, chunk_size
        ),
    ]
    if not costs.jacobian.work.has_custom_vjp:
        found.append(_products_candidate(costs, counts1, counts2, chunk_size))
    return sorted(found, key=lambda candidate: candidate.cost.time)


def chosen(found: list[Candidate], implementation: Implementation) -> Candidate:
    """The cheapest that fits in memory, or the one asked for."""
    if implementation == "auto":
        fitting = [c for c in found if c.cost.peak <= BUDGET_BYTES]
        return (fitting or sorted(found, key=lambda c: c.cost.peak))[0]
    for candidate in found:
        if candidate.name == implementation:
            return candidate
    raise ValueError(
        '`implementation` is "vector_products", which differentiates forwards, but the '
        "network has a `jax.custom_vjp`, whose derivative is defined backwards alone. "
        'Choose "structured" or "jacobian".'
    )


def _rows_candidate(
    name: str,
    costs: Costs,
    recipe: Recipe,
    counts1: RowCounts,
    counts2: RowCounts,
    chunk_size: int | None,
) -> Candidate:
    def cost_of(size: int) -> Cost:
        tiles = (tile_of(counts, size) for counts in (counts1, counts2))
        return costs.of_rows(recipe, *tiles)

    size = max(counts1.examples, counts2.examples) * counts1.outputs
    if chunk_size is None:
        while size > 1 and cost_of(size).peak > BUDGET_BYTES:
            size = -(-size // 2)
    else:
        size = min(size, chunk_size)
    cost = costs.of_rows(recipe, counts1, counts2)
    cost = dataclasses.replace(cost, peak=cost_of(size).peak)
    return Candidate(name, recipe, size, cost)


def _products_candidate(
    costs: Costs, counts1: RowCounts, counts2: RowCounts, chunk_size: int | None
) -> Candidate:
    one = costs.of_products(counts1, counts2, 1).peak
    size = chunk_size or max(1, min(_MAX_BATCH, int(BUDGET_BYTES // max(one, 1))))
    size = max(1, min(size, counts2.outputs))
    cost = costs.of_products(counts1, counts2, size)
    return Candidate("vector_products", costs.jacobian, size, cost)
