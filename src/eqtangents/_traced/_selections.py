"""Channels that are picked, and arrays that are joined end to end."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Int

from eqtangents import nn
from eqtangents._traced._builder import Builder
from eqtangents._traced._expressions import AppliedFunction
from eqtangents._traced._layout import AxisFactors, Layout, axis_factors
from eqtangents._traced._maps import OF_POSITIONS, joined_maps, map_node
from eqtangents._traced._of_input import like
from eqtangents._traced._repeats import all_told_by
from eqtangents._traced._rules import reading
from eqtangents._traced._trained import as_values
from eqtangents._traced._values import (
    InputFunction,
    Node,
    Parameter,
    RandomValue,
    Unreadable,
)


def selected_channels(
    builder: Builder, signal: RandomValue, axis: int, index: Int[np.ndarray, " n"]
) -> RandomValue:
    """Some of the channels: the outputs of some rows of weights."""
    layout = signal.layout
    of_axis = layout.axes[axis]
    if not set(of_axis) <= set(layout.channels):
        raise Unreadable("picks from an axis that has both channels and positions.")
    sizes = [f.size for f in layout.channels]
    numbers = np.arange(int(np.prod(sizes))).reshape(sizes)
    at = [layout.channels.index(f) for f in of_axis]
    if at != list(range(at[0], at[0] + len(at))):
        raise Unreadable("picks channels along axes that are transposed.")
    merged = [*sizes[: at[0]], -1, *sizes[at[-1] + 1 :]]
    rows = np.take(numbers.reshape(merged), index, at[0]).reshape(-1)
    terms = {_rows_of_node(builder, node, rows): c for node, c in signal.terms.items()}
    new = axis_factors(len(index))
    channels = (*layout.channels[: at[0]], *new, *layout.channels[at[-1] + 1 :])
    axes = list(layout.axes)
    axes[axis] = new
    return RandomValue(Layout(channels, layout.positions, tuple(axes)), terms)


# Layers that treat each channel by itself.
_CHANNELWISE = (
    nn.AbstractActivation,
    nn.FanInSum,
    nn.FanInProd,
    nn.Dropout,
    *OF_POSITIONS,
)


def _rows_of_node(builder: Builder, node: Node, rows: Int[np.ndarray, " n"]) -> Node:
    """The node with some of its channels alone."""
    key = ("rows", node, rows.tobytes())
    return builder.once(key, lambda: _layer_of_rows(builder, node, rows))


def _layer_of_rows(builder: Builder, node: Node, rows: Int[np.ndarray, " n"]) -> Node:
    layer, shape = node.layer, (len(rows), *node.shape[1:])
    if isinstance(layer, _CHANNELWISE):
        reads = [_rows_of_node(builder, one, rows) for one in node.reads]
        return builder.plain(layer, reads, shape)
    holds = [Parameter(one.leaf, one.numbers[rows], one.factor) for one in node.holds]
    if isinstance(layer, nn.Learned | nn.ChannelGains):
        name = "value" if isinstance(layer, nn.Learned) else "weight"
        values = getattr(layer, name)[rows]
        fewer = eqx.tree_at(lambda one: getattr(one, name), layer, values)
        reads = [_rows_of_node(builder, one, rows) for one in node.reads]
        return builder.add(fewer, reads, shape, holds)
    if not isinstance(layer, nn.Linear | nn.Conv) or getattr(layer, "groups", 1) > 1:
        raise Unreadable(
            "splits channels of a layer other than a `Linear` or a convolution. Give "
            "each part a layer of its own."
        )
    assert layer.weight is not None
    fewer = [layer.weight[rows], None if layer.bias is None else layer.bias[rows]]
    smaller = eqx.tree_at(
        lambda one: [one.weight, one.bias], layer, fewer, is_leaf=lambda x: x is None
    )
    name = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
    object.__setattr__(smaller, name, len(rows))
    return builder.add(smaller, node.reads, shape, holds)


@reading("concatenate")
def _concatenate(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[RandomValue]:
    return [_joined_along(builder, args, int(eqn.params["dimension"]))]


@reading("stack")
def _stack(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[RandomValue]:
    return [along_new_axis(builder, args, int(eqn.params["axis"]))]


def along_new_axis(builder: Builder, args: Sequence[Any], axis: int) -> RandomValue:
    """Arrays one after the other along a new axis."""
    return _joined_along(builder, [_with_axis(arg, axis) for arg in args], axis)


def _with_axis(value: Any, axis: int) -> Any:
    """An array with a further axis, of size one."""
    if isinstance(value, RandomValue):
        axes = list(value.layout.axes)
        axes.insert(axis, ())
        return dataclasses.replace(value, layout=value.layout.with_axes(axes))
    expand = lambda x: jnp.expand_dims(x, axis)
    if isinstance(value, Parameter):
        numbers = np.expand_dims(value.numbers, axis)
        return dataclasses.replace(value, numbers=numbers)
    if isinstance(value, InputFunction):
        shape = [*value.shape]
        shape.insert(axis, 1)
        name = ("expanded", axis)
        return InputFunction(
            AppliedFunction(expand, (value.expression,), tuple(shape), name)
        )
    return expand(value)


def _joined_along(builder: Builder, args: Sequence[Any], axis: int) -> RandomValue:
    """Arrays end to end along an axis."""
    args = [arg for arg in args if arg.shape[axis]]
    signals = [builder.settled(arg) for arg in args if isinstance(arg, RandomValue)]
    # One that has a single channel tells not where channels stand.
    first = next((one for one in signals if one.layout.channels), signals[0])
    if len(args) == 1:
        return first
    of_axis = first.layout.axes[axis]
    channels = set(first.layout.channels)
    if set(of_axis) & channels and of_axis != first.layout.channels:
        raise Unreadable("joins arrays along an axis of some channels, or of both.")
    along_channels = of_axis == first.layout.channels and bool(of_axis)
    parts = [
        _joined_part(builder, arg, first, axis, along_channels=along_channels)
        for arg in args
    ]
    nodes = [builder.node(part) for part in parts]
    layout = parts[0].layout
    axes = list(layout.axes)
    if along_channels:
        total = sum(node.shape[0] for node in nodes)
        axes[axis] = axis_factors(total)
        shape = (total, *nodes[0].shape[1:])
        made = builder.plain(nn.FanInConcat(0), nodes, shape)
        return RandomValue.of(made, Layout(axes[axis], layout.positions, tuple(axes)))
    return _end_to_end(builder, parts, nodes, axis)


def _joined_part(
    builder: Builder, arg: Any, first: RandomValue, axis: int, *, along_channels: bool
) -> RandomValue:
    """One of the arrays, laid out like the first but for the axis they are joined on.

    Along positions, that axis comes first among them.
    """
    n = arg.shape[axis]
    layout = first.layout
    own, new = layout.axes[axis], axis_factors(n)
    axes = list(layout.axes)
    axes[axis] = new
    if along_channels:
        target = Layout(new, layout.positions, tuple(axes))
    else:
        rest = _rest(layout, own)
        target = Layout(layout.channels, (new, *rest), tuple(axes))
    if isinstance(arg, Parameter):
        return as_values(builder, arg, target)
    if not isinstance(arg, RandomValue):
        return like(builder, arg, target)
    probe = RandomValue(target, {})
    signal = builder.settled(arg)
    if not new and not along_channels:
        positions = ((), *_rest(signal.layout, ()))
        signal = builder.rearranged(signal, positions)
    return builder.aligned(probe, signal)[1]


def _rest(layout: Layout, own: AxisFactors) -> list[AxisFactors]:
    """The axes of positions without those of one axis of the array."""
    rest: list[AxisFactors] = []
    for group in layout.positions:
        left = tuple(f for f in group if f not in own)
        if left == group and group:
            rest.append(group)
        elif left:
            rest += [(f,) for f in left]
    return rest


def _end_to_end(
    builder: Builder, parts: Sequence[RandomValue], nodes: Sequence[Node], axis: int
) -> RandomValue:
    layout = parts[0].layout
    total = sum(node.shape[1] for node in nodes)
    axes = list(layout.axes)
    axes[axis] = axis_factors(total)
    positions = (axes[axis], *layout.positions[1:])
    shape = (nodes[0].shape[0], total, *nodes[0].shape[2:])
    made = _joined_nodes(builder, nodes, shape)
    return RandomValue.of(made, Layout(layout.channels, positions, tuple(axes)))


def _joined_nodes(
    builder: Builder, nodes: Sequence[Node], shape: Sequence[int]
) -> Node:
    """Nodes end to end along the first axis of their positions."""
    picked = _picked_from_one(nodes)
    if picked is not None:
        root, index = picked
        whole: list[Any] = [slice(None)] * (len(root.shape) - 1)
        whole[0] = index
        return builder.plain(nn.Index(tuple(whole)), [root], shape)
    if (mapped := joined_maps(nodes)) is not None:
        return map_node(builder, *mapped)
    functions = [_as_function(builder, node) for node in nodes]
    told = {None if one is None else all_told_by(one[0]) for one in functions}
    if len(told) == 1 and (first := functions[0]) is not None:
        # Outputs with means correlate end to end, those of weights before do not.
        before = [one[1] for one in functions if one is not None]
        joined = _joined_nodes(builder, before, shape)
        return builder.plain(first[0], [joined], shape)
    return builder.plain(nn.FanInConcat(1), nodes, shape)


def _as_function(
    builder: Builder, node: Node
) -> tuple[nn.AbstractActivation, Node] | None:
    """What a function of each entry is applied to, positions moved before that."""
    if isinstance(node.layer, nn.AbstractActivation):
        return node.layer, node.reads[0]
    if not isinstance(node.layer, nn.Rearrange | nn.Index):
        return None
    if (found := _as_function(builder, node.reads[0])) is None:
        return None
    return found[0], builder.plain(node.layer, [found[1]], node.shape)


def _picked_from_one(
    nodes: Sequence[Node],
) -> tuple[Node, Int[np.ndarray, " n"]] | None:
    """The node that all of these pick positions of, along the first axis."""
    roots, indices = [], []
    for node in nodes:
        index = np.arange(node.shape[1])
        while isinstance(node.layer, nn.Index):
            along, *rest = node.layer.index
            sequence = isinstance(along, tuple)
            if not (sequence or isinstance(along, slice)) or any(
                i != slice(None) for i in rest
            ):
                break
            (node,) = node.reads
            picked = np.asarray(along) if sequence else along
            index = np.arange(node.shape[1])[picked][index]
        roots.append(node)
        indices.append(index)
    if any(root is not roots[0] for root in roots):
        return None
    return roots[0], np.concatenate(indices)
