"""Rules that tell entries apart by whether their two ends coincide."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eqtangents._types import Scalar
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Block, BlockRule, Evaluation, Frame
from eqtangents.covariance._lattice import pad_to


class DroppedOut(AbstractCovariance):
    r"""Dropout: values are kept with some probability, and divided by it.

    Only the square of a value knows that it was dropped: entries of one example with
    itself at one position are divided by the probability, all others stay.
    """

    def __init__(self, upstream: AbstractCovariance, keep: Scalar):
        """Keep values with a probability."""
        self.upstream, self.keep = upstream, keep
        self.outline = upstream.outline.replace(gaussian=False)

    def bind(self, frame: Frame) -> BlockRule:
        """Divide where both examples and positions coincide."""
        upstream, scope = frame.bind(self.upstream), frame.scope
        if not frame.same and scope.identical is None:
            # Variances are no longer what the gap was measured to.
            return lambda at: at(upstream)._replace(gap=None)
        dropped = jnp.asarray(True) if frame.same else scope.identical
        assert dropped is not None
        rank = self.outline.rank
        keep = jnp.asarray(self.keep, scope.dtype)
        share = jnp.where(dropped, 1 / keep, jnp.ones_like(keep))
        share = share.reshape(*share.shape, *(1,) * rank)
        if frame.same:
            share = share[None]

        def look(
            share: Float[Array, "..."], d: Int[Array, " rank"] | None
        ) -> Float[Array, "..."]:
            if d is None:
                return share
            return jnp.where(jnp.all(frame.here(d) == 0), share, jnp.ones_like(share))

        handle = frame.registry.add_field((), share, look)

        def rule(at: Evaluation) -> Block:
            _, share = at.fields[handle]
            return at(upstream)._replace(gap=None).scaled(share)

        return rule


class LocallyConnected(AbstractCovariance):
    """Weights of their own at each position: different positions are uncorrelated.

    Whatever is asked for, only coinciding positions of the input are computed.
    """

    def __init__(self, upstream: AbstractCovariance):
        """Drop the covariances of different positions."""
        self.upstream = upstream
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
        block = frame.scope.coincident(self.upstream, same=frame.same)
        padded = jax.tree.map(lambda leaf: pad_to(leaf, canvas, 0.0), block)

        def look(block: Block, d: Int[Array, " rank"] | None) -> Block:
            keep = jnp.all(frame.here(d) == 0)
            return jax.tree.map(
                lambda leaf: jnp.where(keep, leaf, jnp.zeros_like(leaf)), block
            )

        handle = frame.registry.add_field((), padded, look)
        return lambda at: at.fields[handle][1]


class SpatialBroadcast(AbstractCovariance):
    """The same value at all positions of another covariance, from one that has none."""

    nonzero_where_masked = True

    def __init__(self, upstream: AbstractCovariance, like: AbstractCovariance):
        """Spread over the positions of `like`."""
        assert not upstream.outline.rank
        self.upstream, self.like = upstream, like
        self.outline = upstream.outline.replace(
            size=like.outline.size,
            canvas=like.outline.canvas,
            fixed_canvas=like.outline.fixed_canvas,
            mask=like.outline.mask,
            graph=like.outline.graph,
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Compute the value once."""
        block = frame.scope.coincident(self.upstream, same=frame.same)
        canvas = self.outline.size if frame.canvas is None else frame.canvas

        def spread(leaf: Float[Array, "..."]) -> Float[Array, "..."]:
            pairs = leaf.shape
            leaf = leaf.reshape(*pairs, *(1,) * len(canvas))
            return jnp.broadcast_to(leaf, (*pairs, *canvas))

        spread_block = jax.tree.map(spread, block._replace(gap=None))
        handle = frame.registry.add_field(spread_block, (), lambda moving, d: moving)
        return lambda at: at.fields[handle][0]
