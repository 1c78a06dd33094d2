"""From the nodes that were built to a network."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from eqtangents import nn
from eqtangents._traced._builder import Builder
from eqtangents._traced._channel_axes import channels_apart
from eqtangents._traced._layout import Layout
from eqtangents._traced._of_input import of_input
from eqtangents._traced._parameters import overlap
from eqtangents._traced._values import (
    Node,
    Parameter,
    RandomValue,
    Scores,
    Statistic,
    Unreadable,
    refusal,
)


def output_node(builder: Builder, value: Any) -> Node:
    """The node whose output is the array that a model returns."""
    if isinstance(value, Statistic):
        value = value.as_signal()
    if isinstance(value, Parameter | Scores):
        raise Unreadable(
            "is returned as the output, but is no function of the input that a "
            "network of layers has."
        )
    if not isinstance(value, RandomValue):
        rank = len(value.shape)
        if not rank:
            raise Unreadable("returns a number that no weights have a part in.")
        return of_input(builder, value, [0], [[axis] for axis in range(1, rank)])
    signal = builder.settled(value)
    layout = signal.layout
    holders = [i for i, axis in enumerate(layout.axes) if {*axis} & {*layout.channels}]
    if len(holders) > 1 and not layout.repeated:
        own = [i for i in holders if {*layout.axes[i]} <= {*layout.channels}]
        if len(own) == 1:
            apart = [f for f in layout.channels if f not in layout.axes[own[0]]]
            return output_node(builder, channels_apart(builder, signal, apart))
    if len(holders) > 1 or (layout.repeated and len(holders) != 1):
        raise Unreadable("returns an array whose channels stand along several axes.")
    at = holders[0] if holders else None
    if at is not None and layout.axes[at] != layout.channels:
        return _positions_merged(builder, signal, at)
    if at is None and layout.axes and not layout.channels:
        at = _free_axis(layout)
    rest = [axis for i, axis in enumerate(layout.axes) if i != at]
    signal = builder.rearranged(signal, rest)
    node = builder.node(signal)
    if at == 0:
        return node
    return builder.plain(nn.MoveChannels(at), [node], node.shape)


def _free_axis(layout: Layout) -> int | None:
    """The axis that a single channel stands along, among those of size one."""
    free = [i for i, axis in enumerate(layout.axes) if not axis]
    return free[0] if free else None


def _positions_merged(builder: Builder, signal: RandomValue, at: int) -> Node:
    """The output of a network that ends with positions among its channels."""
    layout = signal.layout
    if len(layout.axes) > 1 or layout.axes[at] != (*layout.channels, *layout.spatial):
        raise Unreadable(
            "returns an array with positions among its channels, other than all of "
            "them after the channels, as `jnp.ravel` has them."
        )
    node = builder.node(signal)
    size = int(np.prod(node.shape))
    return builder.plain(nn.Flatten(), [node], (size,))


def wired(builder: Builder, outputs: Sequence[Node], model: Any) -> nn.AbstractLayer:
    """The network that ends in some nodes."""
    last = list(outputs)
    if len(last) > 1:
        last = [builder.add(nn.Identity(), last, ())]
    (end,) = last
    read = _needed_by(end)
    for node in read:
        if node.apart and node.apart[0] in read:
            # A layer is read with these parameters and without them.
            node.layer, node.reads, node.holds = nn.FanInSum(), node.apart, ()
    live = _needed_by(end)
    _check_uses(builder, live, model)
    inputs = list(builder.inputs.values())
    ordered = [node for node in live if node.layer is not None]
    numbers = {node: i for i, node in enumerate([*inputs, *ordered])}
    if not ordered:
        return nn.Identity()
    return nn.Wiring(
        [node.layer for node in ordered if node.layer is not None],
        [[numbers[one] for one in node.reads] for node in ordered],
        inputs=len(inputs),
        lines=[node.line for node in ordered],
    )


def _needed_by(end: Node) -> dict[Node, None]:
    """The nodes that a node depends on, itself last; each after all that it reads."""
    order: dict[Node, None] = {}
    stack = [(end, False)]
    while stack:
        node, ready = stack.pop()
        if node in order:
            continue
        if ready:
            order[node] = None
            continue
        stack.append((node, True))
        stack.extend((one, False) for one in reversed(node.reads))
    return order


def _check_uses(builder: Builder, live: Iterable[Node], model: Any) -> None:
    """Raise if an entry of the parameters is used in two places."""
    uses: dict[int, list[tuple[Parameter, Node]]] = {}
    for node in live:
        for held in node.holds:
            leaf = builder.parameters.leaves[held.leaf]
            for other, place in uses.setdefault(held.leaf, []):
                if overlap(other.numbers, held.numbers, leaf.array.size):
                    raise refusal(
                        model,
                        f"uses `{leaf.name}` {_both_uses(place, node)}, but kernels "
                        "take the weights of all layers to be independent. Give each "
                        "use parameters of its own. One layer of several arrays, or at "
                        "all positions, is `jax.vmap(layer)(jnp.stack(arrays))`; in a "
                        "loop in which each step reads the last, over time or depth, "
                        "it is an `nn.Recurrent`: written as a `jax.lax.scan` from a "
                        "state of zeros, steps `h = jnp.tanh(W @ h + U @ x + b)` are "
                        "read as one, with any function in the place of `tanh`. Steps "
                        "of another form, `h + field(h)`, need layers of their own, "
                        "stacked, that the `jax.lax.scan` is over.",
                        node.line,
                    )
            uses[held.leaf].append((held, node))


def _both_uses(one: Node, other: Node) -> str:
    if one.line == other.line:
        return "more than once there"
    return f"in two places, {one.line or 'one'} and {other.line or 'another'}"
