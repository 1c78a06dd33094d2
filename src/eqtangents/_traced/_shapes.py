"""Rules of primitives that move entries, and of sums over axes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core
from jaxtyping import Int

from eqtangents._jaxpr import bind, shape_of
from eqtangents._traced._builder import Builder
from eqtangents._traced._convolutions import pad_node
from eqtangents._traced._known_factors import by_matrix
from eqtangents._traced._layout import AxisFactors, Layout, axis_factors
from eqtangents._traced._picked import selected_along
from eqtangents._traced._reductions import sum_over
from eqtangents._traced._rules import reading
from eqtangents._traced._scattered import picked_positions
from eqtangents._traced._tables import picked_rows
from eqtangents._traced._values import (
    InputFunction,
    Parameter,
    RandomValue,
    Unreadable,
)


@reading("transpose")
def _transpose(builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    signal = builder.settled(args[0])
    order = tuple(map(int, eqn.params["permutation"]))
    return [RandomValue(signal.layout.transposed(order), signal.terms)]


@reading("reshape", "squeeze", "expand_dims")
def _reshape(builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    signal = builder.settled(args[0])
    shape = shape_of(eqn.outvars[0])
    layout = signal.layout.reshaped(shape)
    if layout is None:
        raise Unreadable(
            f"reshapes {signal.shape} to {shape}, which cuts through axes. Merge whole "
            "axes, or split an axis evenly."
        )
    return [RandomValue(layout, signal.terms)]


@reading("broadcast_in_dim")
def _read_broadcast(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[Any]:
    signal = builder.settled(args[0])
    shape = eqn.params["shape"]
    axes: list[AxisFactors] = [axis_factors(n) for n in shape]
    for axis, place in enumerate(eqn.params["broadcast_dimensions"]):
        if signal.shape[axis] == shape[place]:
            axes[place] = signal.layout.axes[axis]
    return [RandomValue(signal.layout.with_axes(axes), signal.terms)]


@reading("tile")
def _tile_of_signal(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[Any]:
    signal = builder.settled(args[0])
    pairs = zip(eqn.params["reps"], signal.layout.axes, strict=True)
    axes = [(*axis_factors(int(n)), *axis) for n, axis in pairs]
    return [RandomValue(signal.layout.with_axes(axes), signal.terms)]


@reading("slice", "rev", "dynamic_slice", "gather", "split", "unstack")
def _read_selection(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[Any]:
    """Entries that are picked: numbers in the place of entries say which."""
    if isinstance(args[0], Parameter):
        return [picked_rows(builder, eqn, args[0], args[1])]
    if isinstance(args[0], InputFunction):
        raise Unreadable("picks entries of the input by an index that is random.")
    signal = builder.settled(args[0])
    if any(isinstance(arg, RandomValue) for arg in args[1:]):
        raise Unreadable("picks entries by an index that is random.")
    if eqn.primitive.name == "gather" and isinstance(args[1], InputFunction):
        return [picked_positions(builder, eqn, signal, args[1])]
    shape = signal.shape
    numbers = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    try:
        found = bind(eqn, numbers, *args[1:])
        picked = [np.asarray(one) for one in found]
    except Exception:
        raise Unreadable("picks entries by an index that is not known.") from None
    return [_selected_entries(builder, signal, one) for one in picked]


def _selected_entries(
    builder: Builder, signal: RandomValue, numbers: Int[np.ndarray, "..."]
) -> RandomValue:
    """The entries of an array that stand at some numbers, an axis at a time."""
    shape = signal.shape
    coordinates = np.unravel_index(numbers.clip(0), shape)
    where: list[Any] = []
    for axis in range(len(shape)):
        coordinate = coordinates[axis]
        along = [
            a
            for a in range(numbers.ndim)
            if (coordinate != np.take(coordinate, [0], a)).any()
        ]
        if len(along) > 1 or numbers.min(initial=0) < 0:
            raise Unreadable(
                "picks entries along several axes together. Index one axis at a time."
            )
        where.append(along[0] if along else None)
    used = [a for a in where if a is not None]
    if len(set(used)) != len(used):
        raise Unreadable("picks entries on a diagonal, which has no counterpart.")
    axes: list[AxisFactors] = [axis_factors(n) for n in numbers.shape]
    kept: list[tuple[int, Any]] = []
    for axis, place in enumerate(where):
        first = [0] * numbers.ndim
        if place is None:
            kept.append((axis, np.asarray([coordinates[axis][tuple(first)]])))
            continue
        line = np.moveaxis(coordinates[axis], place, 0).reshape(
            numbers.shape[place], -1
        )
        kept.append((axis, line[:, 0]))
    layout = signal.layout
    for axis, index in kept:
        if len(index) == shape[axis] and (index == np.arange(shape[axis])).all():
            continue
        signal = selected_along(builder, signal, axis, index)
    layout = signal.layout
    for axis, place in enumerate(where):
        if place is not None:
            axes[place] = layout.axes[axis]
    return RandomValue(layout.with_axes(axes), signal.terms)


@reading("reduce_sum")
def _sum(builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    return [sum_over(builder, args[0], [int(axis) for axis in eqn.params["axes"]])]


@reading("cumsum")
def _cumulative(builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    signal = builder.settled(args[0])
    axis, n = int(eqn.params["axis"]), signal.shape[int(eqn.params["axis"])]
    matrix = np.triu(np.ones((n, n)))
    matrix = matrix.T if eqn.params["reverse"] else matrix
    out = by_matrix(builder, signal, [axis], matrix, 1)
    order = list(range(1, len(signal.shape)))
    order.insert(axis, 0)
    return [RandomValue(out.layout.transposed(order), out.terms)]


@reading("pad")
def _read_pad(builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    signal, fill = builder.settled(args[0]), args[1]
    if isinstance(fill, RandomValue) or float(np.asarray(fill)) != 0:
        raise Unreadable("pads by other values than zeros.")
    layout = signal.layout
    config = [
        (int(low), int(high), int(inner))
        for low, high, inner in eqn.params["padding_config"]
    ]
    moved = [axis for axis, widths in enumerate(config) if any(widths)]
    axes = list(layout.axes)
    padded = tuple(layout.axes[axis] for axis in moved)
    inside = {f for group in padded for f in group}
    if inside & set(layout.channels):
        raise Unreadable(
            "pads channels by zeros. Widen by a layer with weights, a `Linear` or a "
            "convolution of one position."
        )
    kept = [group for group in layout.positions if not set(group) & inside]
    wanted: Sequence[AxisFactors] = (*padded, *kept)
    if all(group in layout.positions for group in padded):
        wanted = layout.positions
    signal = builder.rearranged(signal, wanted)
    of_group = dict(zip(padded, moved, strict=True)) if () not in padded else {}
    if () in padded:
        raise Unreadable("pads an axis of size one. Repeat it first.")
    node = builder.node(signal)
    widths = [config[of_group[g]] if g in of_group else (0, 0, 0) for g in wanted]
    out = shape_of(eqn.outvars[0])
    for axis in moved:
        axes[axis] = axis_factors(out[axis])
    positions = tuple(axes[of_group[g]] if g in of_group else g for g in wanted)
    made = pad_node(builder, node, tuple(widths))
    return [RandomValue.of(made, Layout(layout.channels, positions, tuple(axes)))]
