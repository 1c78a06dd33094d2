"""Where positions end: flattening and global pooling."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from eqtangents._transposed import added_up
from eqtangents.covariance._block import Block, BlockRule
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame, Scope
from eqtangents.covariance._gaps import tracks_gaps, with_gaps
from eqtangents.covariance._lattice import both_inside, short_rows, where
from eqtangents.covariance._table import Sweep


class Flattened(AbstractCovariance):
    r"""Positions become channels, $K' = \frac{1}{P} \sum_p K_{pp}$."""

    asks = "otherwise"
    asks_coinciding = "otherwise"

    def __init__(self, upstream: AbstractCovariance):
        """Flatten outputs; only coinciding positions are ever asked for."""
        outline = upstream.outline
        self.above = (upstream,)
        self.outline = outline.without_positions().replace(
            channels=outline.channels * math.prod(outline.size),
            gaussian=outline.gaussian and not outline.rank,
            exchangeable=outline.exchangeable and not outline.rank,
            summable=outline.summable and not outline.rank,
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Average the entries whose positions coincide."""
        if not self.upstream.outline.rank:
            return frame.bind(self.upstream)

        def build() -> Block:
            block, axes = self._coinciding(frame)
            count = math.prod(self.upstream.outline.size)
            return jax.tree.map(lambda leaf: added_up(leaf, axes) / count, block)

        rule = frame.constant(frame.scope.memo.once(self, frame.self_pairs, build))
        if not tracks_gaps(frame, self):
            return rule
        complete = with_gaps(frame, self)
        return lambda at: complete(at, at(rule))

    def _coinciding(self, frame: Frame) -> tuple[Block, tuple[int, ...]]:
        """The entries whose positions coincide, and the axes of their positions.

        Of pairs of examples they are computed on a canvas, where rows are too short
        for vectors otherwise.
        """
        scope, outline = frame.scope, self.upstream.outline
        canvas, axes = outline.canvas, tuple(range(-outline.rank, 0))
        if frame.self_pairs or not short_rows(canvas):
            found = scope.coincident(self.upstream, self_pairs=frame.self_pairs)
            return found, axes
        here = jnp.zeros((1, outline.rank), jnp.int32)
        sweep = Sweep(
            scope, self.upstream, canvas, self_pairs=False, reach=(0,) * len(axes)
        )
        blocks = sweep.frame.blocks(sweep.rule, here)
        block = jax.tree.map(lambda leaf: leaf[0], blocks)
        if canvas == outline.size:
            return block, (-1,)
        crop = tuple(map(slice, outline.size))
        block = jax.tree.map(lambda leaf: leaf[..., *crop], sweep.frame.apart(block))
        return block, axes


class Total(AbstractCovariance):
    r"""The sum over all positions, $K' = \sum_{p, p'} K_{pp'}$."""

    asks = "everywhere"
    asks_coinciding = "everywhere"

    def __init__(self, upstream: AbstractCovariance):
        """Sum outputs over all positions."""
        self.above = (upstream,)
        self.outline = upstream.outline.without_positions()

    def bind(self, frame: Frame) -> BlockRule:
        """Sum each block as it is computed, over all displacements."""
        if not self.upstream.outline.rank:
            return frame.bind(self.upstream)
        build = lambda: self._sum(frame.scope, frame.self_pairs)
        return frame.constant(frame.scope.memo.once(self, frame.self_pairs, build))

    def _sum(self, scope: Scope, self_pairs: bool) -> Block:
        outline = self.upstream.outline
        canvas, rank = outline.canvas, outline.rank
        reach = (0,) * rank if outline.diagonal else None
        sweep = Sweep(scope, self.upstream, canvas, self_pairs=self_pairs, reach=reach)

        def reduce(displacements: Int[Array, "n rank"]) -> Block:
            inside = jax.vmap(lambda d: both_inside(canvas, outline.size, d))(
                displacements
            )
            inside = jnp.expand_dims(inside, range(1, 1 + len(sweep.frame.pairs)))

            def total(leaf: Array) -> Array:
                if canvas != outline.size:
                    leaf = where(inside, leaf)
                return added_up(leaf, (0, *range(-rank, 0)))

            return jax.tree.map(total, sweep.batch(displacements))

        sums = lax.map(reduce, sweep.batches())
        return jax.tree.map(lambda leaf: leaf.sum(0), sums)


def bounded(scope: Scope, node: AbstractCovariance, block: Block) -> Block:
    """A dense block, corrected where its true entries are known in spite of rounding.

    The covariance of an example with itself is its variance, and where a variance
    overflowed the entries did too. It is left as it is where there are positions, whose
    variances would cost too much.
    """
    if block.gap is None:
        return block
    variance = scope.variance(node)
    left, right = variance[: scope.n1, None], variance[None, scope.n1 :]
    overflown = jnp.isinf(left) | jnp.isinf(right)

    def infinite(leaf: Float[Array, "n1 n2"]) -> Float[Array, "n1 n2"]:
        return jnp.where(overflown, jnp.asarray(jnp.inf, leaf.dtype), leaf)

    nngp = block.nngp
    if scope.identical is not None:
        nngp = jnp.where(scope.identical, left, nngp)
    ntk = None if block.ntk is None else infinite(block.ntk)
    return Block(infinite(nngp), ntk)
