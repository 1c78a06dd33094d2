"""Branches end to end along a spatial axis."""

import functools
import itertools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from eqtangents.covariance._covariance import AbstractCovariance, Outline
from eqtangents.covariance._frame import Block, Evaluation, Frame, Rule
from eqtangents.covariance._gathered import Gathered, on_common_canvas
from eqtangents.covariance._lattice import along, partner, where


class SpatialConcat(AbstractCovariance):
    """Uncorrelated branches end to end: block-diagonal in positions.

    A shift of both positions by the branch's start leaves displacements as they are, so
    each branch is asked for at the displacement of the whole.
    """

    def __init__(self, branches: Sequence[AbstractCovariance], axis: int):
        """Concatenate along a spatial axis; the other ones have equal sizes."""
        branches = [Gathered(b) if b.outline.rigid[axis] else b for b in branches]
        branches = on_common_canvas(branches)
        outlines = [branch.outline for branch in branches]
        lengths = [o.size[axis] for o in outlines]
        size, canvas = list(outlines[0].size), list(outlines[0].canvas)
        size[axis] = sum(lengths)
        canvas[axis] = max(size[axis], *(o.canvas[axis] for o in outlines))
        self.branches, self.axis = tuple(branches), axis
        self.starts = tuple(itertools.accumulate(lengths, initial=0))[:-1]
        self.outline = outlines[0].replace(
            size=tuple(size),
            canvas=tuple(canvas),
            gaussian=all(o.gaussian for o in outlines),
            trainable=any(o.trainable for o in outlines),
            sources=frozenset().union(*(o.sources for o in outlines)),
            centred=all(o.centred for o in outlines),
            exchangeable=all(o.exchangeable for o in outlines),
            gained=any(o.gained for o in outlines),
            diagonal=all(o.diagonal for o in outlines),
            mask=_end_to_end(outlines, 1 + axis),
        )

    def bind(self, frame: Frame) -> Rule:
        """Shift each branch to its place, zero elsewhere."""
        rules = [frame.bind(branch) for branch in self.branches]
        axis = self.axis - self.outline.rank
        if frame.canvas is None:

            def coincident_rule(at: Evaluation) -> Block:
                return jax.tree.map(
                    lambda *leaves: jnp.concatenate(leaves, axis),
                    *_aligned([at(rule) for rule in rules]),
                )

            return coincident_rule
        places = [
            self._place(frame, start, branch.outline.size[self.axis])
            for start, branch in zip(self.starts, self.branches, strict=True)
        ]

        def rule(at: Evaluation) -> Block:
            def shifted(leaf: Float[Array, "..."], i: int) -> Float[Array, "..."]:
                moved = jnp.roll(leaf, self.starts[i], axis)
                return where(at.masks[places[i]], moved)

            blocks = _aligned([at(upstream) for upstream in rules])
            parts = [
                jax.tree.map(functools.partial(shifted, i=i), block)
                for i, block in enumerate(blocks)
            ]
            return jax.tree.map(
                lambda *leaves: functools.reduce(operator.add, leaves), *parts
            )

        return rule

    def _place(self, frame: Frame, start: int, length: int) -> object:
        """Register where both positions are in one branch."""
        assert frame.canvas is not None
        canvas, rank = frame.canvas[self.axis], self.outline.rank

        def look(d: Int[Array, " rank"]) -> Bool[Array, "..."]:
            positions = jnp.arange(canvas), partner(canvas, d[self.axis])
            here, there = ((p >= start) & (p < start + length) for p in positions)
            return along(here & there, self.axis, rank)

        return frame.mask(("place", self.axis, start, length), look)


def _end_to_end(
    outlines: Sequence[Outline], axis: int
) -> Bool[Array, "n *size"] | None:
    """The masks of branches one after the other."""
    known = [o.mask for o in outlines if o.mask is not None]
    if not known:
        return None
    n = known[0].shape[0]
    masks = [
        jnp.ones((n, *o.size), bool) if o.mask is None else o.mask for o in outlines
    ]
    return jnp.concatenate(masks, axis)


def _aligned(blocks: list[Block]) -> list[Block]:
    """Blocks of which either all or none have a tangent kernel."""
    if all(block.ntk is None for block in blocks):
        return blocks
    return [block.with_ntk() for block in blocks]
