"""Tangent kernels as contractions of cotangents and factors, in the cheapest order."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import opt_einsum
from jaxtyping import Array, Float

from eqtangents.empirical._analyse import Recipe
from eqtangents.empirical._pairing import RowCounts
from eqtangents.empirical._rows import JacobianRows, shapes_of_rows
from eqtangents.empirical._views import Factor, Labels, Part, Root


# Contributions to a kernel by the number of their owner, a parameter or the whole
# network, with axes `n1 n2 diagonal free1 free2`.
Terms: TypeAlias = dict[int, Array]


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


def contracted_terms(
    recipe: Recipe, owner: Sequence[int], rows1: JacobianRows, rows2: JacobianRows
) -> Terms:
    """Contract rows of two batches; terms of leaves with the same owner are added."""
    found: Terms = {}
    if recipe.below is not None:
        assert rows1.below is not None
        assert rows2.below is not None
        found = contracted_terms(recipe.below, owner, rows1.below, rows2.below)
        found = {
            number: _lifted(recipe, rows1, rows2, kernel)
            for number, kernel in found.items()
        }
    for root, u, v in recipe.pairs():
        sides = _factorised(recipe, u, rows1), _factorised(recipe, v, rows2)
        term, number = _contracted(*sides, root), owner[root.leaf]
        found[number] = found[number] + term if number in found else term
    return found


def _lifted(
    recipe: Recipe,
    rows1: JacobianRows,
    rows2: JacobianRows,
    kernel: Float[Array, "n1 n2 1 waist waist"],
) -> Array:
    """The kernel of the outputs in parameters below, from that of the waist."""

    def derivative(rows: JacobianRows) -> Array:
        found = rows.cotangents[recipe.waist_tap]
        return found.reshape(*found.shape[:4], -1)

    sides = derivative(rows1), derivative(rows2)
    wide = _wide(sides[0].dtype)
    return jnp.einsum(
        *(sides[0].astype(wide), _WAIST_AXES[0], sides[1].astype(wide), _WAIST_AXES[1]),
        *(kernel[:, :, 0], _WAIST_AXES[2], _OUTPUTS_AXES),
        optimize=list(_lifted_path(sides[0].shape, sides[1].shape).pairs),
    )


# Derivatives of both sides, the kernel of the waist, and that of the outputs.
_WAIST_AXES = (0, 2, 3, 4, 5), (1, 2, 3, 6, 7), (0, 1, 5, 7)
_OUTPUTS_AXES = (0, 1, 2, 4, 6)


def _lifted_path(shape1: tuple[int, ...], shape2: tuple[int, ...]) -> ContractionPath:
    """The order in which to multiply the kernel of a waist with derivatives."""
    kernel = shape1[0], shape2[0], shape1[4], shape2[4]
    return _cheapest_path(_WAIST_AXES, _OUTPUTS_AXES, (shape1, shape2, kernel))


def waist_path(
    recipe: Recipe, counts1: RowCounts, counts2: RowCounts
) -> ContractionPath:
    """The cost of having the kernel of the outputs from that of the waist."""
    width = math.prod(recipe.taps[recipe.waist_tap].shape)
    return _lifted_path((*counts1, width), (*counts2, width))


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
    wide = _wide(dtype)
    arguments: list[Any] = []
    for (array, _), names in zip(operands, inputs, strict=True):
        arguments += [jnp.asarray(array, dtype), names]
    pairs = list(_path(side1, side2, root).pairs)
    return jnp.einsum(*arguments, output, optimize=pairs, preferred_element_type=wide)


def _wide(dtype: jnp.dtype) -> Any:
    """The type to sum in: no sums in 16 bits."""
    return dtype if dtype.itemsize >= 4 else jnp.float32
