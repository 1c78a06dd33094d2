"""Functions of the network's input, as the outputs of layers."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from eqtangents import nn
from eqtangents._traced._builder import Builder
from eqtangents._traced._expressions import (
    AppliedEquation,
    AppliedFunction,
    Hole,
    fingerprint,
    reads,
    shows,
    value_of_expression,
)
from eqtangents._traced._layout import Layout
from eqtangents._traced._rules import OF_ENTRIES
from eqtangents._traced._values import InputFunction, Node, RandomValue, Unreadable


def of_input(
    builder: Builder,
    known: Any,
    channels: Sequence[int],
    positions: Sequence[Sequence[int]],
) -> Node:
    """A function of the input as the output of a node.

    `channels`: the axes of the array that are channels, `positions`: those that
    make each axis of positions.
    """
    order = (*channels, *(axis for group in positions for axis in group))
    shape = [math.prod(known.shape[axis] for axis in channels)]
    for group in positions:
        shape.append(math.prod(known.shape[axis] for axis in group))
    expression = known.expression if isinstance(known, InputFunction) else known
    holes = tuple(builder.inputs)
    for hole, node in builder.inputs.items():
        if hole.shape == tuple(shape) and shows(expression, hole, order):
            return node
    left_out = [axis for axis in range(len(known.shape)) if axis not in order]
    if any(known.shape[axis] > 1 for axis in left_out):
        raise Unreadable("loses axes of the network's input.")
    if not reads(expression) <= set(holes):
        raise Unreadable(
            "draws random numbers by the key it is given, other than in "
            "`equinox.nn.Dropout`. Leave the noise out, or make it an input."
        )

    def prepared(*examples: Array) -> Array:
        _check_shapes_read(holes, examples)
        filled = {
            hole: given if hole.dtype is None else given.astype(hole.dtype)
            for hole, given in zip(holes, examples, strict=True)
        }
        value = jnp.asarray(value_of_expression(expression, filled))
        if not jnp.issubdtype(value.dtype, jnp.floating):
            value = value.astype(jnp.result_type(float))
        return value.transpose(*order, *left_out).reshape(shape)

    what = fingerprint(expression, holes.index, exact=True)
    key = ("prepare", what, order, tuple(shape))
    nodes = tuple(builder.inputs.values())
    make = lambda: builder.add(nn.Prepare(prepared), nodes, shape)
    return builder.once(key, make)


def _check_shapes_read(holes: Sequence[Hole], examples: Sequence[Array]) -> None:
    """Raise unless inputs have the shapes of those that a model was read from."""
    read, came = (
        ", ".join(str(tuple(x.shape)) for x in some) for some in (holes, examples)
    )
    if read != came:
        raise ValueError(
            f"The network was read from an example of shape {read}, but is given one "
            f"of shape {came}. Read the model from one example of a batch, `x[0]`, and "
            "not from the batch, whose axis would count as one of positions; kernels "
            "then take batches of such examples."
        )


def like(
    builder: Builder, known: Any, layout: Layout, *, one_channel: bool = False
) -> RandomValue:
    """A function of the input of the shape of a signal, laid out as that is.

    Where the signal repeats, the function may have positions of its own. `one_channel`:
    it is the same for all channels, and the output of a node that has one.
    """
    row = [f for axis in layout.axes for f in axis]
    sizes = [f.size for f in row]
    expression = known.expression if isinstance(known, InputFunction) else known
    first = [slice(0, 1 if one_channel and f in layout.channels else None) for f in row]
    kept = [1 if one.stop else f.size for one, f in zip(first, row, strict=True)]
    reshape = lambda x: jnp.asarray(x).reshape(sizes)[tuple(first)]
    whole = InputFunction(
        AppliedFunction(reshape, (expression,), tuple(kept), ("to", *sizes, *kept))
    )
    at = {f: i for i, f in enumerate(row)}
    if not set((*layout.channels, *layout.spatial)) <= set(at):
        raise Unreadable("joins arrays of which one has lost axes.")
    positions = (*layout.positions, *((f,) for f in layout.repeated))
    node = of_input(
        builder,
        whole,
        [] if one_channel else [at[f] for f in layout.channels],
        [[at[f] for f in axis] for axis in positions],
    )
    changed = Layout(layout.channels, positions, layout.axes)
    return RandomValue.of(node, changed)


def as_factor(builder: Builder, known: Any, layout: Layout) -> RandomValue:
    """A function of the input that a signal is multiplied by.

    Of one channel if it is the same for all channels.
    """
    alike = set(constant_axes(known))
    channels = set(layout.channels)
    single = all(
        i in alike and set(axis) <= channels
        for i, axis in enumerate(layout.axes)
        if set(axis) & channels
    )
    return like(builder, known, layout, one_channel=single)


def constant_axes(known: Any) -> list[int]:
    """The axes along which an array is seen to repeat."""
    if isinstance(known, InputFunction):
        return constant_axes(known.expression)
    axes = range(len(known.shape))
    if isinstance(known, AppliedFunction) and known.name[0] == "broadcast":
        (given,) = known.args
        return [a for a in axes if given.shape[a] == 1] if given.shape else [*axes]
    if isinstance(known, AppliedFunction) and known.name[0] == "each":
        return constant_axes(known.args[0])
    if isinstance(known, AppliedEquation):
        return _constant_axes_of_equation(known)
    if isinstance(known, AppliedFunction | Hole):
        return []
    array = np.asarray(known)
    return [a for a in axes if (array == np.take(array, [0], a)).all()]


def _constant_axes_of_equation(known: AppliedEquation) -> list[int]:
    name, axes = known.eqn.primitive.name, range(len(known.shape))
    if name == "broadcast_in_dim":
        (given, *_), places = known.args, known.eqn.params["broadcast_dimensions"]
        shape = getattr(given, "shape", ())
        varies = {p for p, n in zip(places, shape, strict=True) if n > 1}
        return [a for a in axes if a not in varies]
    if name in OF_ENTRIES:
        given = [arg for arg in known.args if getattr(arg, "shape", ())]
        each = [set(constant_axes(arg)) for arg in given]
        return [a for a in axes if all(a in one for one in each)]
    return []
