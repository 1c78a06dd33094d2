"""Sums over axes, of positions and of channels, and inner products."""

import math
from collections.abc import Sequence
from typing import Any

from eqtangents import nn
from eqtangents._traced._builder import Builder
from eqtangents._traced._channel_axes import channels_apart
from eqtangents._traced._layout import (
    AxisFactor,
    AxisFactors,
    Layout,
    axis_factors,
    size_of_factors,
)
from eqtangents._traced._sums import joined_product
from eqtangents._traced._values import RandomValue, Unreadable


def sum_over(builder: Builder, signal: RandomValue, over: Sequence[int]) -> RandomValue:
    """A signal summed over some axes."""
    factors = {f for axis in over for f in signal.layout.axes[axis]}
    if mixed := [f for f in signal.layout.channels if f in factors]:
        if len(mixed) < len(signal.layout.channels):
            return sum_over(builder, _some_apart(builder, signal, mixed), over)
        signal = _channels_summed(builder, signal)
    signal = builder.settled(signal)
    layout = signal.layout
    repeats = math.prod(f.size for f in layout.repeated if f in factors)
    inside = [f for f in layout.spatial if f in factors]
    rest = [axis for i, axis in enumerate(layout.axes) if i not in over]
    if not inside:
        terms = {node: c * repeats for node, c in signal.terms.items()}
        return RandomValue(layout.with_axes(rest), terms)
    if len(inside) == len(layout.spatial):
        node = builder.node(signal)
        made = builder.plain(nn.GlobalSumPool(), [node], node.shape[:1])
        changed = Layout(layout.channels, (), tuple(rest))
        return RandomValue(changed, {made: float(repeats)})
    groups: list[AxisFactors] = []
    for axis in layout.positions:
        among = [f in factors for f in axis]
        cut = among.index(True) if any(among) else len(axis)
        groups += [axis] if all(among[cut:]) else [(f,) for f in axis]
    signal = builder.rearranged(signal, groups)
    node = builder.node(signal)
    kernel = tuple(math.prod(f.size for f in axis if f in factors) for axis in groups)
    size = [n // k for n, k in zip(node.shape[1:], kernel, strict=True)]
    layer = nn.SumPool(kernel, kernel)
    made = builder.plain(layer, [node], (node.shape[0], *size))
    positions = tuple(tuple(f for f in axis if f not in factors) for axis in groups)
    changed = Layout(layout.channels, positions, tuple(rest))
    return RandomValue(changed, {made: float(repeats)})


def _some_apart(
    builder: Builder, signal: RandomValue, mixed: Sequence[AxisFactor]
) -> RandomValue:
    """With channels that are summed, while others are kept, as positions."""
    kept = size_of_factors([f for f in signal.layout.channels if f not in mixed])
    if size_of_factors(mixed) > kept:
        raise Unreadable(
            "sums some of the channels of a layer without weights, and keeps others "
            "apart. Sum all of them, of a layer of its own for each output."
        )
    return channels_apart(builder, builder.settled(signal), mixed)


def _channels_summed(builder: Builder, signal: RandomValue) -> RandomValue:
    """With all channels summed, and one left."""
    layout = signal.layout
    node = builder.node(signal)
    made = builder.plain(nn.ChannelSum(), [node], (1, *node.shape[1:]))
    own = set(layout.channels)
    axes = tuple(tuple(f for f in axis if f not in own) for axis in layout.axes)
    left = Layout((), layout.positions, axes)
    return RandomValue(left, {made: math.sqrt(node.shape[0])})


def inner_product(
    builder: Builder, args: Sequence[Any], contracted: Any, batched: Any, free: Any
) -> RandomValue:
    """The sum of a product of two signals, of which one has no further axes."""
    moved = []
    for i, arg in enumerate(args):
        axes = builder.settled(arg).layout.axes
        further = [axes[a] for a in free[i]] or [
            axis_factors(args[1 - i].shape[a]) for a in free[1 - i]
        ]
        axes = (
            *(axes[a] for a in batched[i]),
            *further,
            *(axes[a] for a in contracted[i]),
        )
        signal = builder.settled(arg)
        moved.append(RandomValue(signal.layout.with_axes(axes), signal.terms))
    product = joined_product(builder, *moved)
    rank = len(product.shape)
    return sum_over(builder, product, range(rank - len(contracted[0]), rank))
