"""Tangent kernels as contractions of cotangents and factors, in the cheapest order."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import opt_einsum
from jaxtyping import Array

from eqtangents.empirical._analyse import Recipe
from eqtangents.empirical._pairing import RowCounts
from eqtangents.empirical._rows import JacobianRows, shapes_of_rows
from eqtangents.empirical._views import Factor, Labels, Part, Root


# The contribution of each leaf to a kernel, with axes `n1 n2 diagonal free1 free2`.
LeafKernels: TypeAlias = dict[int, Array]


class Factorised(NamedTuple):
    """Rows of the Jacobian for one use of a parameter, in factors."""

    part: Part
    cotangents: Any  # axes: examples, diagonal, traced, free, then the value's axes
    factors: Sequence[Factor]  # one that is not shared has the examples in front


class ContractionPath(NamedTuple):
    """An order of contraction, its operations and its memory."""

    pairs: Sequence[tuple[int, ...]]
    flops: float
    largest: float  # numbers in the largest intermediate


# Axes of rows: examples, diagonal, traced and free outputs of either side.
_ROW_AXES = (("i", "d", "t", "f"), ("j", "d", "t", "g"))
_KERNEL_AXES = ("i", "j", "d", "f", "g")


def contracted_kernels(
    recipe: Recipe, rows1: JacobianRows, rows2: JacobianRows
) -> LeafKernels:
    """Contract rows of two batches."""
    found: LeafKernels = {}
    for root, u, v in recipe.pairs():
        sides = _factorised(recipe, u, rows1), _factorised(recipe, v, rows2)
        term = _contracted(*sides, root)
        found[root.leaf] = found[root.leaf] + term if root.leaf in found else term
    return found


def paths(
    recipe: Recipe, counts1: RowCounts, counts2: RowCounts
) -> dict[int, list[ContractionPath]]:
    """Orders of contraction for the terms of each leaf."""
    rows1, rows2 = (shapes_of_rows(recipe, counts) for counts in (counts1, counts2))
    found: dict[int, list[ContractionPath]] = {}
    for root, u, v in recipe.pairs():
        sides = _factorised(recipe, u, rows1), _factorised(recipe, v, rows2)
        found.setdefault(root.leaf, []).append(_path(*sides, root))
    return found


def dense_flops(counts1: RowCounts, counts2: RowCounts, size: int) -> float:
    """Multiplications and additions to contract two Jacobians in `size` numbers."""
    pairs = counts1.examples * counts2.examples
    paired = counts1.diagonal * counts1.traced
    return 2.0 * pairs * paired * counts1.free * counts2.free * size


def _factorised(recipe: Recipe, number: int, rows: JacobianRows) -> Factorised:
    """The rows for one use."""
    use, given = recipe.uses[number], iter(rows.factors[number])
    factors = [
        factor if factor.is_shared else Factor(next(given), factor.labels)
        for factor in use.part.factors
    ]
    return Factorised(use.part, rows.cotangents[use.tap], factors)


def _operands(side: Factorised, which: int, root: Labels) -> list[tuple[Any, tuple]]:
    """Arrays of one side with names for their axes; other labels are its own."""
    rows = _ROW_AXES[which]

    def named(labels: Labels) -> tuple:
        return tuple(label if label in root else (which, label) for label in labels)

    factors = [
        (
            factor.array,
            (*(() if factor.is_shared else rows[:1]), *named(factor.labels)),
        )
        for factor in side.factors
    ]
    return [(side.cotangents, (*rows, *named(side.part.labels))), *factors]


def _sublists(
    operands: Sequence[tuple[Any, tuple]],
) -> tuple[list[list[int]], list[int]]:
    """Numbers for the axes of each operand, and of the kernel, as `einsum` takes."""
    numbers: dict[Any, int] = {}
    number = lambda name: numbers.setdefault(name, len(numbers))
    output = list(map(number, _KERNEL_AXES))
    return [list(map(number, names)) for _, names in operands], output


def _path(side1: Factorised, side2: Factorised, root: Root) -> ContractionPath:
    """The cheapest order in which to contract two uses of a parameter."""
    operands = _operands(side1, 0, root.labels) + _operands(side2, 1, root.labels)
    inputs, output = _sublists(operands)
    shapes = [tuple(map(int, jnp.shape(array))) for array, _ in operands]
    return _cheapest_path(tuple(map(tuple, inputs)), tuple(output), tuple(shapes))


@functools.lru_cache(maxsize=4096)
def _cheapest_path(inputs: tuple, output: tuple, shapes: tuple) -> ContractionPath:
    symbols = [
        "".join(map(opt_einsum.get_symbol, names)) for names in (*inputs, output)
    ]
    equation = ",".join(symbols[:-1]) + "->" + symbols[-1]
    pairs, info = opt_einsum.contract_path(
        equation,
        *shapes,
        shapes=True,
        optimize="optimal" if len(inputs) < 7 else "auto",
    )
    largest = float(info.largest_intermediate)
    return ContractionPath(tuple(pairs), float(info.opt_cost), largest)


def _contracted(side1: Factorised, side2: Factorised, root: Root) -> Array:
    """The contribution of two uses of a parameter: axes `i, j, d, f, g`."""
    operands = _operands(side1, 0, root.labels) + _operands(side2, 1, root.labels)
    inputs, output = _sublists(operands)
    dtype = jnp.result_type(side1.cotangents)
    wide = dtype if dtype.itemsize >= 4 else jnp.float32  # no sums in 16 bits
    arguments: list[Any] = []
    for (array, _), names in zip(operands, inputs, strict=True):
        arguments += [jnp.asarray(array, dtype), names]
    pairs = list(_path(side1, side2, root).pairs)
    return jnp.einsum(*arguments, output, optimize=pairs, preferred_element_type=wide)
