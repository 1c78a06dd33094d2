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

from eqtangents.covariance._block import Block, BlockRule, Evaluation, Lookup
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame
from eqtangents.covariance._gaps import deviations, tracks_gaps
from eqtangents.covariance._gathered import on_common_canvas, recanvassed
from eqtangents.covariance._lattice import along, partner, positions, where
from eqtangents.covariance._outline import Outline
from eqtangents.duals._pair import summed_gap


class BranchSum(AbstractCovariance):
    """The sum of uncorrelated branches: kernels add."""

    def __init__(self, branches: Sequence[AbstractCovariance]):
        """Add covariances of one size."""
        self.above = on_common_canvas(branches)
        self.outline = Outline.joined([b.outline for b in self.above])

    def bind(self, frame: Frame) -> BlockRule:
        return _sum_rule(self, frame, self.above, [1.0] * len(self.above))


class BranchProduct(AbstractCovariance):
    r"""The product of uncorrelated branches, $K = \prod_i K_i$.

    $T$ follows by the product rule.
    """

    def __init__(
        self,
        branches: Sequence[AbstractCovariance],
        scaled: AbstractCovariance | None = None,
    ):
        """Multiply covariances of one size.

        `scaled`: the branch whose channels are multiplied by one known value each time,
        which all others are; it stays what it is.
        """
        self.above = on_common_canvas(branches)
        outlines = [branch.outline for branch in self.above]
        self.outline = Outline.joined(outlines).replace(
            gaussian=False,
            centred_by=tuple(one for o in outlines for one in o.centred_by),
            diagonal=any(o.diagonal for o in outlines),
            # Given the other factors, channels still have mean zero, each by its own.
            summable=any(o.summable for o in outlines),
        )
        if scaled is not None:
            self.outline = self.outline.replace(
                channels=scaled.outline.channels,
                gaussian=scaled.outline.gaussian,
                centred_by=scaled.outline.centred_by,
                sources=scaled.outline.sources,
                exchangeable=scaled.outline.exchangeable,
            )

    def bind(self, frame: Frame) -> BlockRule:
        """Multiply blocks one after the other."""
        rules = [frame.bind(branch) for branch in self.above]

        def multiply(a: Block, b: Block) -> Block:
            terms = [
                nngp * ntk
                for nngp, ntk in ((a.nngp, b.ntk), (b.nngp, a.ntk))
                if ntk is not None
            ]
            ntk = functools.reduce(operator.add, terms) if terms else None
            gap = None
            if a.gap is not None and b.gap is not None:
                # From k l to (k + g) (l + h).
                product = lax.stop_gradient(a.nngp) * b.gap + a.gap * b.nngp
                gap = lax.stop_gradient(product + a.gap * b.gap)
            return Block(a.nngp * b.nngp, ntk, gap)

        return lambda at: functools.reduce(multiply, [at(rule) for rule in rules])


class ChannelConcat(AbstractCovariance):
    """Branches side by side along the channels: kernels are averaged by width."""

    def __init__(self, branches: Sequence[AbstractCovariance]):
        """Concatenate covariances of one size."""
        self.above = on_common_canvas(branches)
        outlines = [branch.outline for branch in self.above]
        self.outline = Outline.joined(outlines).replace(
            channels=sum(o.channels for o in outlines),
            gaussian=False,
            exchangeable=False,
            summable=all(o.summable for o in outlines) and independent(branches),
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Average blocks, weighted by the branches' shares of the channels."""
        shares = [b.outline.channels / self.outline.channels for b in self.above]
        return _sum_rule(self, frame, self.above, shares)


def _sum_rule(
    node: AbstractCovariance,
    frame: Frame,
    branches: Sequence[AbstractCovariance],
    shares: Sequence[float],
) -> BlockRule:
    """Add the blocks of branches, weighted by their shares."""
    rules = [frame.bind(branch) for branch in branches]
    known = None
    if tracks_gaps(frame, node):
        known = [deviations(frame, one) for one in (*branches, node)]

    def gap_of(at: Evaluation, gaps: list[Any]) -> Float[Array, "..."] | None:
        if known is None or any(gap is None for gap in gaps):
            return None
        *stds, total = (stds_at(at) for stds_at in known)
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


def independent(branches: Sequence[AbstractCovariance]) -> bool:
    """Whether no two branches come from the same weights or inputs."""
    sources = [branch.outline.sources for branch in branches]
    return sum(map(len, sources)) == len(frozenset().union(*sources))


def uncorrelated(branches: Sequence[AbstractCovariance]) -> bool:
    """Whether products of different branches have mean zero.

    They have if one has mean zero over weights that the other does not come from, as
    two gated branches with one gate have.
    """
    outlines = [branch.outline for branch in branches]
    apart = lambda a, b: any(not one & b.sources for one in a.centred_by)
    pairs = itertools.combinations(outlines, 2)
    return all(apart(a, b) or apart(b, a) for a, b in pairs)


class SpatialConcat(AbstractCovariance):
    """Uncorrelated branches end to end: block-diagonal in positions.

    A shift of both positions by the branch's start leaves displacements as they are, so
    each branch is asked for at the displacement of the whole.
    """

    def __init__(self, branches: Sequence[AbstractCovariance], axis: int):
        """Concatenate along a spatial axis; the other ones have equal sizes."""
        wraps = lambda branch: branch.outline.fixed_canvas[axis]
        self.above = on_common_canvas(
            [recanvassed(b) if wraps(b) else b for b in branches]
        )
        self.axis = axis
        outlines = [branch.outline for branch in self.above]
        lengths = [o.size[axis] for o in outlines]
        self.starts = tuple(itertools.accumulate(lengths, initial=0))[:-1]
        # Masks of different sizes are set side by side instead of being merged.
        facts = Outline.joined([o.replace(mask=None) for o in outlines])
        size, canvas = list(facts.size), list(facts.canvas)
        size[axis] = sum(lengths)
        canvas[axis] = max(size[axis], canvas[axis])
        self.outline = facts.replace(
            size=tuple(size),
            canvas=tuple(canvas),
            mask=_masks_in_a_row(outlines, 1 + axis),
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Shift each branch to its place, with zeros elsewhere."""
        rules = [frame.bind(branch) for branch in self.above]
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
            for start, branch in zip(self.starts, self.above, strict=True)
        ]

        def rule(at: Evaluation) -> Block:
            def shifted(leaf: Float[Array, "..."], i: int) -> Float[Array, "..."]:
                moved = jnp.roll(frame.apart(leaf), self.starts[i], axis)
                return frame.together(where(places[i](at), moved))

            blocks = _aligned([at(upstream) for upstream in rules])
            parts = [
                jax.tree.map(functools.partial(shifted, i=i), block)
                for i, block in enumerate(blocks)
            ]
            return jax.tree.map(
                lambda *leaves: functools.reduce(operator.add, leaves), *parts
            )

        return rule

    def _place(
        self, frame: Frame, start: int, length: int
    ) -> Lookup[Bool[Array, "..."]]:
        """Register where both positions lie in the branch that begins at `start`."""
        assert frame.canvas is not None
        canvas, rank = frame.canvas[self.axis], self.outline.rank

        def look(d: Int[Array, " rank"]) -> Bool[Array, "..."]:
            places = positions(canvas), partner(canvas, d[self.axis])
            here, there = ((p >= start) & (p < start + length) for p in places)
            return along(here & there, self.axis, rank)

        return frame.mask(("place", self.axis, start, length), look)


def _masks_in_a_row(
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
