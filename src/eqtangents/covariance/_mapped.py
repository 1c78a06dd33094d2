r"""Linear maps of positions: both positions of a pair move on their own.

$$K'_{qq'} = \sum_{p, p'} A_{qp}\, K_{pp'}\, A'_{q'p'}$$

where the map may be another one for each example.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from eqtangents.covariance._covariance import (
    AbstractCovariance,
    Outline,
    new_source,
)
from eqtangents.covariance._frame import Block, BlockRule, Frame, Scope
from eqtangents.covariance._gathered import at_displacement, stored_rule
from eqtangents.covariance._lattice import along, pad_to
from eqtangents.covariance._pooled import fixed_rule
from eqtangents.covariance._readout import dense


class Mapped(AbstractCovariance):
    """A linear map of the positions of each example.

    All pairs of positions of the input and of the output are held in memory, for one
    tile of examples.
    """

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

        `parameters` gives them for a tile, with the examples of both batches in a row;
        they may depend on covariances themselves.
        """
        self.upstream, self.move, self.parameters = upstream, move, parameters
        self.outline = upstream.outline.replace(
            size=size,
            canvas=size,
            fixed_canvas=(True,) * len(size),
            diagonal=False,
            mask=mask,
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Map all pairs of positions, then look up a displacement at a time."""
        scope, same = frame.scope, frame.same
        key = ("mapped", id(self), same)
        mapped = scope.once(key, self, lambda: self._mapped(scope, same))
        if frame.canvas is None:
            pick = lambda leaf: coinciding(leaf, self.outline.size)
            return fixed_rule(frame, jax.tree.map(pick, mapped))
        arrange = lambda leaf: by_displacement(leaf, self.outline.size)
        table = scope.once(("table", *key), self, lambda: jax.tree.map(arrange, mapped))
        return stored_rule(frame, table, at_displacement)

    def _mapped(self, scope: Scope, same: bool) -> Block:
        """The output's covariances, `(*pairs, *size, *size)`."""
        parameters, n1 = self.parameters(scope), scope.n1
        block = dense(scope, self.upstream, same=same)
        if same:
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
        leaf = leaf.reshape(positions, *size_in)
        leaf = jax.vmap(lambda row: self.move(second, row))(leaf)
        leaf = leaf.reshape(positions, count).T.reshape(count, *size_in)
        leaf = jax.vmap(lambda row: self.move(first, row))(leaf)
        return leaf.reshape(count, count).T.reshape(*size, *size)


class Positional(AbstractCovariance):
    """Values that depend on the position alone: one covariance for all examples.

    They come from trained weights, so that the tangent kernel is the covariance itself.
    """

    nonzero_where_masked = True

    def __init__(
        self,
        covariance: Float[Array, "*size2"],
        like: AbstractCovariance,
        channels: int,
    ):
        """Hold the covariance `(*size, *size)` of the positions of `like`."""
        self.covariance = covariance
        outline = like.outline
        self.outline = Outline(
            size=outline.size,
            canvas=outline.size,
            fixed_canvas=(False,) * outline.rank,
            channels=channels,
            gaussian=True,
            sources=new_source(),
            centred=True,
            trainable=True,
            exchangeable=True,
            mask=outline.mask,
            graph=outline.graph,
        )

    def bind(self, frame: Frame) -> BlockRule:
        """The same for all pairs of examples."""
        scope = frame.scope
        covariance = self.covariance.astype(scope.dtype)
        pairs = scope.pairs(frame.same)

        def spread(leaf: Float[Array, "*canvas"]) -> Block:
            leaf = leaf.reshape((1,) * len(pairs) + leaf.shape)
            leaf = jnp.broadcast_to(leaf, (*pairs, *leaf.shape[len(pairs) :]))
            return Block(leaf, leaf if frame.wants_ntk else None)

        if frame.canvas is None:
            handle = frame.registry.add_field(
                coinciding(covariance, self.outline.size), (), lambda moving, d: moving
            )
            return lambda at: spread(at.fields[handle][0])
        padded = pad_to(covariance, (*frame.canvas, *frame.canvas), 0.0)
        table = by_displacement(padded, frame.canvas)
        handle = frame.registry.add_field(
            (), table, lambda moving, d: at_displacement(moving, frame.here(d))
        )
        return lambda at: spread(at.fields[handle][1])


def coinciding(leaf: Float[Array, "..."], size: tuple[int, ...]) -> Float[Array, "..."]:
    """`(*pairs, *size)` out of `(*pairs, *size, *size)`."""
    here = [along(np.arange(h), axis, len(size)) for axis, h in enumerate(size)]
    return leaf[(*[slice(None)] * (leaf.ndim - 2 * len(size)), *here, *here)]


def by_displacement(
    leaf: Float[Array, "..."], canvas: tuple[int, ...]
) -> Float[Array, "..."]:
    """`(*pairs, *canvas, *canvas)` as a table `(*canvas, *pairs, *canvas)`."""
    rank = len(canvas)
    lead = leaf.ndim - 2 * rank
    first, second = [], []
    for axis, g in enumerate(canvas):
        first.append(along(np.arange(g), rank + axis, 2 * rank))
        there = (np.arange(g)[:, None] + np.arange(g)) % g
        shape = [1] * 2 * rank
        shape[axis], shape[rank + axis] = g, g
        second.append(there.reshape(shape))
    entries = leaf[(*[slice(None)] * lead, *first, *second)]
    return jnp.moveaxis(entries, range(lead, lead + rank), range(rank))
