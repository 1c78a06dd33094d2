"""Normalisation by what the infinitely many channels of one example average to."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Block, BlockRule, Evaluation, Frame, Scope
from eqtangents.covariance._nonlinear import Nonlinear
from eqtangents.duals._pair import Pair


class Normalised(AbstractCovariance):
    r"""$K'_{pp'} = K_{pp'} / \sqrt{v_p v'_{p'}}$, and $T'$ alike.

    $v = \epsilon + K(x, x)$, averaged over some of the axes: over infinitely many
    channels the average of squares is no longer random.
    """

    def __init__(
        self, upstream: AbstractCovariance, axes: tuple[int, ...], eps: Scalar
    ):
        """Average over these spatial axes besides the channels."""
        self.upstream, self.axes, self.eps = upstream, axes, eps
        self.outline = upstream.outline

    def bind(self, frame: Frame) -> BlockRule:
        """Look up the deviations of both ends."""
        upstream = frame.bind(self.upstream)
        reciprocal = self._reciprocal_deviation(frame.scope)
        handle = frame.per_example(reciprocal, self.outline.rank, 0.0)

        def rule(at: Evaluation) -> Block:
            left, right = at.fields[handle]
            return at(upstream).scaled(left * right)

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
        # An input of zeros stays one, with a gradient of zero.
        safe = jnp.where(total > 0, total, jnp.ones_like(total))
        reciprocal = jnp.where(total > 0, 1 / jnp.sqrt(safe), jnp.zeros_like(total))
        return jnp.broadcast_to(reciprocal, variance.shape)


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


class TrainedGains(AbstractCovariance):
    """Trained gains and offsets of the channels, at their initial values one and zero.

    The function is not changed; the gradient with respect to the gains adds `K`, that
    with respect to the offsets adds 1 to the tangent kernel.
    """

    nonzero_where_masked = True

    def __init__(self, upstream: AbstractCovariance, *, gain: bool, offset: bool):
        """Train gains, offsets, or both."""
        self.upstream, self.gain, self.offset = upstream, gain, offset
        self.outline = upstream.outline.replace(
            trainable=True, has_trained_gains=gain or upstream.outline.has_trained_gains
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Add the two gradients."""
        upstream = frame.bind(self.upstream)
        if not frame.wants_ntk:
            return upstream

        def rule(at: Evaluation) -> Block:
            block = at(upstream).with_ntk()
            assert block.ntk is not None
            ntk = block.ntk + block.nngp if self.gain else block.ntk
            return block._replace(ntk=ntk + 1 if self.offset else ntk)

        return rule
