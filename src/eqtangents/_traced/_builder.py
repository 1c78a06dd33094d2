"""The network that is being built while a program is read."""

import contextlib
import math
import types
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from eqtangents import nn
from eqtangents._traced._activations import activation
from eqtangents._traced._expressions import (
    Expression,
    Hole,
    fingerprint,
    multiple,
    of_multiple,
)
from eqtangents._traced._layout import (
    AxisFactors,
    Layout,
    matched,
    size_of_factors,
)
from eqtangents._traced._maps import with_merged_maps
from eqtangents._traced._parameters import Parameters
from eqtangents._traced._repeats import Repeats, all_told_by
from eqtangents._traced._values import (
    Node,
    Parameter,
    RandomValue,
    Unreadable,
    shares_of,
    sum_key,
)


class Builder:
    """Makes nodes, each once, and knows which arrays show which of them."""

    def __init__(
        self,
        inputs: Sequence[Hole],
        parameters: Parameters,
        known: Mapping[Any, nn.AbstractLayer],
    ):
        """Begin with the inputs.

        `known`: layers of functions of each entry, by their fingerprints.
        """
        self._known = known
        # Parameters that count as fixed: one number each, though it may be traced.
        self.fixed: list[Any] = []
        self.inputs = {hole: Node(None, (), hole.shape, "") for hole in inputs}
        self.parameters, self.line = parameters, ""
        self.nodes: list[Node] = []
        self._made: dict[Hashable, Any] = {}
        self._lines: dict[Hashable, str] = {}
        self._repeats = Repeats()
        # What holes of expressions stand for: an array that shows a node.
        self.shown: dict[Hole, tuple[Node, Layout]] = {}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returns, the first time."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def add(
        self,
        layer: nn.AbstractLayer,
        reads: Sequence[Node],
        shape: Sequence[int],
        holds: Sequence[Parameter] = (),
        apart: Sequence[Node] = (),
    ) -> Node:
        """A new node; one for all places that apply the same parameters to the same."""
        node = Node(
            layer, tuple(reads), tuple(shape), self.line, tuple(holds), tuple(apart)
        )
        if holds and (other := self._repeats.earlier(node)) is not node:
            return other
        self.nodes.append(node)
        return node

    def plain(
        self,
        layer: nn.AbstractLayer,
        reads: Sequence[Node],
        shape: Sequence[int],
        key: Hashable = None,
    ) -> Node:
        """A node without parameters, of which one serves all."""
        facts = (type(layer), key or all_told_by(layer), tuple(reads))
        return self.once(facts, lambda: self.add(layer, reads, shape))

    # What is kept open until it is needed

    def hole(self, node: Node, layout: Layout) -> Hole:
        """What stands for an array that shows a node."""

        def make() -> Hole:
            hole = Hole(layout.shape)
            self.shown[hole] = (node, layout)
            return hole

        return self.once(("hole", node, layout.signature()), make)

    def base(self, signal: RandomValue) -> Node | None:
        """The one node that a signal is a function of, if it is known by now."""
        found = self.multiple_of_node(signal)
        return None if found is None else found[0]

    def multiple_of_node(self, signal: RandomValue) -> tuple[Node, float] | None:
        """The one node that the terms of a signal are a multiple of, and that."""
        if len(signal.terms) == 1:
            return next(iter(signal.terms.items()))
        key, size = shares_of(signal.terms)
        if key not in self._made:
            return None
        node, size_of_node = self._made[key]
        return node, size / size_of_node

    def expression(self, signal: RandomValue) -> Expression:
        """A signal as a function of one node."""
        if signal.expression is not None:
            return signal.expression
        if self.base(signal) is None:
            self.node(signal)
        found = self.multiple_of_node(signal)
        assert found is not None, "its node has been made"
        node, factor = found
        hole = self.hole(node, signal.layout)
        if factor == 1:
            return hole
        return multiple(hole, factor)

    def node(self, signal: RandomValue) -> Node:
        """The node whose output a signal is."""
        if signal.expression is not None:
            (base,) = signal.terms
            key = ("activation", base, fingerprint(signal.expression))
            with self.at_line(self._lines.get(signal.expression)):
                return self.once(key, lambda: self._activation(base, signal.expression))
        key = sum_key(signal.terms)
        with self.at_line(self._lines.get(key)):
            if len(signal.terms) > 1:
                shares, size = shares_of(signal.terms)
                self.once(shares, lambda: (self._sum_of(signal.terms), size))
            found = self.multiple_of_node(signal)
            assert found is not None, "there is one term, or the node of the sum"
            return self._scaled(*found)

    def _sum_of(self, terms: Mapping[Node, float]) -> Node:
        scaled = [
            self._scaled(node, c) for node, c in with_merged_maps(self, terms).items()
        ]
        if len(scaled) == 1:
            return scaled[0]
        return self.add(nn.FanInSum(), scaled, scaled[0].shape)

    def remember_line(self, open_still: Mapping[Node, float] | Expression) -> None:
        """Where something is written that becomes a layer only when it is needed."""
        known = isinstance(open_still, Expression)
        self._lines[open_still if known else sum_key(open_still)] = self.line

    @contextlib.contextmanager
    def at_line(self, line: str | None) -> Iterator[None]:
        before, self.line = self.line, line or self.line
        try:
            yield
        finally:
            self.line = before

    def _activation(self, base: Node, expression: Any) -> Node:
        if isinstance(base.layer, nn.FanInConcat) and base.layer.axis == 0:
            # Side by side they are not alike, and each is a function of its own.
            parts = [self._activation(one, expression) for one in base.reads]
            return self.plain(nn.FanInConcat(0), parts, base.shape)
        mark = fingerprint(expression)
        if mark not in self._known and (found := of_multiple(expression)):
            # A function of a multiple: the layer of the function may be known.
            factor, expression = found
            return self._activation(self._scaled(base, factor), expression)
        layer = activation(expression, self._known)
        return self.plain(layer, [base], base.shape)

    def _scaled(self, node: Node, factor: float) -> Node:
        if factor == 1:
            return node
        positions = math.prod(node.reads[0].shape[1:]) if node.reads else 0
        if isinstance(node.layer, nn.GlobalSumPool):
            if math.isclose(factor * positions, 1, rel_tol=1e-6):
                return self.plain(nn.GlobalAvgPool(), node.reads, node.shape)
        if isinstance(node.layer, nn.SumPool):
            pool, rank = node.layer, len(node.shape) - 1
            kernel: Any = pool.kernel_size
            kernel = (kernel,) * rank if isinstance(kernel, int) else kernel
            if math.isclose(factor * math.prod(kernel), 1, rel_tol=1e-6):
                mean = nn.AvgPool(pool.kernel_size, pool.stride, pool.padding)
                return self.plain(mean, node.reads, node.shape)
        return self.plain(nn.Scale(factor), [node], node.shape)

    def settled(self, signal: RandomValue) -> RandomValue:
        """The signal without an expression: as the output of a node.

        A share of a sum over positions becomes their mean.
        """
        last = next(iter(signal.terms)).layer if len(signal.terms) == 1 else None
        if signal.expression is None and not isinstance(
            last, nn.SumPool | nn.GlobalSumPool
        ):
            return signal
        return RandomValue.of(self.node(signal), signal.layout)

    # Arrangements of positions

    def arranged(
        self, node: Node, layout: Layout, positions: Sequence[AxisFactors]
    ) -> Node:
        """The node with other axes of positions, made of the same factors.

        AxisFactors that its output has not are repetitions.
        """
        positions = tuple(positions)
        if layout.positions == positions:
            return node
        own = layout.spatial
        wanted = [f for axis in positions for f in axis]
        if positions == tuple(axis for axis in layout.positions if axis):
            index = tuple(slice(None) if axis else 0 for axis in layout.positions)
            size = tuple(map(size_of_factors, positions))
            return self.plain(nn.Index(index), [node], (node.shape[0], *size))
        if not set(own) <= set(wanted):
            raise Unreadable("loses positions that it should keep.")
        further = tuple(f for f in wanted if f not in set(own))
        every = (*own, *further)
        size = tuple(map(size_of_factors, positions))
        layer = nn.Rearrange(
            tuple(f.size for f in own),
            tuple(every.index(f) for f in wanted),
            size,
            repeats=tuple(f.size for f in further),
        )
        return self.plain(layer, [node], (node.shape[0], *size))

    def rearranged(
        self, signal: RandomValue, positions: Sequence[AxisFactors]
    ) -> RandomValue:
        """The same array, as the output of nodes with these axes of positions."""
        layout = signal.layout
        if layout.positions == tuple(positions):
            return signal
        signal = self.settled(signal)
        terms = {
            self.arranged(node, layout, positions): c
            for node, c in signal.terms.items()
        }
        changed = Layout(layout.channels, tuple(positions), layout.axes)
        return RandomValue(changed, types.MappingProxyType(terms))

    def aligned(
        self, one: RandomValue, other: RandomValue
    ) -> tuple[RandomValue, RandomValue]:
        """Two signals of one shape, as the outputs of nodes that are laid out alike."""
        if one.layout.signature() == other.layout.signature():
            if one.layout.shape == other.layout.shape:
                positions = lambda s: [size_of_factors(p) for p in s.layout.positions]
                if positions(one) == positions(other):
                    return one, other
        pair = matched(one.layout, other.layout)
        if pair is None:
            raise Unreadable("joins arrays whose axes are merged in different ways.")
        first, second = pair
        names = {
            b: a
            for of_one, of_other in zip(first.axes, second.axes, strict=True)
            for a, b in zip(of_one, of_other, strict=True)
        }
        back = {a: b for b, a in names.items()}
        if tuple(names.get(b) for b in second.channels) != first.channels:
            raise Unreadable(
                "joins arrays whose channels stand along different axes, or one that "
                "has a single channel with one that has several."
            )
        there = {names[f] for f in second.spatial}
        more = tuple((f,) for f in first.repeated if f in there)
        positions = (*first.positions, *more)
        one = RandomValue(first, one.terms, one.expression)
        one = self.rearranged(one, positions)
        theirs = tuple(tuple(back[f] for f in axis) for axis in positions)
        other = RandomValue(second, other.terms, other.expression)
        other = self.rearranged(other, theirs)
        if other.layout.positions != theirs:
            raise AssertionError("positions are arranged as asked for")
        return one, RandomValue(one.layout, other.terms, other.expression)
