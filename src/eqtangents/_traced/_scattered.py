"""Positions that are picked by the input, and values that are put in some positions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from eqtangents._traced._builder import Builder, as_number
from eqtangents._traced._contractions import by_input, by_matrix
from eqtangents._traced._expressions import AppliedFunction
from eqtangents._traced._of_input import like
from eqtangents._traced._rules import reading
from eqtangents._traced._sums import joined_sum
from eqtangents._traced._values import InputFunction, RandomValue, Unreadable


_OTHER_PLACES = (
    "puts values in places other than some positions along one axis. Write it as a "
    "product with a constant matrix, or join arrays end to end."
)


def picked_positions(
    builder: Builder, eqn: core.JaxprEqn, signal: RandomValue, index: InputFunction
) -> RandomValue:
    """Positions along one axis, by an index that is an input."""
    numbers, slices = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    axis = numbers.start_index_map[0]
    whole = [n for a, n in enumerate(signal.shape) if a != axis]
    if (
        len(numbers.start_index_map) != 1
        or numbers.collapsed_slice_dims != (axis,)
        or [n for a, n in enumerate(slices) if a != axis] != whole
        or len(index.shape) != 2
        or numbers.operand_batching_dims
    ):
        raise Unreadable(
            "picks entries by an index that is computed of the input, other than "
            "positions along one axis, `x[index]`."
        )
    chosen = _one_hot(index, signal.shape[axis])
    out = by_input(builder, signal, chosen, axis, 1, 1)
    (place,) = set(range(len(signal.shape))) - set(numbers.offset_dims)
    return _first_axis_to(out, place)


@reading("scatter", "scatter-add")
def _scatter(builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """Values that replace those at some positions along one axis, or are added."""
    operand, index, updates = args
    numbers = eqn.params["dimension_numbers"]
    if not isinstance(updates, RandomValue) or isinstance(operand, InputFunction):
        raise Unreadable(_OTHER_PLACES)
    if len(numbers.scatter_dims_to_operand_dims) != 1 or numbers.operand_batching_dims:
        raise Unreadable(_OTHER_PLACES)
    (axis,) = numbers.scatter_dims_to_operand_dims
    updates, shape = builder.settled(updates), operand.shape
    n, rows = shape[axis], numbers.inserted_window_dims == (axis,)
    windows = numbers.update_window_dims
    places = [a for a in range(len(updates.shape)) if a not in windows]
    if rows and len(index.shape) == len(places) == 0:
        raise Unreadable(_OTHER_PLACES)
    if rows and not places:  # one row, in a window without its axis
        axes = [*updates.layout.axes]
        axes.insert(axis, ())
        updates = RandomValue(updates.layout.with_axes(axes), updates.terms)
        along, count = axis, 1
    elif rows and len(places) == 1:
        (along,) = places
        count = updates.shape[along]
    elif not numbers.inserted_window_dims and not places:
        along, count = axis, updates.shape[axis]
    else:
        raise Unreadable(_OTHER_PLACES)
    others = [m for a, m in enumerate(shape) if a != axis]
    if [m for a, m in enumerate(updates.shape) if a != along] != others:
        raise Unreadable(_OTHER_PLACES)
    if isinstance(index, InputFunction):
        if not rows or eqn.primitive.name == "scatter":
            raise Unreadable(
                "puts values where the input says. Add them there, by `at[index].add`."
            )
        chosen = _one_hot(index, n)
        put = by_input(builder, updates, chosen, along, 0, 1)
        covered = np.zeros(n)
    else:
        where = np.asarray(index).reshape(-1)
        where = where if rows else where[0] + np.arange(count)
        matrix = (where[:, None] == np.arange(n)).astype(float)
        put = by_matrix(builder, updates, [along], matrix, 1)
        covered = matrix.max(0, initial=0)
        if eqn.primitive.name == "scatter" and (matrix.sum(0) > 1).any():
            raise Unreadable("puts several values in one place.")
    put = _first_axis_to(put, axis)
    if not isinstance(operand, RandomValue):
        if as_number(operand) == 0:
            return [put]
        operand = like(builder, operand, put.layout)
    if eqn.primitive.name == "scatter":
        free = np.diag(1 - covered)
        kept = by_matrix(builder, builder.settled(operand), [axis], free, 1)
        operand = _first_axis_to(kept, axis)
    return [joined_sum(builder, operand, put)]


def _one_hot(index: InputFunction, n: int) -> InputFunction:
    """The matrix that picks positions, `(picked, positions)`."""
    pick = lambda numbers: jax.nn.one_hot(
        jnp.asarray(numbers)[:, 0], n, dtype=jnp.result_type(float)
    )
    shape = (index.shape[0], n)
    name = ("one hot", n)
    return InputFunction(AppliedFunction(pick, (index.expression,), shape, name))


def _first_axis_to(signal: RandomValue, place: int) -> RandomValue:
    order = list(range(1, len(signal.shape)))
    order.insert(place, 0)
    return RandomValue(signal.layout.transposed(order), signal.terms)
