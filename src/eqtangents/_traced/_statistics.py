"""Means over channels, and the normalisation layers that are made of them."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from eqtangents import nn
from eqtangents._jaxpr import bind
from eqtangents._traced._builder import Builder, as_number
from eqtangents._traced._expressions import (
    Applied,
    Expression,
    Hole,
    applied,
    evaluated,
    fingerprint,
    reads,
)
from eqtangents._traced._layout import Layout, output_array, shown_array
from eqtangents._traced._numpy import in_numpy
from eqtangents._traced._trained import with_gains
from eqtangents._traced._values import (
    Known,
    Node,
    Parameter,
    Signal,
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
    if not isinstance(first, Signal):
        return False
    channels = set(first.layout.channels)
    if eqn.primitive.name == "dot_general" and isinstance(args[1], Signal):
        ((over, _), _) = eqn.params["dimension_numbers"]
        mixed = {f for axis in over for f in first.layout.axes[axis]}
        same = builder.base(first) is not None
        return same and builder.base(first) is builder.base(args[1]) and (
            mixed == channels
        )
    if eqn.primitive.name not in _REDUCTIONS:
        return False
    axes = eqn.params.get("axes", (eqn.params.get("axis", eqn.params.get("dimension")),))
    return bool(channels & {f for axis in axes for f in first.layout.axes[axis]})


def with_statistics(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[Any]:
    """What is computed of means over channels is kept, until it is a normalisation."""
    statistics = [arg for arg in args if isinstance(arg, Statistic)]
    signals = [arg for arg in args if isinstance(arg, Signal)]
    for signal in signals:
        if builder.base(signal) is None:
            builder.node(signal)
    node = statistics[0].node if statistics else builder.base(signals[0])
    assert node is not None
    others = [arg for arg in args if isinstance(arg, Known | Parameter)]
    apart = any(one.node is not node for one in statistics) or any(
        builder.base(signal) is not node for signal in signals
    )
    parameters = [arg for arg in others if isinstance(arg, Parameter)]
    if apart or len(others) > len(parameters):
        raise _unknown(statistics)
    gains = tuple(gain for one in statistics for gain in one.gains)
    given = []
    for arg in args:
        if isinstance(arg, Parameter):
            if eqn.primitive.name != "mul":
                raise _unknown(statistics)
            initial = arg.factor * builder.parameters.gain(arg)
            gains = (*gains, (arg, initial))
            given.append(np.full(arg.shape, initial, np.float32))
        elif isinstance(arg, Statistic):
            given.append(arg.expression)
        else:
            given.append(builder.expression(arg) if isinstance(arg, Signal) else arg)
    return [
        _continued(builder, eqn, args, node, one, gains) for one in applied(eqn, given)
    ]


def _continued(
    builder: Builder,
    eqn: core.JaxprEqn,
    args: Sequence[Any],
    node: Node,
    expression: Applied,
    gains: tuple[tuple[Parameter, float], ...],
) -> Any:
    layouts = [
        arg.layout
        for arg in args
        if isinstance(arg, Signal | Statistic) and arg.layout is not None
    ]
    layout = next((one for one in layouts if one.shape == expression.shape), None)
    moved = tuple((_moved(eqn, gain, expression.shape), v) for gain, v in gains)
    statistic = Statistic(node, expression, layout, builder.line, moved)
    if eqn.primitive.name in ("mul", "div") and layout is not None:
        found = _normalised(builder, statistic, layout)
        return statistic if found is None else found
    return statistic


def _moved(
    eqn: core.JaxprEqn, gain: Parameter, shape: tuple[int, ...]
) -> Parameter:
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
        "`RMSNorm` or `GroupNorm`, nor of the network's input. A softmax over channels "
        "belongs to the loss; batch statistics have no kernel."
    )


def resolved(builder: Builder, statistic: Statistic) -> Signal:
    """A statistic where a signal is needed.

    **Raises:** `Unreadable`, for it would be a signal already.
    """
    raise _unknown([statistic])


def _normalised(
    builder: Builder, statistic: Statistic, layout: Layout
) -> Signal | None:
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
        found = _FOUND[key] = _recognised(expression, holes, layout, node.shape)
    if found is None:
        return None
    layer, factor = found
    made = builder.plain(layer, [node], node.shape)
    gain = math.prod(value for _, value in statistic.gains)
    if gain == 0:
        return None
    signal = Signal(layout, {made: factor / gain})
    for parameter, _ in statistic.gains:
        signal = with_gains(builder, signal, parameter)
    if len(signal.terms) == 1:
        ((last, c),) = signal.terms.items()
        if math.isclose(c, 1, rel_tol=1e-4):
            return Signal.of(last, layout)
    return signal


# Expressions that have been tried before, in this or another model.
_FOUND: dict[Any, tuple[nn.AbstractLayer, float] | None] = {}

# Inputs of these sizes tell the constant that is added to variances.
_SIZES = (1e3, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def _recognised(
    expression: Expression,
    holes: Mapping[Hole, Layout],
    layout: Layout,
    shape: tuple[int, ...],
) -> tuple[nn.AbstractLayer, float] | None:
    """The layer whose values an expression has on random inputs."""
    random = np.random.default_rng(0)
    x = random.normal(size=shape) * random.uniform(0.5, 2, size=shape) + 0.3
    values = []
    for size in _SIZES:
        given = {hole: shown_array(size * x, one) for hole, one in holes.items()}
        value = evaluated(expression, given, _in_double_precision)
        values.append(output_array(np.asarray(value, float), layout))
    for layer, expected in _candidates(x):
        ratio = values[0] / np.where(expected == 0, 1, expected)
        factor = float(np.median(ratio))
        if not np.allclose(values[0], factor * expected, rtol=2e-3, atol=2e-3):
            continue
        eps = _added_to_variance(values, expected, factor, x, layer, expression)
        if eps is None:
            continue
        nice = 1.0 if math.isclose(factor, 1, rel_tol=1e-4) else factor
        return _with_eps(layer, eps), nice
    return None


def _candidates(x: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    """Normalisations without a constant, and their values."""
    rank, channels = x.ndim - 1, x.shape[0]
    for count in range(rank + 1):
        for spatial in itertools.combinations(range(1, rank + 1), count):
            layer = nn.LayerNorm((0, *spatial))
            yield layer, (x - x.mean(layer.axes, keepdims=True)) / _deviation(layer, x)
    yield nn.RMSNorm(), x / _deviation(nn.RMSNorm(), x)
    for groups in range(2, channels + 1 if rank else channels):
        if channels % groups == 0:
            mean = x.reshape(groups, -1).mean(1).repeat(channels // groups)
            mean = mean.reshape(-1, *(1,) * rank)
            layer = nn.GroupNorm(groups)
            yield layer, (x - mean) / _deviation(layer, x)


def _in_double_precision(eqn: core.JaxprEqn, args: Sequence[Any]) -> Sequence[Any]:
    """An equation in NumPy, as far as that can be; else in JAX's own precision."""
    found = in_numpy(eqn, args)
    if found is not None:
        return found
    types = [atom.aval.dtype for atom in eqn.invars]  # pyright: ignore
    with jax.ensure_compile_time_eval():
        cast = [jnp.asarray(a, t) for a, t in zip(args, types, strict=True)]
        return [np.asarray(one) for one in bind(eqn, *cast)]


