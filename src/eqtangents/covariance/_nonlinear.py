"""Nonlinearities of Gaussian channels, and their means."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from eqtangents._buffers import buffered, in_one_loop
from eqtangents.covariance._affine import Affine, with_gradients
from eqtangents.covariance._block import Block, BlockRule, Evaluation, Lookup
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame
from eqtangents.covariance._gaps import (
    deviations,
    integrated_gap,
    tolerance,
    tracks_gaps,
    with_gaps,
)
from eqtangents.covariance._learning import learning_rates, may_train
from eqtangents.covariance._pointwise import TrainedGains
from eqtangents.duals._dual import AbstractDual, AbstractDualOfSums, in_terms
from eqtangents.duals._elementary import may_be_differentiated
from eqtangents.duals._odd import is_odd
from eqtangents.duals._pair import Moments, Pair


# The tangent kernel after a nonlinearity, of the block before it and its moments.
_Tangent: TypeAlias = Callable[[Evaluation, Block, Moments], Any]


class Nonlinear(AbstractCovariance):
    """A nonlinearity, applied to each channel of a Gaussian."""

    nonzero_where_masked = True

    def __init__(
        self,
        upstream: AbstractCovariance,
        dual: AbstractDual,
        gain_dual: AbstractDual | None = None,
    ):
        """Apply a dual activation to a covariance.

        `gain_dual`: that of `u f'(u)`, by which `f` is read after trained gains.
        """
        self.above, self.dual, self.gain_dual = (upstream,), dual, gain_dual
        outline, odd = upstream.outline, is_odd(dual)
        self.outline = outline.replace(
            gaussian=False,
            centred_by=outline.centred_by if odd else (),
            summable=outline.summable and odd,
            has_trained_gains=False,
            diagonal=False,
        )
        self.nonnegative = isinstance(dual, AbstractDualOfSums) and dual.nonnegative

    def bind(self, frame: Frame) -> BlockRule:
        """Look up the variances of both ends, then apply the dual entry by entry."""
        if frame.self_pairs and frame.canvas is None:
            variance = frame.bind(self.upstream)
            read = lambda at: self._buffered(at(variance).nngp)
            return lambda at: Block(self.dual.diagonal(read(at)), None)
        if (of_sums := self._rule_of_sums(frame)) is not None:
            return of_sums
        # Of two demands on one covariance, the one for more displacements comes first:
        # a table that is computed for it serves the other, too.
        if frame.self_pairs:
            upstream, prepared = frame.bind(self.upstream), self.prepared(frame)
        else:
            prepared, upstream = self.prepared(frame), frame.bind(self.upstream)
        read = lambda at: self._buffered(at(upstream))
        within, tangent = tolerance(frame, self.outline.rank), self._tangent(frame)
        # Gradients of polynomials would keep the sum of the first terms for each term.
        of_pair = lambda *given: self.dual.moments(*given)  # Duals may have no hash.
        moments_of = jax.checkpoint(of_pair, prevent_cse=False)

        def moments(at: Evaluation, block: Block) -> Moments:
            pair = Pair(block.nngp, block.gap, within(at))
            return moments_of(pair, *prepared(at))

        if tracks_gaps(frame, self):
            return self._rule_with_gap(frame, read, moments, tangent)

        def rule(at: Evaluation) -> Block:
            block = read(at)
            found = moments(at, block)
            return Block(found.value, tangent(at, block, found))

        return rule

    def _buffered(self, arrays: PyTree[Array]) -> PyTree[Array]:
        """What this reads in several places, computed once for all of them."""
        return arrays if self.upstream.in_buffers else buffered(arrays)

    def _rule_of_sums(self, frame: Frame) -> BlockRule | None:
        """The rule of a covariance that is a sum over a window, if it spares anything.

        The dual tells the covariance once more, by what the moments are computed from:
        that is what is added to the tangent kernel.
        """
        before, dual = self.upstream, self.dual
        if (
            may_be_differentiated.value
            or tracks_gaps(frame, self)
            or not isinstance(dual, AbstractDualOfSums)
            or not isinstance(before, Affine)
            or not before.is_long_sum(frame)
        ):
            return None
        adds = frame.wants_ntk and before.adds_covariance
        nonnegative = before.nonnegative
        if not (adds or nonnegative):  # A division costs more than one sum.
            return None
        prepared = self.prepared(frame, dual.prepare_for_sum)
        upstream = before.inherited(frame) if adds else frame.bind(before)
        within, tangent = tolerance(frame, self.outline.rank), self._tangent(frame)

        def rule(at: Evaluation) -> Block:
            block = at(upstream)
            pair = Pair(block.nngp, None, within(at))
            ends = prepared(at)
            found, cov = dual.moments_of_sum(pair, *ends, nonnegative=nonnegative)
            block = with_gradients(block, cov) if adds else block
            return Block(found.value, tangent(at, block, found))

        return rule

    def _rule_with_gap(
        self,
        frame: Frame,
        upstream: BlockRule,
        moments_of: Callable[[Evaluation, Block], Moments],
        tangent: _Tangent,
    ) -> BlockRule:
        """Complete the blocks before and after the nonlinearity by their gaps."""
        before, after = with_gaps(frame, self.upstream), with_gaps(frame, self)
        stds_before, stds = deviations(frame, self.upstream), deviations(frame, self)

        def integrated(at: Evaluation, block: Block) -> Array:
            value_of = lambda p: moments_of(at, Block(p.cov, None, p.gap)).value
            pair = Pair(block.nngp, block.gap)
            return integrated_gap(value_of, pair, stds_before(at), stds(at))

        def rule(at: Evaluation) -> Block:
            block = at(upstream)
            block = before(at, block) if block.gap is None else block
            moments = moments_of(at, block)
            gap = moments.gap_between(*stds(at))
            if gap is None and frame.scope.integrates_gaps:
                gap = integrated(at, block)
            ntk = tangent(at, block, moments)
            return after(at, Block(moments.value, ntk, gap))

        return rule

    def _tangent(self, frame: Frame) -> _Tangent:
        """Register what the tangent kernel needs, of gains right before this too."""
        gains = self.upstream
        if not (
            frame.wants_ntk
            and isinstance(gains, TrainedGains)
            and may_train(gains.gain_rate)
        ):
            return lambda at, block, moments: (
                None if block.ntk is None else moments.derivative * block.ntk
            )
        rates, of_gains = learning_rates(frame, gains.gain_rate), self._of_gains(frame)

        def rule(at: Evaluation, block: Block, moments: Moments) -> Array:
            rate = jnp.asarray(rates(at)[0], block.nngp.dtype)
            assert block.ntk is not None, "gains are trained"
            others = block.ntk - rate * block.nngp
            return moments.derivative * others + rate * of_gains(at, block, moments)

        return rule

    def _of_gains(
        self, frame: Frame
    ) -> Callable[[Evaluation, Block, Moments], Float[Array, "..."]]:
        """Register E u f'(u) v f'(v), of gradients in the gains of channels."""
        dual = self.gain_dual
        if dual is None:
            assert self.dual.homogeneous, "u f'(u) = f(u)"
            return lambda at, block, moments: moments.value
        prepared = self.prepared(frame, dual.prepare)
        within = tolerance(frame, self.outline.rank)

        def rule(at: Evaluation, block: Block, moments: Moments) -> Array:
            pair = Pair(block.nngp, block.gap, within(at))
            return dual.moments(pair, *prepared(at)).value

        return rule

    def prepared(
        self, frame: Frame, prepare: Callable[[Array], Any] | None = None
    ) -> Lookup[tuple[Any, Any]]:
        """Register what a dual needs of the variances, for both ends of a pair.

        `prepare`: how it computes that, if not by the method of this name.
        """
        variance = frame.scope.variance(self.upstream)
        prepare = self.dual.prepare if prepare is None else prepare
        # Out of one long row, loops over pairs would gather them.
        found = buffered(in_one_loop(prepare, variance))
        ends = frame.per_example(found, self.outline.rank, 1.0)
        return lambda at: in_terms(ends(at))


class Centred(AbstractCovariance):
    r"""A nonlinearity's outputs less their mean over the channels.

    $K'_{pp'} = K_{pp'} - m_p m'_{p'}$, where $m = \mathbb{E} f(u)$ follows from the
    variance of $u$ alone: $m m'$ is the dual of two independent inputs.
    """

    def __init__(self, upstream: Nonlinear):
        """Subtract the means of a nonlinearity's outputs."""
        self.above, self.nonlinear = (upstream,), upstream
        outline = upstream.outline
        self.outline = outline.replace(centred_by=(outline.sources,))

    def bind(self, frame: Frame) -> BlockRule:
        """Subtract the product of both ends' means."""
        upstream, dual = frame.bind(self.nonlinear), self.nonlinear.dual
        prepared = self.nonlinear.prepared(frame)

        def rule(at: Evaluation) -> Block:
            nngp, ntk, _ = at(upstream)
            apart = Pair(jnp.zeros_like(nngp))
            moments = dual.moments(apart, *prepared(at))
            return Block(nngp - moments.value, ntk)

        return rule
