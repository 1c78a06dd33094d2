"""Signals times known arrays, summed: maps of positions, and products of channels."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from eqtangents import nn
from eqtangents._traced._builder import Builder
from eqtangents._traced._expressions import AppliedFunction
from eqtangents._traced._layout import Layout, axis_factors
from eqtangents._traced._of_input import like, of_input
from eqtangents._traced._reductions import sum_over
from eqtangents._traced._sums import joined_product
from eqtangents._traced._values import InputFunction, Node, RandomValue, Unreadable


def times_known(
    builder: Builder, args: Sequence[Any], contracted: Any, batched: Any
) -> RandomValue:
    """A signal times a constant, summed over positions."""
    at = 0 if isinstance(args[0], RandomValue) else 1
    signal, other = builder.settled(args[at]), args[1 - at]
    free = [a for a in range(len(other.shape)) if a not in contracted[1 - at]]
    summed = {f for axis in contracted[at] for f in signal.layout.axes[axis]}
    if not free and summed >= set(signal.layout.channels):
        return _times_known_channels(builder, signal, other, contracted, at)
    if isinstance(other, InputFunction):
        if batched[0]:
            raise Unreadable("multiplies by other numbers of the input at each place.")
        return _times_input(builder, signal, other, contracted, at)
    constant = np.asarray(other)
    over, numbers_over = (tuple(map(int, contracted[i])) for i in (at, 1 - at))
    if batched[0]:
        raise Unreadable("multiplies by other constants at each place.")
    free = [a for a in range(constant.ndim) if a not in numbers_over]
    matrix = constant.transpose(*numbers_over, *free)
    return by_matrix(builder, signal, over, matrix, at)


def _times_known_channels(
    builder: Builder, signal: RandomValue, known: Any, contracted: Any, at: int
) -> RandomValue:
    """Channels times known numbers, summed: weights that depend on the input."""
    over, numbers_over = contracted[at], contracted[1 - at]
    sizes = [1] * len(signal.shape)
    for axis, n in zip(over, numbers_over, strict=True):
        sizes[axis] = known.shape[n]
    spread = lambda x: jnp.broadcast_to(
        jnp.asarray(x).transpose(numbers_over).reshape(sizes), signal.shape
    )
    expression = known.expression if isinstance(known, InputFunction) else known
    name = ("spread", *numbers_over, *sizes, *signal.shape)
    whole = InputFunction(AppliedFunction(spread, (expression,), signal.shape, name))
    product = joined_product(builder, signal, like(builder, whole, signal.layout))
    return sum_over(builder, product, over)


def by_matrix(
    builder: Builder, signal: RandomValue, over: Sequence[int], matrix: Any, at: int
) -> RandomValue:
    """Positions mapped by a constant array, whose first axes are summed over.

    Its other axes stand before those of the signal if `at` is 1, else behind.
    """
    layout = signal.layout
    summed = tuple(layout.axes[axis] for axis in over)
    if {f for axis in summed for f in axis} & set(layout.channels):
        raise Unreadable(
            "multiplies channels by constants, which are no weights. Give them as "
            "parameters, or apply them to the input."
        )
    kept = [
        group
        for group in layout.positions
        if not set(group) & {f for axis in summed for f in axis}
    ]
    signal = builder.rearranged(signal, [*summed, *kept])
    node = builder.node(signal)
    count = len(summed)
    new = [axis_factors(n) for n in matrix.shape[count:]]
    size = (*matrix.shape[count:], *node.shape[1 + count :])
    numbers = ((tuple(range(count)), tuple(range(count))), ((), ()))
    layer = nn.DotGeneral(lhs=np.asarray(matrix, float), dimension_numbers=numbers)
    key = ("matrix", matrix.shape, np.asarray(matrix).tobytes(), count)
    made = builder.plain(layer, [node], (node.shape[0], *size), key)
    rest = [axis for i, axis in enumerate(layout.axes) if i not in over]
    axes = [*new, *rest] if at == 1 else [*rest, *new]
    return RandomValue.of(made, Layout(layout.channels, (*new, *kept), tuple(axes)))


def _times_input(
    builder: Builder,
    signal: RandomValue,
    known: InputFunction,
    contracted: Any,
    at: int,
) -> RandomValue:
    """Positions mapped by a matrix that is an input, as an adjacency is."""
    (over,), (numbers_over,) = contracted[at], contracted[1 - at]
    return by_input(builder, signal, known, over, numbers_over, at)


def by_input(
    builder: Builder,
    signal: RandomValue,
    known: InputFunction,
    over: int,
    numbers_over: int,
    at: int,
) -> RandomValue:
    """Positions mapped by a matrix that is an input, whose axis is summed over.

    Its other axis stands before those of the signal if `at` is 1, else behind.
    """
    layout = signal.layout
    free = [a for a in range(len(known.shape)) if a != numbers_over]
    summed = layout.axes[over]
    if len(free) != 1 or set(summed) & set(layout.channels):
        raise Unreadable(
            "multiplies by an input other than as a matrix that maps positions."
        )
    kept = [group for group in layout.positions if not set(group) & set(summed)]
    signal = builder.rearranged(signal, [summed, *kept])
    node = builder.node(signal)
    matrix = _matrix_node(builder, known, free[0], numbers_over)
    new = axis_factors(known.shape[free[0]])
    size = (known.shape[free[0]], *node.shape[2:])
    made = builder.plain(nn.Mix(), [matrix, node], (node.shape[0], *size))
    rest = [axis for i, axis in enumerate(layout.axes) if i != over]
    axes = [new, *rest] if at == 1 else [*rest, new]
    return RandomValue.of(made, Layout(layout.channels, (new, *kept), tuple(axes)))


def _matrix_node(builder: Builder, known: InputFunction, row: int, column: int) -> Node:
    return of_input(builder, known, [], [[row], [column]])
