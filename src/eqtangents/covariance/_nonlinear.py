"""Nonlinearities of Gaussian channels."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Block, BlockRule, Evaluation, Frame
from eqtangents.duals._dual import AbstractDual, in_terms
from eqtangents.duals._pair import Moments, Pair


class Nonlinear(AbstractCovariance):
    """A nonlinearity, applied to each channel of a Gaussian."""

    nonzero_where_masked = True

    def __init__(self, upstream: AbstractCovariance, dual: AbstractDual):
        """Apply a dual activation to a covariance."""
        self.upstream, self.dual = upstream, dual
        self.outline = upstream.outline.replace(
            gaussian=False, centred=False, has_trained_gains=False, diagonal=False
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Look up the variances of both ends, then apply the dual entry by entry."""
        if frame.same and frame.canvas is None:
            variance = frame.bind(self.upstream)

            def variance_rule(at: Evaluation) -> Block:
                return Block(self.dual.diagonal(at(variance).nngp), None)

            return variance_rule

        # Whatever asks for more displacements of one covariance comes first: then those
        # of the others are at hand.
        if frame.same:
            upstream, prepared = frame.bind(self.upstream), self.prepared(frame)
        else:
            prepared, upstream = self.prepared(frame), frame.bind(self.upstream)
        tolerance = frame.tolerance(self.outline.rank)

        def moments(at: Evaluation, block: Block) -> Moments:
            pair = Pair(block.nngp, block.gap, tolerance(at))
            return self.dual.moments(pair, *prepared(at))

        if not frame.tracks_gaps(self):

            def rule(at: Evaluation) -> Block:
                block = at(upstream)
                return self._image(block, moments(at, block), None)

            return rule

        before, after = frame.with_gaps(self.upstream), frame.with_gaps(self)
        deviations = frame.deviations(self)

        def rule_with_gap(at: Evaluation) -> Block:
            block = at(upstream)
            block = before(at, block) if block.gap is None else block
            found = moments(at, block)
            gap = found.gap_between(*at.fields[deviations])
            return after(at, self._image(block, found, gap))

        return rule_with_gap

    def _image(
        self, block: Block, moments: Moments, gap: Float[Array, "..."] | None
    ) -> Block:
        value, derivative, *_ = moments
        if block.ntk is None:
            return Block(value, None, gap)
        if not self.upstream.outline.has_trained_gains:
            return Block(value, derivative * block.ntk, gap)
        # By E u f'(u) v f'(v) = E f(u) f(v), for homogeneous functions.
        return Block(value, derivative * (block.ntk - block.nngp) + value, gap)

    def prepared(self, frame: Frame) -> Callable[[Evaluation], tuple[Any, Any]]:
        """Register what the dual needs of the variances, and find it for both ends."""
        variance = frame.scope.variance(self.upstream)
        handle = frame.per_example(self.dual.prepare(variance), self.outline.rank, 1.0)
        pairs = len(frame.scope.pairs(frame.same))
        return lambda at: in_terms(at.fields[handle], pairs)
