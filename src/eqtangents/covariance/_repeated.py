"""One layer many times over, compiled once."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from eqtangents._buffers import as_if_unknown, materialised
from eqtangents.covariance._block import Block, BlockRule, Evaluation, Lookup
from eqtangents.covariance._covariance import AbstractCovariance, Asks
from eqtangents.covariance._depths import (
    after_steps,
    facts_at_all_depths,
    facts_at_any_depth,
)
from eqtangents.covariance._frame import Frame, Scope
from eqtangents.covariance._gaps import deviations, tracks_gaps, with_gaps
from eqtangents.covariance._gathered import recanvassed
from eqtangents.covariance._order import first_to_last
from eqtangents.covariance._outline import Outline, new_source
from eqtangents.covariance._registry import Field, Find
from eqtangents.covariance._shared import store_shared
from eqtangents.covariance._table import Stored, tables_of
from eqtangents.duals._elementary import valued


# From the fields of one depth, which it is, and what it is handed to what it hands on.
_RunOfOneDepth: TypeAlias = Callable[[Evaluation, Any, Int[Array, ""], Any], Any]


class Slot(AbstractCovariance):
    """What goes into the repeated layer, at the depth that is being evaluated."""

    in_buffers = True

    def __init__(self, outline: Outline):
        """Stand for a covariance with these facts."""
        self.outline = outline

    def bind(self, frame: Frame) -> BlockRule:
        """The block carried through the loop, or the variance, which is known."""
        if frame.self_pairs and frame.canvas is None:
            variance = frame.scope.slot_variance
            assert variance is not None, "a slot is asked for in a scope of its depth"
            return lambda at: Block(variance, None)
        elsewhere = "a layer asks for other entries than its `asks` tells"
        assert frame == frame.scope.asked_in, elsewhere

        unpacked = _unpacking(frame, self)

        def rule(at: Evaluation) -> Block:
            assert at.carried is not None, "a repeated layer runs on a carried block"
            return unpacked(at, at.carried)

        return rule


class Repeated(AbstractCovariance):
    """A layer applied `n` times, each time with weights of its own.

    The variances run through all depths once, in a scan that stacks what each depth
    registered with its frame; each block then runs through all depths in a second scan,
    over that stack. A layer that asks for other displacements than the one it is asked
    for (it pools, say) is run with tables of all of them instead.
    """

    def __init__(
        self,
        upstream: AbstractCovariance,
        layer: Callable[[AbstractCovariance, Sequence[Array]], AbstractCovariance],
        n: int,
        *,
        stacked: Sequence[Float[Array, "n ..."]] = (),
        depth: Int[Array, ""] | None = None,
    ):
        """Repeat the rule of `layer`; it must keep sizes and channels.

        `stacked`: arrays with an entry for each depth, which `layer` is given besides.
        `depth`: how often it is applied, if not `n` times.
        """
        (marker,) = new_source()
        own = [array[0] for array in stacked]
        outline = upstream.outline.named(frozenset([marker]))
        outline = facts_at_all_depths(outline, layer(Slot(outline), own).outline, n)
        slot = Slot(outline)
        body = layer(slot, own)
        if slot.outline.canvas != body.outline.canvas:
            keep, upstream = layer, recanvassed(upstream)
            canvas, fixed = upstream.outline.canvas, upstream.outline.fixed_canvas
            slot = Slot(outline.replace(canvas=canvas, fixed_canvas=fixed))
            layer = lambda one, own: recanvassed(keep(one, own))
            body = layer(slot, own)
        self.above, self.layer, self.n = (upstream,), layer, n
        self.layers = n
        self.stacked, self.depth = stacked, depth
        self.slot, self.body = slot, body
        sources = body.outline.sources
        if marker in sources:
            sources = sources - {marker} | upstream.outline.sources
        self.outline = body.outline.named(sources)
        if depth is not None:
            self.outline = facts_at_any_depth(upstream.outline, self.outline)
        self.asks, self.asks_coinciding = map(self._asked_by_body, (False, True))

    def _asked_by_body(self, coinciding: bool) -> Asks:
        """What the layer asks for of its input."""
        alike = all(
            one.asks_where(coinciding=coinciding) == "alike"
            and (coinciding or all(stride == 1 for stride in one.stride))
            for one in first_to_last(self.body, lambda node: node.above)
        )
        return "alike" if alike else "everywhere"

    def bind(self, frame: Frame) -> BlockRule:
        """Bind every depth in one scan."""
        asks = self.asks_where(coinciding=frame.canvas is None)
        return self._streamed(frame) if asks == "alike" else self._tabulated(frame)

    def _last_variance(self, scope: Scope) -> Float[Array, "n *size"]:
        def step(variance: Float[Array, "..."], _: None) -> Float[Array, "..."]:
            return scope.fresh(variance).variance(self.body)

        start = scope.variance(self.upstream) + scope.zero
        return after_steps(step, start, None, self.n, self.depth)

    def _streamed(self, frame: Frame) -> BlockRule:
        """Carry one block, or the variances alone, through all depths."""
        if frame.self_pairs and frame.canvas is None:
            return frame.constant(Block(self._last_variance(frame.scope), None))
        upstream = frame.bind(self.upstream)
        packed, unpacked = _packing(frame, self.upstream), _unpacking(frame, self)
        run_one, fields = self._bound_at_all_depths(frame)
        zero, with_ntk = frame.scope.zero, self.slot.outline.trainable

        def rule(at: Evaluation) -> Block:
            @functools.partial(jax.checkpoint, prevent_cse=False)  # Keep blocks alone.
            def step(carried: Any, given: tuple[Any, Int[Array, ""]]) -> Any:
                return run_one(at, *given, carried)

            block = at(upstream)
            if frame.wants_ntk and with_ntk:
                block = block.with_ntk()
            carried = jax.tree.map(lambda leaf: leaf + zero, packed(at, block))
            at_depths = fields(at), jnp.arange(self.n, dtype=jnp.int32)
            last = after_steps(step, carried, at_depths, self.n, self.depth)
            return unpacked(at, last)

        return rule

    def _bound_at_all_depths(
        self, frame: Frame
    ) -> tuple[_RunOfOneDepth, Lookup[tuple[list[Any], list[Any]]]]:
        """Bind the layer, in a scan over the variances.

        The results are its run, from the fields of one depth and what it is handed to
        what it hands on, and the fields that it registered, fixed and moving, stacked
        over depths.
        """
        scope = frame.scope
        bound: list[_RunOfOneDepth] = []

        def step(
            variance: Float[Array, "..."], own: Sequence[Array]
        ) -> tuple[Float[Array, "..."], list[PyTree[Array]]]:
            inner = frame.nested(scope.fresh(variance))
            body = self.layer(self.slot, own) if self.stacked else self.body
            rule, pack = inner.bind_in_order(body), _packing(inner, body)
            registered, first = inner.registry.fields, inner.registry.first

            def run(
                at: Evaluation, given: Any, depth: Int[Array, ""], carried: Any
            ) -> Any:
                find = _at_depth(at, registered, given, depth)
                here = at.nested(find, carried, first)
                return pack(here, here(rule))

            # A scan traces its body once for all depths, so that rules can leave it.
            bound.append(run)
            return inner.scope.variance(body), [(f.fixed, f.moving) for f in registered]

        start = scope.variance(self.upstream) + scope.zero
        _, stacked = lax.scan(step, start, self.stacked, length=self.n)
        fixed, moving = ([pair[i] for pair in stacked] for i in (0, 1))
        number = frame.registry.add_field(fixed, moving, None)
        return bound[-1], lambda at: at.field(number)

    def _tabulated(self, frame: Frame) -> BlockRule:
        """Carry tables of all displacements through all depths."""
        scope, canvas = frame.scope, self.outline.canvas

        def carried(scope: Scope, node: AbstractCovariance) -> dict[bool, Block]:
            tables = tables_of(scope, node, canvas)
            if scope.wants_ntk and self.slot.outline.trainable:
                tables[False] = tables[False].with_ntk()
            return tables

        def step(tables: dict[bool, Block], own: Sequence[Array]) -> dict[bool, Block]:
            stored, inner = Stored(tables, self.slot.outline), scope.fresh()
            body = self.layer(stored, own)
            store_shared(inner, body)
            return carried(inner, body)

        def build() -> dict[bool, Block]:
            start = carried(scope, self.upstream)
            start = jax.tree.map(lambda leaf: leaf + scope.zero, start)
            return after_steps(step, start, self.stacked, self.n, self.depth)

        tables = scope.memo.once(self, "tables", build)
        return Stored(tables, self.outline).bind(frame)


def _at_depth(
    at: Evaluation,
    registered: Sequence[Field],
    given: tuple[list[Any], list[Any]],
    depth: Int[Array, ""],
) -> Find:
    """How fields of one depth are found.

    What is looked up in the arrays of all depths gets a buffer of its own: a loop over
    pairs that does it is not compiled to vectors.
    """
    fixed, moving = given

    def find(number: int, known: PyTree[Array]) -> tuple[Any, Any]:
        field = registered[number]._replace(fixed=fixed[number], moving=moving[number])
        both = lambda: (field.fixed, field.found(at.displacement))
        own, found = materialised(both, as_if_unknown(depth, known))
        return field._replace(fixed=own).ends(found, at.for_each)

    return find


class _Packed(NamedTuple):
    """A block as one depth hands it on: its covariance follows from the gap.

    To derivatives, the gap is the covariance but for its sign. Those of the deviations,
    which are added where the covariance was subtracted from them, would cancel.
    """

    gap: Float[Array, "*pairs"]
    ntk: Float[Array, "*pairs"] | None


def _packing(
    frame: Frame, node: AbstractCovariance
) -> Callable[[Evaluation, Block], Block | _Packed]:
    """How a block of a node is packed; registers the node's deviations."""
    if not tracks_gaps(frame, node):
        return lambda at, block: block
    complete, stds = with_gaps(frame, node), deviations(frame, node)

    def pack(at: Evaluation, block: Block) -> _Packed:
        left, right = stds(at)
        nngp, ntk, gap = complete(at, block)
        assert gap is not None
        size = lax.stop_gradient(left * right)
        return _Packed(valued(gap, size - nngp), ntk)

    return pack


def _unpacking(
    frame: Frame, node: AbstractCovariance
) -> Callable[[Evaluation, Any], Block]:
    """How a block of a node is unpacked; registers the node's deviations."""
    if not tracks_gaps(frame, node):
        return lambda at, block: block
    stds = deviations(frame, node)

    def unpack(at: Evaluation, packed: _Packed) -> Block:
        left, right = stds(at)
        nngp = lax.stop_gradient(left * right) - packed.gap
        return Block(nngp, packed.ntk, lax.stop_gradient(packed.gap))

    return unpack
