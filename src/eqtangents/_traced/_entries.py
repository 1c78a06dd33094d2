"""Rules of functions of each entry, and of sums and products of signals."""

import types
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from eqtangents import nn
from eqtangents._jaxpr import shape_of
from eqtangents._traced._builder import Builder, as_number
from eqtangents._traced._expressions import Computed, applied
from eqtangents._traced._layout import Layout, factors
from eqtangents._traced._trained import with_gains, with_offset
from eqtangents._traced._values import Known, Parameter, Signal, Traced, Unreadable


# Primitives that map each entry by itself, by name: what they are called is stable,
# where they are found is not.
ENTRYWISE = frozenset(
    "abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp "
    "convert_element_type copy copy_p cos cosh custom_jvp_call custom_vjp_call digamma "
    "div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma "
    "log log1p logistic lt max min mul ne neg nextafter not or polygamma pow "
    "reduce_precision rem round rsqrt select_n sign sin sinh sqrt square "
    "stop_gradient sub tan tanh xor".split()
)


def entrywise(builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """A function of each entry of signals, and of what is known."""
    name = eqn.primitive.name
    args = [_broadcast(arg, shape_of(eqn.outvars[0])) for arg in args]
    if (biased := _single_channel(builder, name, args)) is not None:
        return biased
    args = [_fixed(builder, arg) for arg in args]
    signals = [arg for arg in args if isinstance(arg, Signal)]
    if not signals:
        return _of_parameters(builder, eqn, args)
    linear = _linear(builder, name, args)
    if linear is not None:
        return [linear]
    bases = {builder.base(signal) for signal in signals}
    if None in bases:
        for signal in signals:
            builder.node(signal)
        bases = {builder.base(signal) for signal in signals}
    marks = {(s.layout.signature(), s.layout.shape) for s in signals}
    others = [arg for arg in args if not isinstance(arg, Signal)]
    if len(bases) == len(marks) == 1 and all(
        _as_value(builder, one) is not None for one in others
    ):
        (base,) = bases
        given = [
            builder.expression(arg) if isinstance(arg, Signal) else arg
            for arg in args
        ]
        (result,) = applied(eqn, given)
        terms = types.MappingProxyType({base: 1.0})
        return [Signal(signals[0].layout, terms, result)]
    return [_joined(builder, name, eqn, args)]


def _broadcast(value: Any, shape: tuple[int, ...]) -> Any:
    """A value of the shape of the result: axes of size one are repeated."""
    if np.shape(value) == shape if not isinstance(value, Traced) else (
        value.shape == shape
    ):
        return value
    if isinstance(value, Parameter):
        numbers = np.broadcast_to(value.numbers, shape)
        return Parameter(value.leaf, numbers, value.factor)
    if isinstance(value, Known):
        to_shape = lambda x: jnp.broadcast_to(x, shape)
        name = ("broadcast", *shape)
        return Known(Computed(to_shape, (value.expression,), shape, name))
    if isinstance(value, Signal):
        axes = [
            factors(n) if m == 1 else axis
            for axis, m, n in zip(value.layout.axes, value.shape, shape, strict=True)
        ]
        return Signal(
            value.layout.with_axes(axes), value.terms, value.expression
        )
    return value if np.ndim(value) == 0 else np.broadcast_to(np.asarray(value), shape)


def _as_value(builder: Builder, value: Any) -> Any:
    """A constant that is the same for all entries; `None` for anything else."""
    if isinstance(value, Known | Parameter | Signal):
        return None
    same = np.ndim(value) == 0 or as_number(value) is not None
    return value if same or any(value is one for one in builder.fixed) else None


def _fixed(builder: Builder, arg: Any) -> Any:
    """A parameter that is one number counts as fixed."""
    if not isinstance(arg, Parameter):
        return arg
    number = builder.parameters.number(arg)
    if number is None:
        return arg
    builder.fixed.append(number)
    return number


def _single_channel(
    builder: Builder, name: str, args: Sequence[Any]
) -> list[Any] | None:
    """The bias of an output that has one channel, which looks like any number."""
    signals = [arg for arg in args if isinstance(arg, Signal)]
    parameters = [arg for arg in args if isinstance(arg, Parameter)]
    if name not in ("add", "sub") or len(signals) != 1 or len(parameters) != 1:
        return None
    if signals[0].layout.channels or builder.parameters.number(parameters[0]) is None:
        return None
    return [_with_parameter(builder, name, args)]


def _of_parameters(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[Any]:
    """What is done to parameters before they meet a signal."""
    name = eqn.primitive.name
    first, *others = args
    if name in ("convert_element_type", "copy", "copy_p", "reduce_precision"):
        return [first]
    parameters = [arg for arg in args if isinstance(arg, Parameter)]
    if not parameters:
        return [Known(one) if _any_known(args) else one for one in applied(eqn, args)]
    if len(parameters) == 1 and not _any_known(args):
        (parameter,) = parameters
        factor = _factor(name, args)
        if factor is not None:
            scaled = factor * parameter.factor
            return [Parameter(parameter.leaf, parameter.numbers, scaled)]
    if len(parameters) == 1 and _any_known(args) and name in ("add", "sub", "mul"):
        return [_known_and_parameter(builder, name, args)]
    raise Unreadable(
        f"computes with parameters alone (`{name}`), so that weights are no longer "
        "drawn independently. Apply them to the data one after the other."
    )


def _any_known(args: Sequence[Any]) -> bool:
    return any(isinstance(arg, Known) for arg in args)


def _known_and_parameter(builder: Builder, name: str, args: Sequence[Any]) -> Signal:
    """A function of the input with gains or offsets: these show the channels."""
    known, parameter = (
        next(arg for arg in args if isinstance(arg, kind)) for kind in (Known, Parameter)
    )
    numbers = parameter.numbers
    varying = [
        axis
        for axis in range(numbers.ndim)
        if (numbers != np.take(numbers, [0], axis)).any()
    ]
    if len(varying) != 1:
        raise Unreadable(
            f"joins (`{name}`) parameters with the network's input, so that it cannot "
            "be told which axis the channels are. Put a layer with weights first."
        )
    (at,) = varying
    rest = [[axis] for axis in range(numbers.ndim) if axis != at]
    node = builder.of_input(known, [at], rest)
    layout = Layout.first(node.shape)
    axes = list(layout.positions)
    axes.insert(at, layout.channels)
    signal = Signal.of(node, layout.with_axes(axes))
    swapped = [signal if arg is known else arg for arg in args]
    return _with_parameter(builder, name, swapped)


def _factor(name: str, args: Sequence[Any]) -> float | None:
    """The number that an equation multiplies its one signal by, if it does."""
    numbers = [
        None if isinstance(arg, Signal | Parameter | Known) else as_number(arg)
        for arg in args
    ]
    if name == "neg":
        return -1.0
    if name == "mul":
        return next((n for n in numbers if n is not None), None)
    if name == "div" and numbers[0] is None and numbers[1]:
        return 1 / numbers[1]
    if name in ("convert_element_type", "copy", "copy_p", "reduce_precision"):
        return 1.0
    return None


def _linear(builder: Builder, name: str, args: Sequence[Any]) -> Signal | None:
    """Sums and multiples of signals that are still sums of outputs."""
    signals = [arg for arg in args if isinstance(arg, Signal)]
    if any(signal.expression is not None for signal in signals):
        return None
    if len(signals) == 1:
        (signal,) = signals
        if len(args) == 2 and name in ("add", "sub"):
            other = args[1] if args[0] is signal else args[0]
            if not isinstance(other, Known | Parameter) and as_number(other) == 0:
                minus = name == "sub" and args[1] is signal
                return _times(signal, -1.0 if minus else 1.0)
        factor = _factor(name, args)
        return None if factor is None else _times(signal, factor)
    if name in ("add", "sub", "add_any"):
        one, other = signals
        return _added(builder, one, _times(other, -1.0 if name == "sub" else 1.0))
    return None


def _times(signal: Signal, factor: float) -> Signal:
    terms = {node: factor * c for node, c in signal.terms.items()}
    return Signal(signal.layout, types.MappingProxyType(terms))


def _added(builder: Builder, one: Signal, other: Signal) -> Signal:
    one, other = builder.aligned(builder.settled(one), builder.settled(other))
    if not set(one.terms) & set(other.terms):
        one, other = _whole(builder, one), _whole(builder, other)
    terms = dict(one.terms)
    for node, c in other.terms.items():
        terms[node] = terms.get(node, 0.0) + c
    kept = {node: c for node, c in terms.items() if c} or {next(iter(terms)): 0.0}
    return Signal(one.layout, types.MappingProxyType(kept))


def _whole(builder: Builder, signal: Signal) -> Signal:
    """As one term, if its sum has been computed anyway."""
    base = builder.base(signal)
    if base is None or len(signal.terms) == 1:
        return signal
    return Signal.of(base, signal.layout)


def _joined(
    builder: Builder, name: str, eqn: core.JaxprEqn, args: Sequence[Any]
) -> Signal:
    """A function of several signals, or of a signal and something else."""
    if any(isinstance(arg, Parameter) for arg in args):
        return _with_parameter(builder, name, args)
    first = next(arg for arg in args if isinstance(arg, Signal))
    if name in ("add", "sub", "mul", "div") and len(args) == 2:
        one, other = (
            arg if isinstance(arg, Signal) else builder.like(arg, first.layout)
            for arg in args
        )
        if name == "add":
            return _added(builder, one, other)
        if name == "sub":
            return _added(builder, one, _times(builder.settled(other), -1.0))
        if name == "div":
            other = _reciprocal(builder, args[1], other, first.layout)
        return _product(builder, one, other)
    if name == "stop_gradient":
        raise Unreadable("stops gradients, which kernels of layers know nothing of.")
    raise Unreadable(
        f"applies `{name}` to several arrays, none of which is a function of the "
        "other. Sums and products of independent branches have kernels."
    )


def _reciprocal(builder: Builder, given: Any, other: Signal, layout: Layout) -> Signal:
    if not isinstance(given, Signal):
        inverse = lambda x: 1 / jnp.asarray(x)
        return builder.like(computed_of_input(given, inverse), layout)
    raise Unreadable("divides by another array that is random.")


def computed_of_input(given: Any, function: Any) -> Known:
    """A function of something that is known."""
    from_known = given.expression if isinstance(given, Known) else given
    name = ("computed", id(function))
    return Known(Computed(function, (from_known,), given.shape, name))


def _product(builder: Builder, one: Signal, other: Signal) -> Signal:
    one, other = builder.aligned(builder.settled(one), builder.settled(other))
    nodes = [builder.node(one), builder.node(other)]
    node = builder.plain(nn.FanInProd(), nodes, nodes[0].shape)
    return Signal.of(node, one.layout)


def _with_parameter(builder: Builder, name: str, args: Sequence[Any]) -> Signal:
    """Gains and offsets."""
    if len(args) != 2 or name not in ("add", "sub", "mul"):
        raise Unreadable(
            f"applies `{name}` to an array and to parameters. Parameters may be "
            "multiplied with arrays, as weights or gains, and added to them."
        )
    one, other = args
    signal, parameter = (one, other) if isinstance(one, Signal) else (other, one)
    if not isinstance(signal, Signal) or not isinstance(parameter, Parameter):
        raise Unreadable(f"applies `{name}` to several arrays of parameters.")
    if name == "mul":
        return with_gains(builder, builder.settled(signal), parameter)
    if name == "sub" and signal is other:
        signal = _times(builder.settled(signal), -1.0)
    elif name == "sub":
        parameter = Parameter(parameter.leaf, parameter.numbers, -parameter.factor)
    return with_offset(builder, builder.settled(signal), parameter)
