"""Branches of a network that are joined: added, multiplied, or side by side."""

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents.covariance._covariance import AbstractCovariance, Outline
from eqtangents.covariance._frame import Block, BlockRule, Evaluation, Frame
from eqtangents.covariance._gathered import Gathered, on_common_canvas
from eqtangents.covariance._lattice import along, partner, where
from eqtangents.duals._pair import summed_gap


class Sum(AbstractCovariance):
    """Sum of uncorrelated branches: kernels add."""

    def __init__(self, branches: Sequence[AbstractCovariance]):
        """Add covariances of one size."""
        self.branches = tuple(on_common_canvas(list(branches)))
        outlines = [branch.outline for branch in self.branches]
        self.outline = _joined(outlines).replace(
            gaussian=all(o.gaussian for o in outlines),
            centred=all(o.centred for o in outlines),
            diagonal=all(o.diagonal for o in outlines),
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Add blocks."""
        return _sum_rule(self, frame, self.branches, [1.0] * len(self.branches))


class Product(AbstractCovariance):
    r"""Product of uncorrelated branches: $K = \prod_i K_i$, $T$ by the product rule."""

    def __init__(self, branches: Sequence[AbstractCovariance]):
        """Multiply covariances of one size."""
        self.branches = tuple(on_common_canvas(list(branches)))
        outlines = [branch.outline for branch in self.branches]
        self.outline = _joined(outlines).replace(
            gaussian=False,
            centred=any(o.centred for o in outlines),
            diagonal=any(o.diagonal for o in outlines),
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Multiply blocks one after the other."""
        rules = [frame.bind(branch) for branch in self.branches]

        def multiply(a: Block, b: Block) -> Block:
            terms = [
                nngp * ntk
                for nngp, ntk in ((a.nngp, b.ntk), (b.nngp, a.ntk))
                if ntk is not None
            ]
            ntk = functools.reduce(operator.add, terms) if terms else None
            gap = None
            if a.gap is not None and b.gap is not None:  # Of k l and (k + g) (l + h).
                product = lax.stop_gradient(a.nngp) * b.gap + a.gap * b.nngp
                gap = lax.stop_gradient(product + a.gap * b.gap)
            return Block(a.nngp * b.nngp, ntk, gap)

        return lambda at: functools.reduce(multiply, [at(rule) for rule in rules])


class ChannelConcat(AbstractCovariance):
    """Branches side by side along the channels: the mean of kernels, by width."""

    def __init__(self, branches: Sequence[AbstractCovariance]):
        """Concatenate covariances of one size."""
        self.branches = tuple(on_common_canvas(list(branches)))
        outlines = [branch.outline for branch in self.branches]
        self.outline = _joined(outlines).replace(
            channels=sum(o.channels for o in outlines),
            gaussian=False,
            exchangeable=False,
            centred=all(o.centred for o in outlines),
            diagonal=all(o.diagonal for o in outlines),
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Average blocks, weighted by the branches' shares of the channels."""
        shares = [b.outline.channels / self.outline.channels for b in self.branches]
        return _sum_rule(self, frame, self.branches, shares)


def _sum_rule(
    node: AbstractCovariance,
    frame: Frame,
    branches: Sequence[AbstractCovariance],
    shares: Sequence[float],
) -> BlockRule:
    """Add the blocks of branches, in some proportions."""
    rules = [frame.bind(branch) for branch in branches]
    deviations = None
    if frame.tracks_gaps(node):
        deviations = [frame.deviations(one) for one in (*branches, node)]

    def gap_of(at: Evaluation, gaps: list[Any]) -> Float[Array, "..."] | None:
        if deviations is None or any(gap is None for gap in gaps):
            return None
        *stds, total = (at.fields[handle] for handle in deviations)
        roots = [share**0.5 for share in shares]
        stds = [(r * a, r * b) for r, (a, b) in zip(roots, stds, strict=True)]
        return summed_gap(weighted(gaps), stds, total)

    def weighted(leaves: list[Any]) -> list[Any]:
        return [
            leaf if share == 1 else share * leaf
            for share, leaf in zip(shares, leaves, strict=True)
            if leaf is not None
        ]

    def rule(at: Evaluation) -> Block:
        nngps, ntks, gaps = map(list, zip(*(at(one) for one in rules), strict=True))
        ntks = weighted(ntks)
        return Block(
            functools.reduce(operator.add, weighted(nngps)),
            functools.reduce(operator.add, ntks) if ntks else None,
            gap_of(at, gaps),
        )

    return rule


def _joined(outlines: Sequence[Outline]) -> Outline:
    """The common size, on a canvas that holds every branch."""
    return outlines[0].replace(
        canvas=tuple(map(max, zip(*(o.canvas for o in outlines), strict=True))),
        fixed_canvas=tuple(
            map(any, zip(*(o.fixed_canvas for o in outlines), strict=True))
        ),
        trainable=any(o.trainable for o in outlines),
        has_trained_gains=any(o.has_trained_gains for o in outlines),
        vanishing=any(o.vanishing for o in outlines),
        exchangeable=all(o.exchangeable for o in outlines),
        sources=frozenset().union(*(o.sources for o in outlines)),
        mask=_any_mask(outlines),
    )


def _any_mask(outlines: Sequence[Outline]) -> Bool[Array, "n *size"] | None:
    """The positions that any of the branches has."""
    masks = [o.mask for o in outlines]
    if all(mask is masks[0] for mask in masks):
        return masks[0]
    known = [mask for mask in masks if mask is not None]
    return functools.reduce(operator.or_, known) if len(known) == len(masks) else None


def independent(branches: Sequence[AbstractCovariance]) -> bool:
    """Whether no two branches come from the same weights or inputs."""
    sources = [branch.outline.sources for branch in branches]
    return sum(map(len, sources)) == len(frozenset().union(*sources))


def uncorrelated(branches: Sequence[AbstractCovariance]) -> bool:
    """Whether products of different branches have mean zero."""
    shifted = sum(not branch.outline.centred for branch in branches)
    return independent(branches) and shifted <= 1


class SpatialConcat(AbstractCovariance):
    """Uncorrelated branches end to end: block-diagonal in positions.

    A shift of both positions by the branch's start leaves displacements as they are, so
    each branch is asked for at the displacement of the whole.
    """

    def __init__(self, branches: Sequence[AbstractCovariance], axis: int):
        """Concatenate along a spatial axis; the other ones have equal sizes."""
        branches = [
            Gathered(b) if b.outline.fixed_canvas[axis] else b for b in branches
        ]
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
            has_trained_gains=any(o.has_trained_gains for o in outlines),
            vanishing=any(o.vanishing for o in outlines),
            diagonal=all(o.diagonal for o in outlines),
            mask=_end_to_end(outlines, 1 + axis),
        )

    def bind(self, frame: Frame) -> BlockRule:
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
