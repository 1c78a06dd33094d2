"""Means over channels, and the normalisation layers that are made of them."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend import core

from eqtangents import nn
from eqtangents._traced._builder import Builder
from eqtangents._traced._expressions import (
    AppliedEquation,
    fingerprint,
    reads,
    results_of,
)
from eqtangents._traced._layout import Layout
from eqtangents._traced._normalisations import recognised_normalisation
from eqtangents._traced._numpy import in_numpy
from eqtangents._traced._trained import with_gains
from eqtangents._traced._values import (
    InputFunction,
    Node,
    Parameter,
    RandomValue,
    Statistic,
    Unreadable,
)


_REDUCTIONS = frozenset(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin "
    "cumsum cumprod cummax cummin cumlogsumexp sort".split()
)


def begins_statistic(builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]) -> bool:
    """Whether an equation mixes the channels of one signal, without weights."""
    first = args[0]
    if not isinstance(first, RandomValue):
        return False
    channels = set(first.layout.channels)
    if eqn.primitive.name == "dot_general" and isinstance(args[1], RandomValue):
        ((over, _), (batched, _)) = eqn.params["dimension_numbers"]
        if len(over) + len(batched) < len(first.shape):
            return False  # products of positions with others, as scores of attention
        mixed = {f for axis in over for f in first.layout.axes[axis]}
        same = builder.base(first) is not None
        return (
            same
            and builder.base(first) is builder.base(args[1])
            and (mixed == channels)
        )
    if eqn.primitive.name not in _REDUCTIONS:
        return False
    axes = eqn.params.get(
        "axes", (eqn.params.get("axis", eqn.params.get("dimension")),)
    )
    mixed = channels & {f for axis in axes for f in first.layout.axes[axis]}
    if eqn.primitive.name in ("reduce_max", "reduce_min") and mixed != channels:
        return False  # of parts of the channels, as in maxout
    return bool(mixed)


def with_statistics(
    builder: Builder,
    eqn: core.JaxprEqn,
    args: Sequence[Any],
    of_signals: Callable[[Sequence[Any]], list[Any]],
) -> list[Any]:
    """What is computed of means over channels is kept, until it is a normalisation.

    `of_signals`: what the equation makes of signals. They take the place of statistics
    that meet what no normalisation has.
    """
    statistics = [arg for arg in args if isinstance(arg, Statistic)]
    signals = [arg for arg in args if isinstance(arg, RandomValue)]
    for signal in signals:
        if builder.base(signal) is None:
            builder.node(signal)
    node = statistics[0].node if statistics else builder.base(signals[0])
    assert node is not None
    others = [arg for arg in args if isinstance(arg, InputFunction | Parameter)]
    apart = any(one.node is not node for one in statistics) or any(
        builder.base(signal) is not node for signal in signals
    )
    parameters = [arg for arg in others if isinstance(arg, Parameter)]
    offset = parameters and eqn.primitive.name != "mul"
    if apart or offset or len(others) > len(parameters):
        return _resolved(args, of_signals)
    gains = tuple(gain for one in statistics for gain in one.gains)
    given = []
    for arg in args:
        if isinstance(arg, Parameter):
            initial = arg.factor * builder.parameters.gain(arg)
            gains = (*gains, (arg, initial))
            given.append(np.full(arg.shape, initial, np.float32))
        elif isinstance(arg, Statistic):
            given.append(arg.expression)
        else:
            given.append(
                builder.expression(arg) if isinstance(arg, RandomValue) else arg
            )
    line = builder.line

    @functools.cache
    def as_signals() -> list[Any]:
        with builder.at_line(line):
            return _resolved(args, of_signals)

    return [
        _continued(builder, eqn, args, node, one, gains, lambda i=i: as_signals()[i])
        for i, one in enumerate(results_of(eqn, given))
    ]


def _resolved(
    args: Sequence[Any], of_signals: Callable[[Sequence[Any]], list[Any]]
) -> list[Any]:
    """The results of an equation where statistics are no part of a normalisation."""
    try:
        return of_signals(
            [arg.as_signal() if isinstance(arg, Statistic) else arg for arg in args]
        )
    except Unreadable:
        raise _unknown([arg for arg in args if isinstance(arg, Statistic)]) from None


def _continued(
    builder: Builder,
    eqn: core.JaxprEqn,
    args: Sequence[Any],
    node: Node,
    expression: AppliedEquation,
    gains: tuple[tuple[Parameter, float], ...],
    as_signal: Callable[[], RandomValue],
) -> Any:
    layouts = [
        arg.layout
        for arg in args
        if isinstance(arg, RandomValue | Statistic) and arg.layout is not None
    ]
    layout = next((one for one in layouts if one.shape == expression.shape), None)
    moved = tuple((_moved(eqn, gain, expression.shape), v) for gain, v in gains)
    statistic = Statistic(node, expression, layout, builder.line, as_signal, moved)
    if eqn.primitive.name in ("mul", "div") and layout is not None:
        found = _as_normalisation(builder, statistic, layout)
        return statistic if found is None else found
    return statistic


def _moved(eqn: core.JaxprEqn, gain: Parameter, shape: tuple[int, ...]) -> Parameter:
    """Gains after the axes of what they were multiplied with have changed."""
    if gain.shape == shape:
        return gain
    if eqn.primitive.name in ("add", "sub", "mul", "div"):
        return dataclasses.replace(gain, numbers=np.broadcast_to(gain.numbers, shape))
    moves = ("broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims")
    if eqn.primitive.name not in moves:
        return gain
    found = in_numpy(eqn, [gain.numbers])
    assert found is not None, "axes move in NumPy"
    return dataclasses.replace(gain, numbers=found[0])


def _unknown(statistics: Sequence[Statistic]) -> Unreadable:
    where = f", in {statistics[0].line}," if statistics and statistics[0].line else ""
    return Unreadable(
        f"takes statistics over the channels{where} that are none of a `LayerNorm`, "
        "`RMSNorm` or `GroupNorm`, nor of the network's input, nor sums of all "
        "channels. A softmax over channels belongs to the loss; over the few outputs "
        "of a router, as in a mixture of experts, it stays random however wide the "
        "model is: gate each channel by one of its own, "
        "`jax.nn.sigmoid(gate(x)) * expert(x)`. Maxima and batch statistics have no "
        "kernel."
    )


def _as_normalisation(
    builder: Builder, statistic: Statistic, layout: Layout
) -> RandomValue | None:
    """The normalisation layer that an expression is, if it is one."""
    node, expression = statistic.node, statistic.expression
    holes = {hole: builder.shown[hole][1] for hole in reads(expression)}
    key = (
        "normalisation",
        fingerprint(expression, lambda hole: holes[hole].signature()),
        node.shape,
        layout.signature(),
    )
    found = _FOUND.get(key)
    if key not in _FOUND:
        found = _FOUND[key] = recognised_normalisation(
            expression, holes, layout, node.shape
        )
    if found is None:
        return None
    layer, factor = found
    made = builder.plain(layer, [node], node.shape)
    gain = math.prod(value for _, value in statistic.gains)
    if gain == 0:
        return None
    signal = RandomValue(layout, {made: factor / gain})
    for parameter, _ in statistic.gains:
        signal = with_gains(builder, signal, parameter)
    if len(signal.terms) == 1:
        ((last, c),) = signal.terms.items()
        if math.isclose(c, 1, rel_tol=1e-4):
            return RandomValue.of(last, layout)
    return signal


# Expressions that have been tried before, in this or another model.
_FOUND: dict[Any, tuple[nn.AbstractLayer, float] | None] = {}
