"""Gains, offsets and weights: parameters that become those of layers."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from eqtangents import nn
from eqtangents._traced._builder import Builder
from eqtangents._traced._layout import AxisFactor, AxisFactors, Layout
from eqtangents._traced._of_input import like
from eqtangents._traced._values import Node, Parameter, RandomValue, Unreadable
from eqtangents._types import Scalar, known_value
from eqtangents.nn._norm import AbstractNorm
from eqtangents.nn._parameterization import Fans


def with_weights(
    builder: Builder,
    layer: Any,
    parameter: Parameter,
    weight: Int[np.ndarray, "out in *taps"],
) -> Any:
    """A layer that was made without weights, with those of a model."""
    inputs = math.prod(weight.shape[1:])
    fans = Fans(inputs, weight.shape[1], weight.shape[0])
    scale = layer.parameterization.weights(layer.weight_std, fans)
    arranged = Parameter(parameter.leaf, weight)
    multiplier = scale.multiplier / math.sqrt(inputs)
    return _filled(layer, "weight", _carried_over(builder, arranged, multiplier))


def options(builder: Builder, parameter: Parameter, inputs: int) -> dict[str, Any]:
    """The arguments of a layer with weights for so many inputs to each output."""
    parameters = builder.parameters
    return {
        "weight_std": parameters.weight_deviation(parameter, inputs),
        "parameterization": parameters.parameterization,
    }


def with_vectors(builder: Builder, layer: nn.Embedding, table: Parameter) -> Any:
    """An embedding that was made without vectors, with those of a model."""
    channels = table.shape[1]
    scale = layer.parameterization.weights(layer.weight_std, Fans(1, 1, channels))
    return _filled(layer, "weight", _carried_over(builder, table, scale.multiplier))


def _carried_over(
    builder: Builder, parameter: Parameter, scale: Scalar
) -> Float[Array, "..."]:
    if known_value(scale) == 0:
        name = builder.parameters.leaves[parameter.leaf].name
        raise Unreadable(
            f"begins with zeros in `{name}`, which cannot be parameters that are "
            'multiplied by their deviation. Use `parameterization="standard"`.'
        )
    return builder.parameters.divided(parameter, scale)


def _filled(layer: Any, name: str, value: Any) -> Any:
    return eqx.tree_at(
        lambda one: getattr(one, name), layer, value, is_leaf=lambda leaf: leaf is None
    )


def varying(parameter: Parameter, layout: Layout) -> tuple[AxisFactors, np.ndarray]:
    """The factors of an array along which the entries of parameters differ.

    **Returns:** these, and which entry stands where along them.
    """
    row = [factor for axis in layout.axes for factor in axis]
    numbers = parameter.numbers.reshape([factor.size for factor in row])
    kept: list[AxisFactor] = []
    for axis in reversed(range(len(row))):
        first = np.take(numbers, [0], axis)
        if (numbers != first).any():
            kept.insert(0, row[axis])
        else:
            numbers = first.reshape(numbers.shape[:axis] + numbers.shape[axis + 1 :])
    return tuple(kept), numbers


def with_gains(
    builder: Builder, signal: RandomValue, parameter: Parameter
) -> RandomValue:
    """A signal whose channels are multiplied by parameters."""
    layout = signal.layout
    name = builder.parameters.leaves[parameter.leaf].name
    kept, numbers = varying(parameter, layout)
    if set(kept) != set(layout.channels):
        raise Unreadable(
            f"multiplies an array by parameters, `{name}`, other than one for each "
            "channel: weights that are not summed over are no gains. Use one gain for "
            "each channel."
        )
    numbers = numbers.transpose([kept.index(f) for f in layout.channels]).reshape(-1)
    held = Parameter(parameter.leaf, numbers)
    initial = builder.parameters.gain(parameter)
    node = builder.node(signal)
    values = builder.parameters.values(held)
    layer = node.layer
    if isinstance(layer, AbstractNorm) and not (layer.use_weight or layer.use_bias):
        if initial == 1:
            made = _changed(layer, use_weight=True, weight=values)
            node = builder.add(made, node.reads, node.shape, [held])
            return _with_factor(RandomValue.of(node, layout), parameter.factor)
    made = _filled(nn.ChannelGains(initial), "weight", values)
    node = builder.add(made, [node], node.shape, [held])
    return _with_factor(RandomValue.of(node, layout), parameter.factor)


def _with_factor(signal: RandomValue, factor: float) -> RandomValue:
    terms = {node: c * factor for node, c in signal.terms.items()}
    return RandomValue(signal.layout, terms)


def _changed(layer: Any, **fields: Any) -> Any:
    """A copy of a layer with some fields changed, static ones among them."""
    copy = object.__new__(type(layer))
    for name in layer.__dataclass_fields__:
        object.__setattr__(copy, name, fields.get(name, getattr(layer, name)))
    return copy


def with_offset(
    builder: Builder, signal: RandomValue, parameter: Parameter
) -> RandomValue:
    """A signal with parameters added: biases, or embeddings of positions."""
    name = builder.parameters.leaves[parameter.leaf].name
    kept, numbers = varying(parameter, signal.layout)
    if not set(signal.layout.channels) <= set(kept):
        raise Unreadable(
            f"adds parameters, `{name}`, that are alike for several channels, so that "
            "these are no longer independent. Add one for each channel. If they are "
            "constants, as the grid of a KAN, the functions of an input are "
            "one function for each, written one by one: "
            "`jnp.stack([f(x - c) for c in (-1.0, 0.0, 1.0)], 1)`."
        )
    signal = _separated(builder, signal, kept)
    layout = signal.layout
    axes = tuple(
        axis for axis, group in enumerate(layout.positions, 1) if set(group) & set(kept)
    )
    order = [*layout.channels]
    for axis in axes:
        order += layout.positions[axis - 1]
    numbers = numbers.transpose([kept.index(factor) for factor in order])
    sizes = [
        math.prod(f.size for f in group) if axis in axes else 1
        for axis, group in enumerate(layout.positions, 1)
    ]
    channels = math.prod(f.size for f in layout.channels)
    held = Parameter(parameter.leaf, numbers.reshape(channels, *sizes))
    learned = _node_of_values(builder, signal, held, axes)
    fused = (
        None
        if axes or parameter.factor != 1
        else _fused(builder, signal, held, learned)
    )
    if fused is not None:
        return RandomValue.of(fused, layout)
    terms = {**signal.terms, learned: parameter.factor}
    return RandomValue(layout, terms)


def as_values(builder: Builder, parameter: Parameter, layout: Layout) -> RandomValue:
    """Parameters as values of a layout that depend on no input, as of a class token."""
    base = like(builder, np.zeros(layout.shape, np.float32), layout)
    added = with_offset(builder, base, parameter)
    terms = {node: c for node, c in added.terms.items() if node not in base.terms}
    return RandomValue(added.layout, terms)


def _separated(
    builder: Builder, signal: RandomValue, kept: Sequence[AxisFactor]
) -> RandomValue:
    """With positions along axes of their own, if offsets differ along part of an axis.

    Those along which the array only repeated, and no longer does, too.
    """
    groups: list[AxisFactors] = []
    for axis in signal.layout.positions:
        among = [factor in kept for factor in axis]
        groups += [axis] if all(among) or not any(among) else [(f,) for f in axis]
    more = [(f,) for f in signal.layout.repeated if f in kept]
    return builder.rearranged(signal, [*groups, *more])


def _node_of_values(
    builder: Builder, signal: RandomValue, held: Parameter, axes: tuple[int, ...]
) -> Node:
    """The node of the parameters alone."""
    parameters = builder.parameters
    base = builder.node(signal)
    deviation = parameters.bias_deviation(held)
    layer = nn.Learned(
        std=deviation, axes=axes, parameterization=parameters.parameterization
    )
    channels = held.numbers.shape[0]
    scale = parameters.parameterization.biases(deviation, Fans(1, channels, channels))
    layer = _filled(layer, "value", _carried_over(builder, held, scale.multiplier))
    # What it reads says no more than the shape.
    key = ("values", held.leaf, held.numbers.tobytes(), axes, base.shape)
    return builder.once(key, lambda: builder.add(layer, [base], base.shape, [held]))


def _fused(
    builder: Builder, signal: RandomValue, held: Parameter, learned: Node
) -> Node | None:
    """The layer that a signal is the output of with the parameters as its biases."""
    ((node, factor), *others) = signal.terms.items()
    layer, parameters = node.layer, builder.parameters
    if others or factor != 1 or layer is None:
        return None
    flat = Parameter(held.leaf, held.numbers.reshape(-1))
    deviation = parameters.bias_deviation(held)
    if isinstance(layer, AbstractNorm) and not layer.use_bias:
        if known_value(deviation) != 0:
            return None
        layer = _changed(layer, use_bias=True, bias=parameters.values(flat))
    elif isinstance(layer, nn.Linear | nn.Conv) and layer.bias_std is None:
        assert layer.weight is not None
        inputs = math.prod(layer.weight.shape[1:])
        fans = Fans(inputs, layer.weight.shape[1], layer.weight.shape[0])
        scale = layer.parameterization.biases(deviation, fans)
        bias = _carried_over(builder, flat, scale.multiplier)
        layer = _filled(_filled(layer, "bias_std", deviation), "bias", bias)
    else:
        return None
    holds = (*node.holds, flat)
    return builder.add(layer, node.reads, node.shape, holds, (node, learned))