def _added_to_variance(
    values: np.ndarray,
    expected: np.ndarray,
    factor: float,
    x: np.ndarray,
    layer: Any,
    expression: Expression,
) -> float | None:
    """The constant that is added to variances; `None` if it is something else.

    The values are `expected` times the root of `v / (v + eps)`, for the variance `v`.
    """
    variance = _deviation(layer, x) ** 2
    sure = np.abs(expected) > 0.1
    eps = 0.0
    for size, value in zip(_SIZES[1:], values[1:], strict=True):
        share = (value[sure] / (factor * expected[sure])) ** 2
        v = size * size * variance[sure]
        if np.all(share < 0.9) and np.all(share > 0.02):
            found = v * (1 / share - 1)
            eps = float(np.median(found))
            if not np.allclose(found, eps, rtol=0.05):
                return None
            break
    near = [c for c in _constants(expression) if math.isclose(c, eps, rel_tol=0.05)]
    return min(near, key=lambda c: abs(c - eps)) if near else eps


def _deviation(layer: Any, x: np.ndarray) -> np.ndarray:
    """What a normalisation divides by, but for the constant."""
    if isinstance(layer, nn.RMSNorm):
        variance = (x * x).mean(0, keepdims=True)
    elif isinstance(layer, nn.GroupNorm):
        each = x.reshape(layer.groups, -1).var(1).repeat(x.shape[0] // layer.groups)
        variance = each.reshape(-1, *(1,) * (x.ndim - 1))
    else:
        variance = x.var(layer.axes, keepdims=True)
    return np.broadcast_to(np.sqrt(variance), x.shape)


def _with_eps(layer: Any, eps: float) -> nn.AbstractLayer:
    if isinstance(layer, nn.LayerNorm):
        return nn.LayerNorm(layer.axes, eps=eps)
    if isinstance(layer, nn.GroupNorm):
        return nn.GroupNorm(layer.groups, eps=eps)
    return nn.RMSNorm(eps=eps)


def _constants(expression: Any) -> list[float]:
    """The small numbers that an expression has, as they were written."""
    found: list[float] = []
    seen: set[int] = set()
    left = [expression]
    while left:
        node = left.pop()
        if isinstance(node, Expression):
            if id(node) not in seen and not isinstance(node, Hole):
                seen.add(id(node))
                left.extend(node.args)
            continue
        number = as_number(node)
        if number is not None and 0 < number < 1:
            found.append(float(f"{number:.6g}"))
    return found
