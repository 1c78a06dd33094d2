"""Rules of functions of each entry, and of sums and products of signals."""

import types
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from eqtangents._jaxpr import shape_of
from eqtangents._traced._builder import Builder
from eqtangents._traced._expressions import AppliedFunction, results_of
from eqtangents._traced._layout import Layout, axis_factors
from eqtangents._traced._numpy import result_values
from eqtangents._traced._of_input import as_factor, like, of_input
from eqtangents._traced._sums import (
    as_linear,
    computed_of_input,
    constant_factor,
    inverse,
    joined_extreme,
    joined_product,
    joined_sum,
    multiple_of,
)
from eqtangents._traced._trained import with_gains, with_offset
from eqtangents._traced._values import (
    InputFunction,
    Parameter,
    RandomValue,
    Unreadable,
    as_number,
)


def entrywise(builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """A function of each entry of signals, and of what is known."""
    name = eqn.primitive.name
    args = [_repeated_to(arg, shape_of(eqn.outvars[0])) for arg in args]
    if (biased := _single_channel(builder, name, args)) is not None:
        return biased
    args = [_fixed(builder, arg) for arg in args]
    signals = [arg for arg in args if isinstance(arg, RandomValue)]
    if not signals:
        return _of_parameters(builder, eqn, args)
    linear = as_linear(builder, name, args)
    if linear is not None:
        return [linear]
    bases = {builder.base(signal) for signal in signals}
    if None in bases:
        for signal in signals:
            builder.node(signal)
        bases = {builder.base(signal) for signal in signals}
    marks = {(s.layout.signature(), s.layout.shape) for s in signals}
    others = [arg for arg in args if not isinstance(arg, RandomValue)]
    if len(bases) == len(marks) == 1 and all(
        _as_value(builder, one) is not None for one in others
    ):
        (base,) = bases
        assert base is not None, "sums have become nodes"
        given = [
            builder.expression(arg) if isinstance(arg, RandomValue) else arg
            for arg in args
        ]
        (result,) = results_of(eqn, given)
        builder.remember_line(result)
        terms = types.MappingProxyType({base: 1.0})
        return [RandomValue(signals[0].layout, terms, result)]
    return [_joined(builder, name, eqn, args)]


def _repeated_to(value: Any, shape: tuple[int, ...]) -> Any:
    """A value of the shape of the result: axes of size one are repeated."""
    if getattr(value, "shape", ()) == shape:
        return value
    if isinstance(value, Parameter):
        numbers = np.broadcast_to(value.numbers, shape)
        return Parameter(value.leaf, numbers, value.factor)
    if isinstance(value, InputFunction):
        to_shape = lambda x: jnp.broadcast_to(x, shape)
        name = ("broadcast", *shape)
        return InputFunction(
            AppliedFunction(to_shape, (value.expression,), shape, name)
        )
    if isinstance(value, RandomValue):
        axes = [
            axis_factors(n) if m == 1 else axis
            for axis, m, n in zip(value.layout.axes, value.shape, shape, strict=True)
        ]
        return RandomValue(value.layout.with_axes(axes), value.terms, value.expression)
    constant: Any = value
    return constant if not np.ndim(constant) else np.broadcast_to(constant, shape)


def _as_value(builder: Builder, value: Any) -> Any:
    """A constant that is the same for all entries; `None` for anything else."""
    if isinstance(value, InputFunction | Parameter | RandomValue):
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
    signals = [arg for arg in args if isinstance(arg, RandomValue)]
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
    first = args[0]
    if name in ("convert_element_type", "copy", "copy_p", "reduce_precision"):
        return [first]
    parameters = [arg for arg in args if isinstance(arg, Parameter)]
    if not parameters and _any_known(args):
        return [InputFunction(one) for one in results_of(eqn, args)]
    if not parameters:
        fixed = result_values(eqn, args)
        builder.fixed.extend(fixed)
        return fixed
    if len(parameters) == 1 and not _any_known(args):
        (parameter,) = parameters
        factor = constant_factor(name, args)
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
    return any(isinstance(arg, InputFunction) for arg in args)


def _known_and_parameter(
    builder: Builder, name: str, args: Sequence[Any]
) -> RandomValue:
    """A function of the input with gains or offsets: these show the channels."""
    known = next(arg for arg in args if isinstance(arg, InputFunction))
    parameter = next(arg for arg in args if isinstance(arg, Parameter))
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
    node = of_input(builder, known, [at], rest)
    layout = Layout.first(node.shape)
    axes = list(layout.positions)
    axes.insert(at, layout.channels)
    signal = RandomValue.of(node, layout.with_axes(axes))
    swapped = [signal if arg is known else arg for arg in args]
    return _with_parameter(builder, name, swapped)


def _joined(
    builder: Builder, name: str, eqn: core.JaxprEqn, args: Sequence[Any]
) -> RandomValue:
    """A function of several signals, or of a signal and something else."""
    if any(isinstance(arg, Parameter) for arg in args):
        return _with_parameter(builder, name, args)
    first = next(arg for arg in args if isinstance(arg, RandomValue))
    if name == "select_n" and len(args) == 3 and not isinstance(args[0], RandomValue):
        return _one_of_two(builder, args)
    if name in ("add", "add_any", "sub", "mul", "div") and len(args) == 2:
        of_known = as_factor if name in ("mul", "div") else like
        one, other = (
            arg
            if isinstance(arg, RandomValue)
            else of_known(builder, arg, first.layout)
            for arg in args
        )
        if name in ("add", "add_any"):
            return joined_sum(builder, one, other)
        if name == "sub":
            return joined_sum(builder, one, multiple_of(builder.settled(other), -1.0))
        if name == "div":
            other = inverse(builder, args[1], other, first.layout)
        return joined_product(builder, one, other)
    if name in ("max", "min") and all(isinstance(arg, RandomValue) for arg in args):
        return joined_extreme(builder, name, *args)
    if name == "stop_gradient":
        raise Unreadable("stops gradients, which kernels of layers know nothing of.")
    raise Unreadable(
        f"applies `{name}` to several arrays, none of which is a function of the "
        "other. Sums and products of independent branches have kernels, so that a "
        "gate, `jax.nn.sigmoid(a) * b`, may choose, or take a function of one array, "
        "`jax.nn.relu(a)`."
    )


def _one_of_two(builder: Builder, args: Sequence[Any]) -> RandomValue:
    """One of two arrays at each entry, as is known: the sum of what is left of both."""
    which, *cases = args
    layout = next(arg.layout for arg in cases if isinstance(arg, RandomValue))
    parts = []
    for case, taken in zip(cases, (_is_first, _is_second), strict=True):
        if not isinstance(case, RandomValue):
            if as_number(case) == 0:
                continue
            case = like(builder, case, layout)
        factor = as_factor(builder, computed_of_input(which, taken), layout)
        parts.append(joined_product(builder, case, factor))
    return parts[0] if len(parts) == 1 else joined_sum(builder, *parts)


def _is_first(which: Any) -> Any:
    return 1.0 - _is_second(which)


def _is_second(which: Any) -> Any:
    return jnp.asarray(which, jnp.result_type(float))


def _with_parameter(builder: Builder, name: str, args: Sequence[Any]) -> RandomValue:
    """Gains and offsets."""
    if len(args) != 2 or name not in ("add", "sub", "mul"):
        raise Unreadable(
            f"applies `{name}` to an array and to parameters. Parameters may be "
            "multiplied with arrays, as weights or gains, and added to them."
        )
    one, other = args
    signal, parameter = (one, other) if isinstance(one, RandomValue) else (other, one)
    if not isinstance(signal, RandomValue) or not isinstance(parameter, Parameter):
        raise Unreadable(f"applies `{name}` to several arrays of parameters.")
    if name == "mul":
        return with_gains(builder, builder.settled(signal), parameter)
    if name == "sub" and signal is other:
        signal = multiple_of(builder.settled(signal), -1.0)
    elif name == "sub":
        parameter = Parameter(parameter.leaf, parameter.numbers, -parameter.factor)
    return with_offset(builder, builder.settled(signal), parameter)
