"""Rules of products that are summed over: weights, and constant maps of positions."""

import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core

from eqtangents import nn
from eqtangents._traced._attention import begun_scores
from eqtangents._traced._builder import Builder
from eqtangents._traced._known_factors import times_known
from eqtangents._traced._layout import AxisFactors, Layout, axis_factors
from eqtangents._traced._of_input import of_input
from eqtangents._traced._reductions import inner_product
from eqtangents._traced._rules import reading
from eqtangents._traced._stacked import products_one_by_one
from eqtangents._traced._trained import as_values, options, with_weights
from eqtangents._traced._values import (
    Node,
    Parameter,
    RandomValue,
    Unreadable,
)


@reading("dot_general")
def _read_dot_general(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[Any]:
    (contracted, batched) = eqn.params["dimension_numbers"]
    if all(isinstance(arg, RandomValue) for arg in args):
        free = [
            [a for a in range(len(arg.shape)) if a not in (*over, *batch)]
            for arg, over, batch in zip(args, contracted, batched, strict=True)
        ]
        if all(free):
            return begun_scores(builder, eqn, args)
        return [inner_product(builder, args, contracted, batched, free)]
    kinds = [isinstance(arg, Parameter) for arg in args]
    of_layers = [
        kind and builder.parameters.leaves[arg.leaf].fan_in is not None
        for kind, arg in zip(kinds, args, strict=True)
    ]
    if all(kinds) and sum(of_layers) != 1:
        raise Unreadable(
            "multiplies parameters by each other, so that the weights of a layer are "
            "no longer drawn independently. Apply them to the data one after the "
            "other. Trained values that a layer reads, as latents, are told by layers "
            "of `equinox.nn`, `jax.vmap(linear)(latents)`."
        )
    if any(kinds):
        at = (of_layers if all(kinds) else kinds).index(True)
        if batched[0]:
            return [products_one_by_one(builder, eqn, args, _read_dot_general)]
        axes = [tuple(map(int, one)) for one in contracted]
        return [_times_weights(builder, args[1 - at], args[at], axes, at)]
    return [times_known(builder, args, contracted, batched)]


def _times_weights(
    builder: Builder,
    value: Any,
    parameter: Parameter,
    contracted: list[tuple[int, ...]],
    at: int,
) -> RandomValue:
    """A product with weights; they are argument number `at`."""
    over, weight_axes = contracted[1 - at], contracted[at]
    free = [a for a in range(parameter.numbers.ndim) if a not in weight_axes]
    rest = [a for a in range(len(value.shape)) if a not in over]
    if isinstance(value, RandomValue):
        signal = builder.settled(value)
    else:
        signal = _with_channels(builder, value, over, rest)
    signal = channels_along(builder, signal, [signal.layout.axes[a] for a in over])
    layout = signal.layout
    node = builder.node(signal)
    # The entries as (out, in), in the order of the node's channels.
    numbers = parameter.numbers.transpose(*free, *weight_axes)
    row = [factor for a in over for factor in layout.axes[a]]
    sizes = [numbers.shape[i] for i in range(len(free))]
    numbers = numbers.reshape(math.prod(sizes), *(factor.size for factor in row))
    order = [1 + row.index(factor) for factor in layout.channels]
    numbers = numbers.transpose(0, *order).reshape(numbers.shape[0], -1)
    out, inputs = numbers.shape
    layer = nn.Linear(out, **options(builder, parameter, inputs))
    layer = with_weights(builder, layer, parameter, numbers)
    held = Parameter(parameter.leaf, numbers)
    made = builder.add(layer, [node], (out, *node.shape[1:]), [held])
    new = [axis_factors(n) for n in sizes]
    channels = tuple(factor for group in new for factor in group)
    old = [layout.axes[a] for a in rest]
    axes = [*new, *old] if at == 0 else [*old, *new]
    changed = Layout(channels, layout.positions, tuple(axes))
    return RandomValue(changed, {made: parameter.factor})


def _with_channels(
    builder: Builder, value: Any, over: Sequence[int], rest: Sequence[int]
) -> RandomValue:
    """A function of the input, or parameters, whose channels are summed over."""
    axes: list[AxisFactors] = [axis_factors(n) for n in value.shape]
    layout = Layout(
        tuple(f for axis in over for f in axes[axis]),
        tuple(axes[axis] for axis in rest),
        tuple(axes),
    )
    if isinstance(value, Parameter):
        return as_values(builder, value, layout)
    node = of_input(builder, value, over, [[axis] for axis in rest])
    return RandomValue.of(node, layout)


def channels_along(
    builder: Builder, signal: RandomValue, axes: Sequence[AxisFactors]
) -> RandomValue:
    """The array as the output of a node whose channels are these axes.

    Positions among them become channels.
    """
    layout = signal.layout
    wanted = [factor for axis in axes for factor in axis]
    channels, spatial = set(layout.channels), set(layout.spatial)
    if not channels <= set(wanted):
        if not channels & set(wanted):
            raise Unreadable(
                "multiplies positions by weights that all channels share. As channels "
                "widen these weights stay few, and the kernel is random. Mix positions "
                "by constants, by a convolution or by attention."
            )
        raise Unreadable(
            "multiplies some of the channels by weights that the others share, as "
            "those of several heads. Give each channel weights of its own."
        )
    if not set(wanted) <= channels | spatial:
        repeats = [(f,) for f in layout.repeated if f in set(wanted)]
        signal = builder.rearranged(signal, [*layout.positions, *repeats])
        return channels_along(builder, signal, axes)
    inner = [f for f in layout.spatial if f in set(wanted)]
    if not inner:
        return signal
    if len(inner) == len(layout.spatial):
        node = builder.node(signal)
        size, parts = math.prod(node.shape), _stacked_parts(builder, node)
        if parts:
            flat = builder.plain(nn.FanInConcat(0), parts, (size,))
            changed = Layout((*inner, *layout.channels), (), layout.axes)
        else:
            flat = builder.plain(nn.Flatten(), [node], (size,))
            changed = Layout((*layout.channels, *inner), (), layout.axes)
        return RandomValue.of(flat, changed)
    return _in_patches(builder, signal, inner)


def _stacked_parts(builder: Builder, node: Node) -> list[Node]:
    """Outputs that are a position each, without it: side by side they may correlate."""
    one_each = len(node.shape) == 2 and len(node.reads) == node.shape[1]
    if not one_each or not isinstance(node.layer, nn.FanInConcat):
        return []
    if node.layer.axis != 1:
        return []
    return [builder.plain(nn.Flatten(), [n], node.shape[:1]) for n in node.reads]


def _in_patches(
    builder: Builder, signal: RandomValue, inner: Sequence[Any]
) -> RandomValue:
    """Some factors of the positions as channels."""
    groups: list[tuple[AxisFactors, AxisFactors]] = []
    for axis in signal.layout.positions:
        among = [factor in inner for factor in axis]
        cut = among.index(True) if any(among) else len(axis)
        if all(among[cut:]):
            groups.append((axis[:cut], axis[cut:]))
        else:
            groups += [((), (f,)) if f in inner else ((f,), ()) for f in axis]
    signal = builder.rearranged(signal, [(*kept, *window) for kept, window in groups])
    node = builder.node(signal)
    kernel = tuple(math.prod(f.size for f in window) for _, window in groups)
    size = [math.prod(f.size for f in kept) for kept, _ in groups]
    shape = (node.shape[0] * math.prod(kernel), *size)
    made = builder.plain(nn.Unfold(kernel), [node], shape)
    windows = tuple(factor for _, window in groups for factor in window)
    layout = Layout(
        (*signal.layout.channels, *windows),
        tuple(kept for kept, _ in groups),
        signal.layout.axes,
    )
    return RandomValue.of(made, layout)
