"""Entries along one axis: some of them, one of them, or each for itself."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from eqtangents import nn
from eqtangents._traced._builder import Builder
from eqtangents._traced._expressions import AppliedFunction
from eqtangents._traced._layout import Layout, axis_factors, matched
from eqtangents._traced._selections import along_new_axis, selected_channels
from eqtangents._traced._values import InputFunction, Parameter, RandomValue


MOST_LAYERS = 64  # that the entries of one axis may become


def selected_along(
    builder: Builder, signal: RandomValue, axis: int, index: Int[np.ndarray, " n"]
) -> RandomValue:
    """Some entries along one axis."""
    layout = signal.layout
    of_axis = layout.axes[axis]
    own = set(of_axis)
    if own & set(layout.channels):
        return selected_channels(builder, signal, axis, index)
    axes = list(layout.axes)
    axes[axis] = axis_factors(len(index))
    if not own & set(layout.spatial):
        return RandomValue(layout.with_axes(axes), signal.terms)
    rest = [group for group in layout.positions if not set(group) & own]
    split = [(f,) for group in layout.positions if set(group) & own for f in group]
    split = [one for one in split if one[0] not in own]
    if of_axis in layout.positions:
        wanted = list(layout.positions)
    else:
        wanted = [of_axis, *rest, *split]
    signal = builder.rearranged(signal, wanted)
    at = wanted.index(of_axis)
    terms = {
        _index_node(builder, node, at, index): c for node, c in signal.terms.items()
    }
    wanted[at] = axes[axis]
    return RandomValue(Layout(layout.channels, tuple(wanted), tuple(axes)), terms)


def _index_node(
    builder: Builder, node: Any, at: int, index: Int[np.ndarray, " n"]
) -> Any:
    """The layer that picks positions along one axis."""
    rank = len(node.shape) - 1
    if isinstance(node.layer, nn.FanInConcat) and node.layer.axis == 1 + at:
        ends = np.cumsum([part.shape[1 + at] for part in node.reads])
        (first, *others) = np.unique(np.searchsorted(ends, index, "right"))
        if not others:  # of one part, with which the others may correlate
            part = node.reads[first]
            own = index - (ends[first] - part.shape[1 + at])
            if own.tolist() == list(range(part.shape[1 + at])):
                return part
            return _index_node(builder, part, at, own)
    whole: list[Any] = [slice(None)] * rank
    steps = np.diff(index)
    if len(index) == 1:
        whole[at] = slice(int(index[0]), int(index[0]) + 1)
    elif (steps == steps[0]).all() and steps[0] > 0:
        whole[at] = slice(int(index[0]), int(index[-1]) + 1, int(steps[0]))
    else:
        whole[at] = index
    shape = list(node.shape)
    shape[1 + at] = len(index)
    return builder.plain(nn.Index(tuple(whole)), [node], shape)


def entry_along(builder: Builder, value: Any, axis: int, i: int) -> Any:
    """One entry along an axis, which is left out."""
    if isinstance(value, RandomValue):
        signal = selected_along(builder, builder.settled(value), axis, np.asarray([i]))
        axes = [one for a, one in enumerate(signal.layout.axes) if a != axis]
        return RandomValue(signal.layout.with_axes(axes), signal.terms)
    if isinstance(value, Parameter):
        return dataclasses.replace(value, numbers=np.take(value.numbers, i, axis))
    if isinstance(value, InputFunction):
        take = lambda x: x.take(i, axis)
        shape = tuple(n for a, n in enumerate(value.shape) if a != axis)
        name = ("entry", axis, i)
        return InputFunction(AppliedFunction(take, (value.expression,), shape, name))
    return np.take(value, i, axis)


def with_like_channels(
    builder: Builder, one: RandomValue, other: RandomValue
) -> tuple[RandomValue, RandomValue]:
    """Two signals of one shape, without axes that are channels of one of both alone.

    What was one layer with channels along such an axis, too, as the first one of an
    ensemble with stacked weights is, becomes a layer for each entry.
    """
    for axis in range(len(one.shape)):
        pair = matched(one.layout, other.layout)
        if pair is None:
            break
        along = [set(s.axes[axis]) & set(s.channels) for s in pair]
        left = [set(s.channels) - set(s.axes[axis]) for s in pair]
        if bool(along[0]) == bool(along[1]) or not all(left):
            continue
        if along[0]:
            one = _each_apart(builder, one, axis)
        else:
            other = _each_apart(builder, other, axis)
    return one, other


def _each_apart(builder: Builder, signal: RandomValue, axis: int) -> RandomValue:
    """Channels along an axis as positions."""
    count = signal.shape[axis]
    if count > MOST_LAYERS:
        return signal
    parts: Sequence[Any] = [entry_along(builder, signal, axis, i) for i in range(count)]
    return along_new_axis(builder, parts, axis)
