"""Rules for which it matters whether the two positions of a pair coincide."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eqtangents._types import Scalar
from eqtangents.covariance._block import Block, BlockRule, Evaluation
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame
from eqtangents.covariance._lattice import pad_to


class DroppedOut(AbstractCovariance):
    r"""Dropout: values are kept with some probability, and divided by it.

    Only the square of a value knows that it was dropped: entries of one example with
    itself at one position are divided by the probability, and all others stay.
    """

    def __init__(self, upstream: AbstractCovariance, keep: Scalar):
        """Keep values with a probability."""
        self.above, self.keep = (upstream,), keep
        self.outline = upstream.outline.replace(gaussian=False)

    def bind(self, frame: Frame) -> BlockRule:
        """Divide where both examples and positions coincide."""
        upstream, scope = frame.bind(self.upstream), frame.scope
        dropped = jnp.asarray(True) if frame.self_pairs else scope.identical
        if dropped is None:
            # The gap goes: it belongs to variances that dropout has changed.
            return lambda at: at(upstream)._replace(gap=None)
        rank = self.outline.rank
        keep = jnp.asarray(self.keep, scope.dtype)
        share = jnp.where(dropped, 1 / keep, jnp.ones_like(keep))
        share = share.reshape(*share.shape, *(1,) * rank)
        if frame.self_pairs:
            share = share[None]

        def look(
            share: Float[Array, "..."], d: Int[Array, " rank"]
        ) -> Float[Array, "..."]:
            return jnp.where(jnp.all(d == 0), share, jnp.ones_like(share))

        coincide = frame.canvas is None
        share_at = frame.constant(share) if coincide else frame.lookup(share, look)

        def rule(at: Evaluation) -> Block:
            return at(upstream)._replace(gap=None).scaled(share_at(at))

        return rule


class LocallyConnected(AbstractCovariance):
    """Each position has weights of its own: different positions are uncorrelated.

    Whatever is asked for, only coinciding positions of the input are computed.
    """

    asks = "otherwise"

    def __init__(self, upstream: AbstractCovariance):
        """Drop the covariances of different positions."""
        self.above = (upstream,)
        self.outline = upstream.outline.replace(
            canvas=upstream.outline.size,
            fixed_canvas=(False,) * upstream.outline.rank,
            diagonal=True,
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Compute the one block that is not zero."""
        if frame.canvas is None:
            return frame.bind(self.upstream)
        canvas = frame.canvas
        block = frame.scope.coincident(self.upstream, self_pairs=frame.self_pairs)
        padded = jax.tree.map(lambda leaf: pad_to(leaf, canvas, 0.0), block)

        def look(
            leaf: Float[Array, "..."], d: Int[Array, " rank"]
        ) -> Float[Array, "..."]:
            return jnp.where(jnp.all(d == 0), leaf, jnp.zeros_like(leaf))

        return frame.lookup(padded, look)


class SpatialBroadcast(AbstractCovariance):
    """A covariance without positions, spread over the positions of another one."""

    asks = "otherwise"
    asks_coinciding = "otherwise"
    nonzero_where_masked = True

    def __init__(self, upstream: AbstractCovariance, like: AbstractCovariance):
        """Spread over the positions of `like`."""
        assert not upstream.outline.rank
        self.above, self.like = (upstream,), like
        self.outline = upstream.outline.replace(
            size=like.outline.size,
            canvas=like.outline.canvas,
            fixed_canvas=like.outline.fixed_canvas,
            mask=like.outline.mask,
            graph=like.outline.graph,
        )

    def bind(self, frame: Frame) -> BlockRule:
        block = frame.scope.coincident(self.upstream, self_pairs=frame.self_pairs)
        canvas = self.outline.size if frame.canvas is None else frame.canvas

        def spread(leaf: Float[Array, "..."]) -> Float[Array, "..."]:
            pairs = leaf.shape
            leaf = leaf.reshape(*pairs, *(1,) * len(canvas))
            leaf = jnp.broadcast_to(leaf, (*pairs, *canvas))
            return frame.together(leaf)

        return frame.constant(jax.tree.map(spread, block._replace(gap=None)))
