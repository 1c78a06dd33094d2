"""Rows of parameters that are picked by the input: vectors for tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from eqtangents import nn
from eqtangents._jaxpr import shape_of
from eqtangents._traced._builder import Builder
from eqtangents._traced._expressions import AppliedFunction
from eqtangents._traced._layout import Layout, axis_factors
from eqtangents._traced._of_input import of_input
from eqtangents._traced._trained import options, with_vectors
from eqtangents._traced._values import (
    InputFunction,
    Parameter,
    RandomValue,
    Unreadable,
)


def picked_rows(
    builder: Builder, eqn: core.JaxprEqn, table: Parameter, picked_by: Any
) -> RandomValue:
    """The embedding that a table of parameters is, at each position of the input."""
    if eqn.primitive.name != "gather" or not isinstance(picked_by, InputFunction):
        raise Unreadable(
            "picks parameters by what it computes, other than by tokens of the input. "
            "Pick rows of a table, as `table[tokens]` does."
        )
    numbers, slices = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    moved = [a for a, n in enumerate(slices) if n != table.shape[a]]
    if len(moved) > 1 or any(slices[a] != 1 for a in moved):
        raise Unreadable(
            "picks parameters along several axes by the input. Pick rows of a table, "
            "as `table[tokens]` does."
        )
    row = moved[0] if moved else numbers.start_index_map[0]
    column = numbers.start_index_map.index(row)
    positions = picked_by.shape[:-1]
    of_row = lambda indices: indices[..., column]
    tokens = AppliedFunction(
        of_row, (picked_by.expression,), positions, ("column", column)
    )
    every = [[axis] for axis in range(len(positions))]
    node = of_input(builder, InputFunction(tokens), [], every)
    entries = np.moveaxis(table.numbers, row, 0)
    vectors = entries.reshape(entries.shape[0], -1)
    held = Parameter(table.leaf, vectors)
    layer = nn.Embedding(*vectors.shape, **options(builder, table, 1))
    layer = with_vectors(builder, layer, held)
    made = builder.add(layer, [node], (vectors.shape[1], *positions), [held])
    return RandomValue(_shown_as(eqn, entries.shape[1:], row), {made: table.factor})


def _shown_as(eqn: core.JaxprEqn, sizes: Sequence[int], row: int) -> Layout:
    """The array that is picked: axes of positions, and those of the table's rows."""
    numbers, every = eqn.params["dimension_numbers"], range(len(sizes) + 1)
    rest = [axis for axis in every if axis != row]
    of_vector = {a: axis_factors(n) for a, n in zip(rest, sizes, strict=True)}
    kept = [axis for axis in every if axis not in numbers.collapsed_slice_dims]
    offsets = dict(zip(numbers.offset_dims, kept, strict=True))
    axes, positions = [], []
    for axis, n in enumerate(shape_of(eqn.outvars[0])):
        if axis in offsets:
            axes.append(of_vector.get(offsets[axis], ()))
        else:
            axes.append(axis_factors(n))
            positions.append(axes[-1])
    channels = tuple(f for group in of_vector.values() for f in group)
    return Layout(channels, tuple(positions), tuple(axes))
