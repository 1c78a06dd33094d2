"""Positions that are picked by the input, and values that are put in some positions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from eqtangents._traced._builder import Builder
from eqtangents._traced._expressions import AppliedFunction
from eqtangents._traced._known_factors import by_input, by_matrix
from eqtangents._traced._of_input import like
from eqtangents._traced._rules import reading
from eqtangents._traced._sums import joined_sum
from eqtangents._traced._values import InputFunction, RandomValue, Unreadable, as_number


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
    if not isinstance(updates, RandomValue) or isinstance(operand, InputFunction):
        raise Unreadable(_OTHER_PLACES)
    axis, rows = _axis_of_places(eqn)
    updates, along = _put_along(eqn, axis, builder.settled(updates), operand.shape)
    n, adds = operand.shape[axis], eqn.primitive.name == "scatter-add"
    if isinstance(index, InputFunction):
        if not rows or not adds:
            raise Unreadable(
                "puts values where the input says. Add them there, by `at[index].add`."
            )
        put = by_input(builder, updates, _one_hot(index, n), along, 0, 1)
        covered = np.zeros(n)
    else:
        where = np.asarray(index).reshape(-1)
        where = where if rows else where[0] + np.arange(updates.shape[along])
        matrix = (where[:, None] == np.arange(n)).astype(float)
        covered = matrix.sum(0)
        if covered.sum() < len(where) or (covered.max(initial=0) > 1 and not adds):
            raise Unreadable("puts several values in one place, or some in none.")
        put = by_matrix(builder, updates, [along], matrix, 1)
    put = _first_axis_to(put, axis)
    if not isinstance(operand, RandomValue):
        if as_number(operand) == 0:
            return [put]
        operand = like(builder, operand, put.layout)
    if not adds:
        free = np.diag(1 - covered)
        kept = by_matrix(builder, builder.settled(operand), [axis], free, 1)
        operand = _first_axis_to(kept, axis)
    return [joined_sum(builder, operand, put)]


def _axis_of_places(eqn: core.JaxprEqn) -> tuple[int, bool]:
    """The axis that an index is of, and whether it tells rows, or where a window is."""
    numbers = eqn.params["dimension_numbers"]
    if len(numbers.scatter_dims_to_operand_dims) != 1 or numbers.operand_batching_dims:
        raise Unreadable(_OTHER_PLACES)
    (axis,) = numbers.scatter_dims_to_operand_dims
    return axis, numbers.inserted_window_dims == (axis,)


def _put_along(
    eqn: core.JaxprEqn, axis: int, updates: RandomValue, shape: Sequence[int]
) -> tuple[RandomValue, int]:
    """Values that are put in an array of a shape, and the axis along which they are."""
    numbers = eqn.params["dimension_numbers"]
    inserted, windows = numbers.inserted_window_dims, numbers.update_window_dims
    places = [a for a in range(len(updates.shape)) if a not in windows]
    if len(places) > 1 or inserted not in ((axis,), ()) or (places and not inserted):
        raise Unreadable(_OTHER_PLACES)
    if inserted and not places:  # one row, in a window without its axis
        axes = [*updates.layout.axes]
        axes.insert(axis, ())
        updates = RandomValue(updates.layout.with_axes(axes), updates.terms)
    (along,) = places or (axis,)
    others = [m for a, m in enumerate(shape) if a != axis]
    if [m for a, m in enumerate(updates.shape) if a != along] != others:
        raise Unreadable(_OTHER_PLACES)
    return updates, along


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
