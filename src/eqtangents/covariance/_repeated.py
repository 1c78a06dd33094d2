"""One layer many times over, compiled once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from eqtangents.covariance._covariance import (
    AbstractCovariance,
    Outline,
    new_source,
    tabulate,
)
from eqtangents.covariance._frame import (
    Block,
    BlockRule,
    Evaluation,
    Frame,
    Scope,
    Values,
)
from eqtangents.covariance._gathered import (
    Gathered,
    at_displacement,
    stored_rule,
)
from eqtangents.covariance._pooled import fixed_rule
from eqtangents.duals._elementary import valued


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
        layer: Callable[[AbstractCovariance], AbstractCovariance],
        n: int,
    ):
        """Repeat the rule of `layer`; it must keep sizes and channels."""
        (marker,) = new_source()
        slot = Slot(upstream.outline.replace(sources=frozenset([marker])))
        body = layer(slot)
        for name in ("size", "channels"):
            before, after = (getattr(c.outline, name) for c in (slot, body))
            if before != after:
                raise ShapeChange(
                    f"its layer must keep the {name}, so that it can follow itself, "
                    f"but turns {before} into {after}. Change the layer, or put one "
                    "that makes the change before the `Repeat`."
                )
        # What comes in is what comes out, from the second time on.
        after = body.outline
        if after.mask is not slot.outline.mask:
            raise ShapeChange(
                "its layer must keep which positions are masked, but moves them. "
                "Repeat only layers whose windows keep the size of their input."
            )
        slot = Slot(
            slot.outline.replace(
                gaussian=slot.outline.gaussian and (n == 1 or after.gaussian),
                centred=slot.outline.centred and (n == 1 or after.centred),
                trainable=slot.outline.trainable or after.trainable,
                vanishing=slot.outline.vanishing or (n > 1 and after.vanishing),
                diagonal=slot.outline.diagonal and after.diagonal,
                fixed_canvas=after.fixed_canvas,
            )
        )
        body = layer(slot)
        if slot.outline.canvas != body.outline.canvas:
            keep, upstream = layer, Gathered(upstream)
            slot = Slot(
                slot.outline.replace(
                    canvas=upstream.outline.canvas,
                    fixed_canvas=upstream.outline.fixed_canvas,
                )
            )
            layer = lambda one: Gathered(keep(one))
            body = layer(slot)
        sources = body.outline.sources
        if marker in sources:
            sources = sources - {marker} | upstream.outline.sources
        self.upstream, self.layer, self.n = upstream, layer, n
        self.slot, self.body = slot, body
        self.outline = body.outline.replace(sources=sources)

    def bind(self, frame: Frame) -> BlockRule:
        """Bind every depth in one scan."""
        try:
            return self._streamed(frame)
        except _AskedElsewhere:
            return self._tabulated(frame)

    def _streamed(self, frame: Frame) -> BlockRule:
        scope = frame.scope
        if frame.same and frame.canvas is None:

            def variance_step(
                variance: Float[Array, "..."], _: None
            ) -> tuple[Float[Array, "..."], None]:
                return scope.nested(self.slot, variance).variance(self.body), None

            start = scope.variance(self.upstream) + scope.zero
            last, _ = lax.scan(variance_step, start, None, length=self.n)
            return fixed_rule(frame, Block(last, None))

        upstream = frame.bind(self.upstream)
        packed, unpacked = _packing(frame, self.upstream), _unpacking(frame, self)
        bound: list[tuple[Callable[[Evaluation], Any], list[Any]]] = []

        def bind_step(
            variance: Float[Array, "..."], _: None
        ) -> tuple[Float[Array, "..."], list[PyTree[Array]]]:
            inner = frame.nested(scope.nested(self.slot, variance))
            rule, pack = inner.bind(self.body), _packing(inner, self.body)
            fields = inner.registry.fields
            bound.append(
                (lambda at: pack(at, at(rule)), [field.look for field in fields])
            )
            arrays = [(field.fixed, field.moving) for field in fields]
            return inner.scope.variance(self.body), arrays

        start = scope.variance(self.upstream) + scope.zero
        _, stacked = lax.scan(bind_step, start, None, length=self.n)
        inner_rule, looks = bound[-1]

        def look_at_all_depths(moving: list[PyTree[Array]], d: Any) -> list[Any]:
            return [
                jax.vmap(lambda m, look=look: look(m, d))(m)
                if jax.tree.leaves(m)
                else m
                for look, m in zip(looks, moving, strict=True)
            ]

        fixed, moving = ([pair[i] for pair in stacked] for i in (0, 1))
        handle = frame.registry.add_field(fixed, moving, look_at_all_depths)

        def rule(at: Evaluation) -> Block:
            def step(carried: Any, fields: Any) -> tuple[Any, None]:
                values = Values(list(zip(*fields, strict=True)), at.masks)
                return inner_rule(Evaluation(values, carried)), None

            block = at(upstream)
            if frame.wants_ntk and self.slot.outline.trainable:
                block = block.with_ntk()
            carried = jax.tree.map(lambda leaf: leaf + scope.zero, packed(at, block))
            last, _ = lax.scan(step, carried, at.fields[handle], length=self.n)
            return unpacked(at, last)

        return rule

    def _tabulated(self, frame: Frame) -> BlockRule:
        scope, canvas = frame.scope, self.outline.canvas

        def tables_of(scope: Scope, node: AbstractCovariance) -> dict[bool, Block]:
            tables = {s: tabulate(scope, node, canvas, same=s) for s in (False, True)}
            if scope.wants_ntk and self.slot.outline.trainable:
                tables[False] = tables[False].with_ntk()
            return tables

        def step(tables: dict[bool, Block], _: None) -> tuple[dict[bool, Block], None]:
            inner = scope.fresh()
            stored = Stored(tables, self.slot.outline)
            return tables_of(inner, self.layer(stored)), None

        def build() -> dict[bool, Block]:
            start = tables_of(scope, self.upstream)
            start = jax.tree.map(lambda leaf: leaf + scope.zero, start)
            return lax.scan(step, start, None, length=self.n)[0]

        tables = scope.once(("repeated", id(self)), self, build)
        return Stored(tables, self.outline).bind(frame)


class _Packed(NamedTuple):
    """What one depth hands to the next where gaps are known: covariances follow."""

    gap: Float[Array, "*pairs"]
    ntk: Float[Array, "*pairs"] | None


def _packing(
    frame: Frame, node: AbstractCovariance
) -> Callable[[Evaluation, Block], Block | _Packed]:
    """Register what it takes to pack a block of a node."""
    if not frame.tracks_gaps(node):
        return lambda at, block: block
    complete, deviations = frame.with_gaps(node), frame.deviations(node)

    def pack(at: Evaluation, block: Block) -> _Packed:
        left, right = at.fields[deviations]
        nngp, ntk, gap = complete(at, block)
        assert gap is not None
        return _Packed(valued(gap, left * right - nngp), ntk)

    return pack


def _unpacking(
    frame: Frame, node: AbstractCovariance
) -> Callable[[Evaluation, Any], Block]:
    """Register what it takes to undo the packing."""
    if not frame.tracks_gaps(node):
        return lambda at, block: block
    deviations = frame.deviations(node)

    def unpack(at: Evaluation, packed: _Packed) -> Block:
        left, right = at.fields[deviations]
        nngp = left * right - packed.gap
        return Block(nngp, packed.ntk, lax.stop_gradient(packed.gap))

    return unpack


class ShapeChange(ValueError):
    """A layer that cannot follow itself."""


class Slot(AbstractCovariance):
    """What goes into the repeated layer, at the depth that is being evaluated."""

    def __init__(self, outline: Outline):
        """Stand for a covariance with these facts."""
        self.outline = outline

    def bind(self, frame: Frame) -> BlockRule:
        """The block carried through the loop, or the variance, which is known."""
        if frame.same and frame.canvas is None:
            _, variance = frame.scope.memo["slot"]
            return lambda at: Block(variance, None)
        if frame != frame.scope.asked_in:
            raise _AskedElsewhere

        unpacked = _unpacking(frame, self)

        def rule(at: Evaluation) -> Block:
            assert at.carried is not None, "a repeated layer runs on a carried block"
            return unpacked(at, at.carried)

        return rule


class Stored(AbstractCovariance):
    """A covariance whose blocks at all displacements are at hand, by `same`."""

    def __init__(self, tables: dict[bool, Block], outline: Outline):
        """Serve tables of a covariance with these facts."""
        self.tables, self.outline = tables, outline

    def bind(self, frame: Frame) -> BlockRule:
        """Look a block up."""
        table = self.tables[frame.same]
        if frame.canvas is not None:
            assert frame.canvas == self.outline.canvas
            return stored_rule(frame, table, at_displacement)
        zero = jnp.zeros(self.outline.rank, jnp.int32)
        crop = tuple(slice(h) for h in self.outline.size)
        return fixed_rule(
            frame,
            jax.tree.map(lambda t: at_displacement(t, zero)[..., *crop], table),
        )


class _AskedElsewhere(Exception):
    """A repeated layer asks for other displacements than the one it is asked for."""
