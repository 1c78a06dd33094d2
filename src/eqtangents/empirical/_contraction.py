"""Tangent kernels as contractions of cotangents and factors, in the cheapest order."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import opt_einsum
from jaxtyping import Array

from eqtangents.empirical._views import Labels, Part, is_shared


class Rows(NamedTuple):
    """Which rows of the Jacobian: examples, and outputs of each.

    Outputs are told apart by how they are paired with those of the other side: a kernel
    is diagonal in `diagonal` ones, traced over `traced`, and full in `free` ones.
    """

    examples: int
    diagonal: int
    traced: int
    free: int

    @property
    def outputs(self) -> int:
        """Outputs of one example."""
        return self.diagonal * self.traced * self.free


class Side(NamedTuple):
    """One use of a parameter, on one side of the kernel."""

    part: Part
    cotangents: Any  # axes: examples, diagonal, traced, free, those of the value
    factors: Sequence[Any]  # axes: examples unless the same for all, and their labels


class Plan(NamedTuple):
    """An order of contraction, and what it needs."""

    path: Sequence[tuple[int, ...]]
    flops: float
    largest: float  # numbers in the largest intermediate


# Axes of rows: examples, diagonal, traced and free outputs of either side.
_ROWS = (("i", "d", "t", "f"), ("j", "d", "t", "g"))
_KERNEL = ("i", "j", "d", "f", "g")


def _operands(side: Side, which: int, root: Labels) -> list[tuple[Any, tuple]]:
    """Arrays of one side with names for their axes; other labels are its own."""
    rows = _ROWS[which]

    def named(labels: Labels) -> tuple:
        return tuple(label if label in root else (which, label) for label in labels)

    factors = [
        (array, named(labels) if is_shared(array) else (rows[0], *named(labels)))
        for array, (_, labels) in zip(side.factors, side.part.factors, strict=True)
    ]
    return [(side.cotangents, (*rows, *named(side.part.labels))), *factors]


def _sublists(
    operands: Sequence[tuple[Any, tuple]],
) -> tuple[list[list[int]], list[int]]:
    numbers: dict[Any, int] = {}
    number = lambda name: numbers.setdefault(name, len(numbers))
    output = list(map(number, _KERNEL))
    return [list(map(number, names)) for _, names in operands], output


def plan(side1: Side, side2: Side, root: Labels) -> Plan:
    """The cheapest order in which to contract two uses of a parameter."""
    operands = _operands(side1, 0, root) + _operands(side2, 1, root)
    inputs, output = _sublists(operands)
    shapes = [tuple(map(int, jnp.shape(array))) for array, _ in operands]
    return _plan(tuple(map(tuple, inputs)), tuple(output), tuple(shapes))


@functools.lru_cache(maxsize=4096)
def _plan(inputs: tuple, output: tuple, shapes: tuple) -> Plan:
    symbols = [
        "".join(map(opt_einsum.get_symbol, names)) for names in (*inputs, output)
    ]
    equation = ",".join(symbols[:-1]) + "->" + symbols[-1]
    path, info = opt_einsum.contract_path(
        equation,
        *shapes,
        shapes=True,
        optimize="optimal" if len(inputs) < 7 else "auto",
    )
    return Plan(tuple(path), float(info.opt_cost), float(info.largest_intermediate))


def contract(side1: Side, side2: Side, root: Labels) -> Array:
    """The contribution of two uses of a parameter: axes `i, j, d, f, g`."""
    operands = _operands(side1, 0, root) + _operands(side2, 1, root)
    inputs, output = _sublists(operands)
    dtype = jnp.result_type(side1.cotangents)
    wide = dtype if dtype.itemsize >= 4 else jnp.float32  # no sums in 16 bits
    arguments: list[Any] = []
    for (array, _), names in zip(operands, inputs, strict=True):
        arguments += [jnp.asarray(array, dtype), names]
    path = list(plan(side1, side2, root).path)
    return jnp.einsum(*arguments, output, optimize=path, preferred_element_type=wide)


def apart(part1: Part, part2: Part) -> bool:
    """Whether two uses read different rows of the parameter."""
    return any(
        label1 == label2 and (stop1 <= start2 or stop2 <= start1)
        for label1, start1, stop1 in part1.windows
        for label2, start2, stop2 in part2.windows
    )


def dense_flops(rows1: Rows, rows2: Rows, size: int) -> float:
    """Multiplications and additions to contract two Jacobians in `size` numbers."""
    pairs = rows1.examples * rows2.examples
    return 2.0 * pairs * rows1.diagonal * rows1.traced * rows1.free * rows2.free * size
