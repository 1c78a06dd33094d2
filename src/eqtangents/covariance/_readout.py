"""Where positions end: flattening and global pooling."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from eqtangents.covariance._covariance import (
    AbstractCovariance,
    Outline,
    Sweep,
    tabulate,
)
from eqtangents.covariance._frame import Block, BlockRule, Frame, Scope
from eqtangents.covariance._lattice import along, both_inside, where
from eqtangents.covariance._pooled import fixed_rule


class Flattened(AbstractCovariance):
    r"""Positions become channels, $K' = \frac{1}{P} \sum_p K_{pp}$."""

    def __init__(self, upstream: AbstractCovariance):
        """Flatten outputs; only coinciding positions are ever asked for."""
        outline = upstream.outline
        self.upstream = upstream
        self.outline = _without_positions(outline).replace(
            channels=outline.channels * math.prod(outline.size),
            gaussian=outline.gaussian and not outline.rank,
            exchangeable=outline.exchangeable and not outline.rank,
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Average the entries whose positions coincide."""
        axes = tuple(range(-self.upstream.outline.rank, 0))
        if not axes:
            return frame.bind(self.upstream)

        def build() -> Block:
            block = frame.scope.coincident(self.upstream, same=frame.same)
            return jax.tree.map(lambda leaf: leaf.mean(axes), block)

        key = ("flattened", id(self), frame.same)
        rule = fixed_rule(frame, frame.scope.once(key, self, build))
        if not frame.tracks_gaps(self):
            return rule
        complete = frame.with_gaps(self)
        return lambda at: complete(at, at(rule))


class Total(AbstractCovariance):
    r"""The sum over all positions, $K' = \sum_{p, p'} K_{pp'}$."""

    def __init__(self, upstream: AbstractCovariance):
        """Sum outputs over all positions."""
        self.upstream = upstream
        self.outline = _without_positions(upstream.outline)

    def bind(self, frame: Frame) -> BlockRule:
        """Sum each block as it is computed, over all displacements."""
        if not self.upstream.outline.rank:
            return frame.bind(self.upstream)
        key = ("total", id(self), frame.same)
        return fixed_rule(
            frame,
            frame.scope.once(key, self, lambda: self._sum(frame.scope, frame.same)),
        )

    def _sum(self, scope: Scope, same: bool) -> Block:
        outline = self.upstream.outline
        canvas, rank = outline.canvas, outline.rank
        reach = (0,) * rank if outline.diagonal else None
        sweep = Sweep(scope, self.upstream, canvas, same=same, reach=reach)

        def reduce(displacements: Int[Array, "n rank"]) -> Block:
            inside = jax.vmap(lambda d: both_inside(canvas, outline.size, d))(
                displacements
            )
            inside = jnp.expand_dims(inside, range(1, 1 + len(sweep.pairs)))

            def total(leaf: Array) -> Array:
                if canvas != outline.size:
                    leaf = where(inside, leaf)
                return leaf.sum((0, *range(-rank, 0)))

            return jax.tree.map(total, sweep.batch(displacements))

        sums = lax.map(reduce, sweep.batches())
        return jax.tree.map(lambda leaf: leaf.sum(0), sums)


def _without_positions(outline: Outline) -> Outline:
    """The facts of what is left when positions are summed over."""
    axes = tuple(range(1, 1 + outline.rank))
    mask = None if outline.mask is None else outline.mask.any(axes)
    return outline.replace(
        size=(), canvas=(), fixed_canvas=(), diagonal=False, mask=mask, graph=None
    )


def dense(scope: Scope, node: AbstractCovariance, *, same: bool = False) -> Block:
    """The entries of all pairs of positions, `(*pairs, *size, *size)`."""
    canvas, size, rank = node.outline.canvas, node.outline.size, node.outline.rank
    if not rank:
        return scope.coincident(node, same=same)
    first = [along(np.arange(h), axis, 2 * rank) for axis, h in enumerate(size)]
    second = [along(np.arange(h), rank + axis, 2 * rank) for axis, h in enumerate(size)]
    displacement = [(q - p) % g for p, q, g in zip(first, second, canvas, strict=True)]

    pairs = len(scope.pairs(same))

    def pick(table: Float[Array, "..."]) -> Float[Array, "..."]:
        entries = table[(*displacement, *[slice(None)] * pairs, *first)]
        return jnp.moveaxis(entries, range(-pairs, 0), range(pairs))

    return jax.tree.map(pick, tabulate(scope, node, canvas, same=same))


def bounded(scope: Scope, node: AbstractCovariance, block: Block) -> Block:
    """The entries of all pairs, with what is known of them in spite of rounding.

    The covariance of an example with itself is its variance, and where a variance
    overflowed the entries did too. Only where variances cost little: without positions.
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
