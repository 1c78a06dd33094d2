r"""Linear maps of positions: both positions of a pair move on their own.

$$K'_{qq'} = \sum_{p, p'} A_{qp}\, K_{pp'}\, A'_{q'p'}$$

where the map may be another one for each example.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from eqtangents._types import Scalar
from eqtangents.covariance._block import Block, BlockRule, Evaluation
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame, Scope
from eqtangents.covariance._lattice import pad_to
from eqtangents.covariance._learning import learning_rates, may_train
from eqtangents.covariance._table import (
    at_displacement,
    by_displacement,
    coinciding,
    dense_block,
)


class Mapped(AbstractCovariance):
    """A linear map of the positions of each example.

    All pairs of positions of the input and of the output are held in memory, for one
    tile of examples.
    """

    asks = "everywhere"
    asks_coinciding = "everywhere"
    tabulates = True
    nonzero_where_masked = True

    def __init__(
        self,
        upstream: AbstractCovariance,
        size: tuple[int, ...],
        move: Callable[[Any, Float[Array, "*size_in"]], Float[Array, "*size"]],
        parameters: Callable[[Scope], PyTree[Array]] = lambda scope: None,
        *,
        mask: Bool[Array, "n *size"] | None,
    ):
        """Move the positions of one channel by `move(parameters, values)`.

        `parameters` computes them for a tile, with the examples of both batches in a
        row. They may depend on covariances themselves.
        """
        self.above, self.move, self.parameters = (upstream,), move, parameters
        kept = upstream.outline.keeping(upstream.outline.canvas).keeping(size)
        self.outline = kept.replace(
            size=size,
            canvas=size,
            fixed_canvas=(True,) * len(size),
            diagonal=False,
            mask=mask,
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Map all pairs of positions, then look up a displacement at a time."""
        once, size = frame.scope.memo.once, self.outline.size
        self_pairs = frame.self_pairs
        build = lambda: self._dense(frame.scope, self_pairs)
        dense = once(self, ("dense", self_pairs), build)
        if frame.canvas is None:
            pick = lambda leaf: coinciding(leaf, size)
            return frame.constant(jax.tree.map(pick, dense))
        arrange = lambda: jax.tree.map(lambda leaf: by_displacement(leaf, size), dense)
        table = once(self, ("table", self_pairs), arrange)
        return frame.lookup(table, at_displacement)

    def _dense(self, scope: Scope, self_pairs: bool) -> Block:
        """The output's covariances, `(*pairs, *size, *size)`."""
        parameters, n1 = self.parameters(scope), scope.n1
        block = dense_block(scope, self.upstream, self_pairs=self_pairs)
        block = block._replace(gap=None)  # of no use to other positions
        if self_pairs:
            both = jax.vmap(lambda one, leaf: self._both(one, one, leaf))
            return jax.tree.map(lambda leaf: both(parameters, leaf), block)
        first = jax.tree.map(lambda leaf: leaf[:n1], parameters)
        second = jax.tree.map(lambda leaf: leaf[n1:], parameters)
        columns = jax.vmap(self._both, (None, 0, 0))
        rows = jax.vmap(columns, (0, None, 0))
        return jax.tree.map(lambda leaf: rows(first, second, leaf), block)

    def _both(
        self, first: Any, second: Any, leaf: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """Move both positions of the covariance of one pair of examples."""
        size_in, size = self.upstream.outline.size, self.outline.size
        positions, count = math.prod(size_in), math.prod(size)
        # (*size_in, *size_in) -> (positions, *size_in) -> (positions, *size)
        leaf = leaf.reshape(positions, *size_in)
        leaf = jax.vmap(lambda row: self.move(second, row))(leaf)
        # The second position comes first now: (count, *size_in) -> (count, *size)
        leaf = leaf.reshape(positions, count).T.reshape(count, *size_in)
        leaf = jax.vmap(lambda row: self.move(first, row))(leaf)
        return leaf.reshape(count, count).T.reshape(*size, *size)


class PositionValues(AbstractCovariance):
    """Values that depend on the position alone: one covariance for all examples.

    They come from trained weights. The tangent kernel is the covariance itself for
    normal numbers, times their rate of learning.
    """

    nonzero_where_masked = True

    def __init__(
        self,
        covariance: Float[Array, "*size2"],
        like: AbstractCovariance,
        channels: int,
        *,
        variance: Scalar = 1.0,
        gradient: Scalar = 1.0,
        rate: Scalar = 1.0,
    ):
        """Hold the covariance of all pairs of positions of `like`.

        `variance`, `gradient`: by what it is multiplied for either kernel; `rate`: of
        learning.
        """
        self.covariance, self.rate = covariance, rate
        self.variance, self.gradient = variance, gradient
        outline = like.outline
        self.outline = outline.with_weights(channels, gaussian=True).replace(
            canvas=outline.size, fixed_canvas=(False,) * outline.rank
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Spread the covariance over all pairs of examples."""
        covariance, size = self.covariance.astype(frame.scope.dtype), self.outline.size
        pairs, rates = frame.pairs, learning_rates(frame, self.rate)
        if frame.canvas is None:
            values = frame.constant(coinciding(covariance, size))
        else:
            padded = pad_to(covariance, (*frame.canvas, *frame.canvas), 0.0)
            table = by_displacement(padded, frame.canvas)
            values = frame.lookup(table, at_displacement)

        def rule(at: Evaluation) -> Block:
            leaf = values(at)
            leaf = leaf.reshape((1,) * len(pairs) + leaf.shape)
            leaf = jnp.broadcast_to(leaf, (*pairs, *leaf.shape[len(pairs) :]))
            variance, gradient = (
                jnp.asarray(c, leaf.dtype) for c in (self.variance, self.gradient)
            )
            nngp = variance * leaf
            if not (frame.wants_ntk and may_train(self.rate)):
                return Block(nngp, None)
            (rate,) = rates(at)
            return Block(nngp, jnp.asarray(rate, leaf.dtype) * gradient * leaf)

        return rule
