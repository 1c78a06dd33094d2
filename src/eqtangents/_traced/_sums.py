"""Sums, multiples and products of values."""

import types
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from eqtangents import nn
from eqtangents._traced._builder import Builder
from eqtangents._traced._expressions import AppliedFunction
from eqtangents._traced._layout import Layout
from eqtangents._traced._of_input import as_factor
from eqtangents._traced._picked import with_like_channels
from eqtangents._traced._values import (
    InputFunction,
    Parameter,
    RandomValue,
    Unreadable,
    as_number,
)


def constant_factor(name: str, args: Sequence[Any]) -> float | None:
    """The number that an equation multiplies its one signal by, if it does."""
    numbers = [
        None
        if isinstance(arg, RandomValue | Parameter | InputFunction)
        else as_number(arg)
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


def as_linear(builder: Builder, name: str, args: Sequence[Any]) -> RandomValue | None:
    """Sums and multiples of signals that are still sums of outputs."""
    signals = [arg for arg in args if isinstance(arg, RandomValue)]
    if any(signal.expression is not None for signal in signals):
        return None
    if len(signals) == 1:
        (signal,) = signals
        if len(args) == 2 and name in ("add", "sub"):
            other = args[1] if args[0] is signal else args[0]
            if (
                not isinstance(other, InputFunction | Parameter)
                and as_number(other) == 0
            ):
                minus = name == "sub" and args[1] is signal
                return multiple_of(signal, -1.0 if minus else 1.0)
        factor = constant_factor(name, args)
        return None if factor is None else multiple_of(signal, factor)
    if name in ("add", "sub", "add_any"):
        one, other = signals
        return joined_sum(
            builder, one, multiple_of(other, -1.0 if name == "sub" else 1.0)
        )
    return None


def multiple_of(signal: RandomValue, factor: float) -> RandomValue:
    terms = {node: factor * c for node, c in signal.terms.items()}
    return RandomValue(signal.layout, types.MappingProxyType(terms))


def joined_sum(builder: Builder, one: RandomValue, other: RandomValue) -> RandomValue:
    one, other = _laid_out_alike(builder, one, other)
    if not set(one.terms) & set(other.terms):
        one, other = _as_one_term(builder, one), _as_one_term(builder, other)
    terms = dict(one.terms)
    for node, c in other.terms.items():
        terms[node] = terms.get(node, 0.0) + c
    kept = {node: c for node, c in terms.items() if c} or {next(iter(terms)): 0.0}
    builder.remember_line(kept)
    return RandomValue(one.layout, types.MappingProxyType(kept))


def _laid_out_alike(
    builder: Builder, one: RandomValue, other: RandomValue
) -> tuple[RandomValue, RandomValue]:
    pair = builder.settled(one), builder.settled(other)
    return builder.aligned(*with_like_channels(builder, *pair))


def _as_one_term(builder: Builder, signal: RandomValue) -> RandomValue:
    """As one term, if its sum has been computed anyway."""
    found = builder.multiple_of_node(signal)
    if found is None or len(signal.terms) == 1:
        return signal
    return RandomValue(signal.layout, types.MappingProxyType(dict([found])))


def inverse(
    builder: Builder, given: Any, other: RandomValue, layout: Layout
) -> RandomValue:
    if not isinstance(given, RandomValue):
        inverse = lambda x: 1 / jnp.asarray(x)
        return as_factor(builder, computed_of_input(given, inverse), layout)
    raise Unreadable("divides by another array that is random.")


def computed_of_input(given: Any, function: Any) -> InputFunction:
    """A function of something that is known."""
    from_known = given.expression if isinstance(given, InputFunction) else given
    name = ("each", getattr(function, "__qualname__", ""))
    return InputFunction(AppliedFunction(function, (from_known,), given.shape, name))


def joined_product(
    builder: Builder, one: RandomValue, other: RandomValue
) -> RandomValue:
    return _joined_by(builder, nn.FanInProd(), one, other)


def joined_extreme(
    builder: Builder, name: str, one: RandomValue, other: RandomValue
) -> RandomValue:
    """The larger of two signals for `"max"`, the smaller for `"min"`."""
    layer = nn.FanInMax() if name == "max" else nn.FanInMin()
    return _joined_by(builder, layer, one, other)


def _joined_by(
    builder: Builder, layer: nn.AbstractLayer, one: RandomValue, other: RandomValue
) -> RandomValue:
    one, other = _laid_out_alike(builder, one, other)
    nodes = [builder.node(one), builder.node(other)]
    shape = max((one.shape for one in nodes), key=lambda shape: shape[0])
    node = builder.plain(layer, nodes, shape)
    return RandomValue.of(node, one.layout)
