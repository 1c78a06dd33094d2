"""Rules that act on each entry alone: factors, gains, normalisation."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.covariance._block import Block, BlockRule, Evaluation
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame, Scope
from eqtangents.covariance._learning import learning_rates, may_train
from eqtangents.duals._elementary import product_of_ends


class Scaled(AbstractCovariance):
    """A factor for all positions, for each of them, or for each of every example.

    `K'[p, p'] = f[p] K[p, p'] f[p']`.
    """

    def __init__(
        self,
        upstream: AbstractCovariance,
        factor: Scalar | Float[Array | np.ndarray, "..."],
    ):
        """Multiply outputs by a number, or `(*size)` or `(n, *size)` of them."""
        self.above, self.factor, self.outline = (upstream,), factor, upstream.outline

    def bind(self, frame: Frame) -> BlockRule:
        """Multiply by the factors of both ends."""
        upstream = frame.bind(self.upstream)
        if not jnp.ndim(self.factor):

            def scalar_rule(at: Evaluation) -> Block:
                factor = jnp.asarray(self.factor, frame.scope.dtype)
                return at(upstream).scaled(factor * factor)

            return scalar_rule

        n = frame.scope.n1 + frame.scope.n2
        factor = jnp.asarray(self.factor, frame.scope.dtype)
        factors = jnp.broadcast_to(factor, (n, *self.outline.size))
        ends = frame.per_example(factors, self.outline.rank, 0.0)

        def rule(at: Evaluation) -> Block:
            left, right = ends(at)
            block = at(upstream)._replace(gap=None)  # Some factors may be negative.
            return block.scaled(left * right)

        return rule


class Normalised(AbstractCovariance):
    r"""$K'_{pp'} = K_{pp'} / \sqrt{v_p v'_{p'}}$, and $T'$ alike.

    $v = \epsilon + K(x, x)$, averaged over some of the axes: over infinitely many
    channels the average of squares is no longer random.
    """

    def __init__(
        self,
        upstream: AbstractCovariance,
        axes: tuple[int, ...],
        eps: Scalar,
        *,
        centred: bool,
    ):
        """Divide by the deviation over the channels and these spatial axes.

        `centred`: whether the mean is taken off before, so that channels sum to zero.
        """
        self.above, self.axes, self.eps = (upstream,), axes, eps
        summable = upstream.outline.summable and not centred
        self.outline = upstream.outline.replace(summable=summable)

    def bind(self, frame: Frame) -> BlockRule:
        """Look up the deviations of both ends."""
        upstream = frame.bind(self.upstream)
        reciprocal = self._reciprocal_deviation(frame.scope)
        ends = frame.per_example(reciprocal, self.outline.rank, 0.0)

        def rule(at: Evaluation) -> Block:
            return at(upstream).scaled(product_of_ends(*ends(at)))

        return rule

    def _reciprocal_deviation(self, scope: Scope) -> Float[Array, "n *size"]:
        variance, mask = scope.variance(self.upstream), self.outline.mask
        axes = tuple(1 + axis for axis in self.axes)
        if mask is None:
            mean = variance.mean(axes, keepdims=True)
        else:  # The variance is zero where a position is masked.
            count = mask.sum(axes, keepdims=True, dtype=variance.dtype)
            mean = variance.sum(axes, keepdims=True) / jnp.maximum(count, 1)
        total = jnp.asarray(self.eps, variance.dtype) + mean
        # An input of zeros stays zero, and so does its gradient.
        safe = jnp.where(total > 0, total, jnp.ones_like(total))
        reciprocal = jnp.where(total > 0, 1 / jnp.sqrt(safe), jnp.zeros_like(total))
        return jnp.broadcast_to(reciprocal, variance.shape)


class SummedChannels(AbstractCovariance):
    """The sum of all channels over the root of their number: kernels stay."""

    def __init__(self, upstream: AbstractCovariance):
        """Sum outputs that are summable."""
        self.above = (upstream,)
        # The gradient in a gain is one of very many channels, and none of the output.
        self.outline = upstream.outline.replace(
            channels=1, gaussian=True, has_trained_gains=False
        )

    def bind(self, frame: Frame) -> BlockRule:
        return frame.bind(self.upstream)


class TrainedGains(AbstractCovariance):
    """Trained gains and offsets of the channels, at their initial values one and zero.

    The function is not changed. To the tangent kernel, gradients with respect to the
    gains add `K`, and gradients with respect to the offsets add 1, times their rates of
    learning.
    """

    nonzero_where_masked = True

    def __init__(
        self, upstream: AbstractCovariance, *, gain_rate: Scalar, offset_rate: Scalar
    ):
        self.above = (upstream,)
        self.gain_rate, self.offset_rate = gain_rate, offset_rate
        self.outline = upstream.outline.replace(
            trainable=True,
            has_trained_gains=may_train(gain_rate)
            or upstream.outline.has_trained_gains,
        )

    def bind(self, frame: Frame) -> BlockRule:
        upstream = frame.bind(self.upstream)
        gain, offset = map(may_train, (self.gain_rate, self.offset_rate))
        if not (frame.wants_ntk and (gain or offset)):
            return upstream
        rates = learning_rates(frame, self.gain_rate, self.offset_rate)

        def rule(at: Evaluation) -> Block:
            nngp, ntk, gap = at(upstream).with_ntk()
            assert ntk is not None
            gain_rate, offset_rate = (jnp.asarray(r, nngp.dtype) for r in rates(at))
            ntk = ntk + gain_rate * nngp if gain else ntk
            return Block(nngp, ntk + offset_rate if offset else ntk, gap)

        return rule


class ScaledGains(AbstractCovariance):
    r"""Trained gains that begin at one value: $K' = g^2 K$ and $T' = g^2 T + \eta K$.

    With $\eta$ their rate of learning.
    """

    def __init__(
        self, upstream: AbstractCovariance, initial: Scalar, rate: Scalar = 1.0
    ):
        """Multiply by gains, each with its gradient."""
        self.above, self.initial, self.rate = (upstream,), initial, rate
        gains = may_train(rate) or upstream.outline.has_trained_gains
        self.outline = upstream.outline.replace(trainable=True, has_trained_gains=gains)

    def bind(self, frame: Frame) -> BlockRule:
        upstream, rates = frame.bind(self.upstream), learning_rates(frame, self.rate)

        def rule(at: Evaluation) -> Block:
            block = at(upstream)._replace(gap=None)
            gain = jnp.asarray(self.initial, block.nngp.dtype)
            scaled = block.scaled(gain * gain)
            if not (frame.wants_ntk and may_train(self.rate)):
                return scaled
            nngp, ntk, _ = scaled.with_ntk()
            assert ntk is not None
            (rate,) = rates(at)
            return Block(nngp, ntk + jnp.asarray(rate, nngp.dtype) * block.nngp)

        return rule


class Vanished(AbstractCovariance):
    """Outputs that vanish in the limit, but for a constant: the tangent kernel stays.

    The readout of a network in the maximal-update parameterisation is one.
    """

    nonzero_where_masked = True

    def __init__(self, upstream: AbstractCovariance, constant: Scalar):
        """Replace the covariance, which is small, by the constant in it."""
        self.above, self.constant = (upstream,), constant
        self.outline = upstream.outline.replace(vanishing=True)

    def bind(self, frame: Frame) -> BlockRule:
        upstream = frame.bind(self.upstream)

        def rule(at: Evaluation) -> Block:
            block = at(upstream)
            constant = jnp.asarray(self.constant, block.nngp.dtype)
            return Block(jnp.broadcast_to(constant, block.nngp.shape), block.ntk)

        return rule
