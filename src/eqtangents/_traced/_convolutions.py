"""Rules of convolutions and of pooling over windows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from eqtangents import nn
from eqtangents._jaxpr import shape_of
from eqtangents._traced._builder import Builder
from eqtangents._traced._channel_axes import channels_along, channels_apart
from eqtangents._traced._layout import AxisFactors, Layout, axis_factors
from eqtangents._traced._of_input import of_input
from eqtangents._traced._rules import reading
from eqtangents._traced._trained import options, with_weights
from eqtangents._traced._values import Node, Parameter, RandomValue, Unreadable


@reading("conv_general_dilated")
def _convolution(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[RandomValue]:
    value, parameter = args
    params = eqn.params
    if not isinstance(parameter, Parameter) or params["batch_group_count"] != 1:
        raise Unreadable(
            "convolves with an array that is no parameter. A constant map of positions "
            "may be a matrix product."
        )
    spec = params["dimension_numbers"]
    batch, feature, *spatial = spec.lhs_spec
    signal = _as_image(builder, value, batch, feature, spatial)
    layout = signal.layout
    node = builder.node(signal)
    outer, inner, *taps = spec.rhs_spec
    numbers = parameter.numbers.transpose(outer, inner, *taps)
    moved = len(layout.positions) - len(spatial)  # a batch counts as positions
    numbers = numbers.reshape(*numbers.shape[:2], *(1,) * moved, *numbers.shape[2:])
    node, padding = _zero_padded(builder, node, params, moved)
    layer = nn.Conv(
        numbers.shape[0],
        numbers.shape[2:],
        (*(1,) * moved, *map(int, params["window_strides"])),
        padding,
        dilation=(*(1,) * moved, *map(int, params["rhs_dilation"])),
        groups=int(params["feature_group_count"]),
        **options(builder, parameter, int(np.prod(numbers.shape[1:]))),
    )
    layer = with_weights(builder, layer, parameter, numbers)
    out = shape_of(eqn.outvars[0])
    out_batch, out_feature, *out_spatial = spec.out_spec
    size = [out[axis] for axis in out_spatial]
    shape = (numbers.shape[0], *node.shape[1 : 1 + moved], *size)
    held = Parameter(parameter.leaf, numbers)
    made = builder.add(layer, [node], shape, [held])
    axes: list[AxisFactors] = [()] * len(out)
    axes[out_batch], axes[out_feature] = layout.axes[batch], axis_factors(shape[0])
    for axis, n in zip(out_spatial, size, strict=True):
        axes[axis] = axis_factors(n)
    positions = [axes[out_batch]] * moved + [axes[axis] for axis in out_spatial]
    changed = Layout(axes[out_feature], tuple(positions), tuple(axes))
    return [RandomValue(changed, {made: parameter.factor})]


def _as_image(
    builder: Builder, value: Any, batch: int, feature: int, spatial: Sequence[int]
) -> RandomValue:
    """An array as the output of a node whose positions are the axes of an image."""
    groups = [[axis] for axis in (batch, *spatial)]
    if value.shape[batch] == 1:
        groups = groups[1:]
    if not isinstance(value, RandomValue):
        node = of_input(builder, value, [feature], groups)
        axes = [axis_factors(n) for n in value.shape]
        positions = tuple(axes[axis] for (axis,) in groups)
        return RandomValue.of(node, Layout(axes[feature], positions, tuple(axes)))
    signal = builder.settled(value)
    layout = signal.layout
    if not set(layout.axes[feature]) & set(layout.channels):
        raise Unreadable(
            "convolves an array whose channels stand along another axis than those of "
            "the layer before. Keep the channels of each layer along one axis."
        )
    apart = [f for f in layout.channels if f not in layout.axes[feature]]
    signal = channels_apart(builder, signal, apart)
    signal = channels_along(builder, signal, [signal.layout.axes[feature]])
    layout = signal.layout
    return builder.rearranged(signal, [layout.axes[axis] for (axis,) in groups])


def _zero_padded(
    builder: Builder, node: Node, params: Any, moved: int
) -> tuple[Node, tuple[tuple[int, int], ...]]:
    """The node with zeros between its positions, and zeros to put around them.

    Zeros that were put around it before, by `jnp.pad` say, are the convolution's own.
    """
    between = [0] * moved + [int(d) - 1 for d in params["lhs_dilation"]]
    padding = [(0, 0)] * moved + [(int(a), int(b)) for a, b in params["padding"]]
    if any(between) or any(min(pair) < 0 for pair in padding):
        widths = tuple(
            (min(low, 0), min(high, 0), inner)
            for (low, high), inner in zip(padding, between, strict=True)
        )
        node = pad_node(builder, node, widths)
        return node, tuple((max(low, 0), max(high, 0)) for low, high in padding)
    if isinstance(node.layer, nn.Pad):
        widths = node.layer.widths
        if all(inner == 0 and min(low, high) >= 0 for low, high, inner in widths):
            (node,) = node.reads
            padding = [
                (a + low, b + high)
                for (a, b), (low, high, _) in zip(padding, widths, strict=True)
            ]
    return node, tuple(padding)


def pad_node(
    builder: Builder, node: Node, widths: tuple[tuple[int, int, int], ...]
) -> Node:
    """A node with zeros around and between its positions."""
    if not any(map(any, widths)):
        return node
    size = [
        low + high + n + (n - 1) * inner
        for n, (low, high, inner) in zip(node.shape[1:], widths, strict=True)
    ]
    return builder.plain(nn.Pad(widths), [node], (node.shape[0], *size))


@reading("reduce_window_sum", "reduce_window_max")
def _read_windows(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[RandomValue]:
    params = eqn.params
    signal = builder.settled(args[0])
    layout = signal.layout
    kernel, stride = params["window_dimensions"], params["window_strides"]
    kernel = [int(k) for k in kernel]
    moving = [
        axis
        for axis, (k, s) in enumerate(zip(kernel, stride, strict=True))
        if (k, s) != (1, 1)
    ]
    if {*params["base_dilation"], *params["window_dilation"]} != {1}:
        raise Unreadable("moves a dilated window. Use one without dilation.")
    if {f for axis in moving for f in layout.axes[axis]} & set(layout.channels):
        raise Unreadable("moves a window over channels, which have no order.")
    windows = tuple(layout.axes[axis] for axis in moving)
    inside = {f for axis in windows for f in axis}
    kept = [group for group in layout.positions if not set(group) & inside]
    signal = builder.rearranged(signal, [*windows, *kept])
    node = builder.node(signal)
    further = len(kept)
    make = nn.SumPool if eqn.primitive.name == "reduce_window_sum" else nn.MaxPool
    layer = make(
        (*(kernel[axis] for axis in moving), *(1,) * further),
        (*(int(stride[axis]) for axis in moving), *(1,) * further),
        (
            *((int(a), int(b)) for a, b in (params["padding"][x] for x in moving)),
            *((0, 0),) * further,
        ),
    )
    out = shape_of(eqn.outvars[0])
    axes = list(layout.axes)
    for axis in moving:
        axes[axis] = axis_factors(out[axis])
    positions = (*(axes[axis] for axis in moving), *kept)
    size = [out[axis] for axis in moving]
    shape = (node.shape[0], *size, *node.shape[1 + len(moving) :])
    made = builder.plain(layer, [node], shape)
    return [RandomValue.of(made, Layout(layout.channels, positions, tuple(axes)))]
