"""Channels that are to stand along some axes of an array, with positions or without."""

import math
from collections.abc import Sequence

import numpy as np

from eqtangents import nn
from eqtangents._traced._builder import Builder
from eqtangents._traced._layout import AxisFactor, AxisFactors, Layout, size_of_factors
from eqtangents._traced._picked import MOST_LAYERS, entry_along
from eqtangents._traced._selections import along_new_axis
from eqtangents._traced._values import Node, RandomValue, Unreadable


def channels_apart(
    builder: Builder, signal: RandomValue, apart: Sequence[AxisFactor]
) -> RandomValue:
    """The same array, where some factors of the channels have become positions.

    So many layers take the place of one: their outputs are independent.
    """
    if not apart:
        return signal
    sizes = [factor.size for factor in apart]
    if math.prod(sizes) > MOST_LAYERS:
        raise Unreadable(
            f"moves {math.prod(sizes)} groups of channels to positions, which would be "
            f"as many layers, of at most {MOST_LAYERS}. Use a transposed convolution, "
            "or fewer outputs for each position."
        )
    grouped = signal.layout.axes
    row = [factor for axis in grouped for factor in axis]
    signal = RandomValue(signal.layout.with_axes([(f,) for f in row]), signal.terms)
    at = [row.index(factor) for factor in apart]
    parts = [_entry(builder, signal, at, where) for where in np.ndindex(*sizes)]
    signal = along_new_axis(builder, parts, 0)
    split = signal.layout.reshaped([*sizes, *signal.shape[1:]])
    assert split is not None, "their product is split"
    order = [*at, *(a for a in range(len(row)) if a not in at)]
    moved = iter(split.transposed([order.index(a) for a in range(len(row))]).axes)
    axes = [tuple(f for _ in axis for f in next(moved)) for axis in grouped]
    return RandomValue(split.with_axes(axes), signal.terms)


def _entry(
    builder: Builder, signal: RandomValue, at: Sequence[int], where: Sequence[int]
) -> RandomValue:
    """What stands at one place of several axes, which are left out."""
    for axis, i in sorted(zip(at, where, strict=True), reverse=True):
        signal = entry_along(builder, signal, axis, i)
    return signal


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
        apart = [f for f in layout.channels if f not in wanted]
        kept = size_of_factors([f for f in layout.channels if f in wanted])
        if size_of_factors(apart) > kept:
            raise Unreadable(
                f"multiplies {kept} of the channels by weights that "
                f"{size_of_factors(apart)} others share, so many that these weights "
                "stay few and the kernel random. Give each channel weights of its own."
            )
        return channels_along(builder, channels_apart(builder, signal, apart), axes)
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
    builder: Builder, signal: RandomValue, inner: Sequence[AxisFactor]
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
