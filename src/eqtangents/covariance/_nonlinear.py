"""Nonlinearities of Gaussian channels, and their means."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.covariance._covariance import (
    AbstractCovariance,
    Block,
    BlockRule,
    Evaluation,
    Frame,
    Lookup,
)
from eqtangents.covariance._gaps import deviations, tolerance, tracks_gaps, with_gaps
from eqtangents.covariance._learning import learning_rates, may_train
from eqtangents.covariance._pointwise import TrainedGains
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
        if frame.self_pairs and frame.canvas is None:
            variance = frame.bind(self.upstream)
            return lambda at: Block(self.dual.diagonal(at(variance).nngp), None)
        # Of two demands on one covariance, the one for more displacements comes first:
        # a table that is computed for it serves the other, too.
        if frame.self_pairs:
            upstream, prepared = frame.bind(self.upstream), self.prepared(frame)
        else:
            prepared, upstream = self.prepared(frame), frame.bind(self.upstream)
        within, gain_rate = tolerance(frame, self.outline.rank), self._gain_rate(frame)

        def moments(at: Evaluation, block: Block) -> Moments:
            pair = Pair(block.nngp, block.gap, within(at))
            return self.dual.moments(pair, *prepared(at))

        if tracks_gaps(frame, self):
            return self._rule_with_gap(frame, upstream, moments)

        def rule(at: Evaluation) -> Block:
            block = at(upstream)
            return self._image(block, moments(at, block), None, gain_rate(at))

        return rule

    def _rule_with_gap(
        self,
        frame: Frame,
        upstream: BlockRule,
        moments_of: Callable[[Evaluation, Block], Moments],
    ) -> BlockRule:
        """Complete the blocks before and after the nonlinearity by their gaps."""
        before, after = with_gaps(frame, self.upstream), with_gaps(frame, self)
        stds, gain_rate = deviations(frame, self), self._gain_rate(frame)

        def rule(at: Evaluation) -> Block:
            block = at(upstream)
            block = before(at, block) if block.gap is None else block
            moments = moments_of(at, block)
            gap = moments.gap_between(*stds(at))
            return after(at, self._image(block, moments, gap, gain_rate(at)))

        return rule

    def _gain_rate(self, frame: Frame) -> Lookup[Scalar]:
        """Register how fast gains right before this are trained, zero without any."""
        gains = self.upstream if isinstance(self.upstream, TrainedGains) else None
        if gains is None or not gains.outline.has_trained_gains:
            return lambda at: 0.0
        rates = learning_rates(frame, gains.gain_rate)
        return lambda at: rates(at)[0]

    def _image(
        self,
        block: Block,
        moments: Moments,
        gap: Float[Array, "..."] | None,
        gain_rate: Scalar,
    ) -> Block:
        value, derivative, *_ = moments
        if block.ntk is None:
            return Block(value, None, gap)
        if not may_train(gain_rate):
            return Block(value, derivative * block.ntk, gap)
        # By E u f'(u) v f'(v) = E f(u) f(v), for homogeneous functions.
        rate = jnp.asarray(gain_rate, value.dtype)
        others = block.ntk - rate * block.nngp
        return Block(value, derivative * others + rate * value, gap)

    def prepared(self, frame: Frame) -> Lookup[tuple[Any, Any]]:
        """Register what the dual needs of the variances, for both ends of a pair."""
        variance = frame.scope.variance(self.upstream)
        ends = frame.per_example(self.dual.prepare(variance), self.outline.rank, 1.0)
        return lambda at: in_terms(ends(at), len(frame.pairs))


class Centred(AbstractCovariance):
    r"""A nonlinearity's outputs less their mean over the channels.

    $K'_{pp'} = K_{pp'} - m_p m'_{p'}$, where $m = \mathbb{E} f(u)$ follows from the
    variance of $u$ alone: $m m'$ is the dual of two independent inputs.
    """

    def __init__(self, upstream: Nonlinear):
        """Subtract the means of a nonlinearity's outputs."""
        self.upstream = upstream
        self.outline = upstream.outline.replace(centred=True)

    def bind(self, frame: Frame) -> BlockRule:
        """Subtract the product of both ends' means."""
        upstream = frame.bind(self.upstream)
        prepared = self.upstream.prepared(frame)

        def rule(at: Evaluation) -> Block:
            nngp, ntk, _ = at(upstream)
            apart = Pair(jnp.zeros_like(nngp))
            moments = self.upstream.dual.moments(apart, *prepared(at))
            return Block(nngp - moments.value, ntk)

        return rule
