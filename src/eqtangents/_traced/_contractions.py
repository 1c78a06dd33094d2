"""Rules of products that are summed over: weights, and constant maps of positions."""

import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core

from eqtangents import nn
from eqtangents._traced._attention import begun_scores
from eqtangents._traced._builder import Builder
from eqtangents._traced._channel_axes import channels_along
from eqtangents._traced._known_factors import times_known
from eqtangents._traced._layout import AxisFactors, Layout, axis_factors
from eqtangents._traced._of_input import of_input
from eqtangents._traced._reductions import inner_product
from eqtangents._traced._rules import reading
from eqtangents._traced._stacked import products_one_by_one
from eqtangents._traced._trained import as_values, options, with_weights
from eqtangents._traced._values import Parameter, RandomValue, Unreadable


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
