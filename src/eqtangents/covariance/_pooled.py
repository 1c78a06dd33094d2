r"""Windowed pooling: the two positions of a pair range over their windows freely.

$$K'_{qq'} = \sum_{i, j} K_{s q + i,\, s q' + j}$$

The pairs of offsets with $\delta = j - i$ belong to the input displacement
$e = s (q' - q) + \delta$. So the block of the inputs at `e` is summed over shortened
windows, once for each `delta` congruent to `e` modulo `s`, and each sum is added to the
output displacement `(e - delta) / s`: no input block is needed twice, and nothing of
the inputs' resolution is stored.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents.covariance._covariance import (
    AbstractCovariance,
    Sweep,
)
from eqtangents.covariance._frame import Block, Frame, Rule, Scope
from eqtangents.covariance._gathered import at_displacement, stored_rule
from eqtangents.covariance._lattice import all_displacements, materialised
from eqtangents.covariance._stencil import strided, window_sum
from eqtangents.covariance._windows import Window


class Pooled(AbstractCovariance):
    """Sums over all pairs of positions of two windows."""

    leaks = True

    def __init__(self, upstream: AbstractCovariance, windows: tuple[Window, ...]):
        """Sum outputs over windows, one for each axis."""
        self.upstream, self.windows, outline = strided(upstream, windows)
        self.outline = outline.replace(diagonal=False)

    def bind(self, frame: Frame) -> Rule:
        """Compute all displacements, or only the one where positions coincide."""
        scope, same = frame.scope, frame.same
        if frame.canvas is None:
            canvas = self.outline.canvas
            key = ("pooled at zero", id(self), same)
            block = scope.once(key, self, lambda: self._at_zero(scope, canvas, same))
            return fixed_rule(frame, block)
        canvas = frame.canvas
        key = ("pooled", id(self), same, canvas)
        table = scope.once(key, self, lambda: self._table(scope, canvas, same))
        return stored_rule(frame, table, at_displacement)

    def _sweep(self, scope: Scope, canvas: tuple[int, ...], same: bool) -> Sweep:
        above = tuple(g * w.stride for g, w in zip(canvas, self.windows, strict=True))
        return Sweep(scope, self.upstream, above, same=same)

    def _at_zero(self, scope: Scope, canvas: tuple[int, ...], same: bool) -> Block:
        """The block at displacement zero, from all `delta` within the window."""
        sweep = self._sweep(scope, canvas, same)
        grid = itertools.product(*(range(1 - w.count, w.count) for w in self.windows))
        deltas = jnp.asarray(list(grid), jnp.int32)
        crop = tuple(map(slice, self.outline.size))

        def slab(delta: Int[Array, " rank"]) -> Block:
            e = (delta % jnp.asarray(sweep.canvas, delta.dtype))[None]
            sums = self._sums(sweep, e, [*delta[:, None]])
            return jax.tree.map(lambda leaf: leaf[0][..., *crop], sums)

        return jax.tree.map(lambda leaf: leaf.sum(0), lax.map(slab, deltas))

    def _table(self, scope: Scope, canvas: tuple[int, ...], same: bool) -> Block:
        """The blocks at all displacements, `(*canvas, *pairs, *canvas)`."""
        sweep = self._sweep(scope, canvas, same)
        empty = jnp.zeros((*canvas, *sweep.pairs, *canvas), scope.dtype)
        wants_ntk = scope.wants_ntk and not same and self.outline.trainable
        tables = Block(empty, empty if wants_ntk else None)
        # delta = (e mod s) + s k for these k, some of which are out of reach.
        most = [
            (-((w.count - 1) // -w.stride), (w.count - 1) // w.stride)
            for w in self.windows
        ]
        steps = [np.arange(-low, high + 1, dtype=np.int32) for low, high in most]

        def add(tables: Block, e: Int[Array, " rank"]) -> tuple[Block, None]:
            deltas, targets = [], []
            for axis, (k, window) in enumerate(zip(steps, self.windows, strict=True)):
                deltas.append(e[axis] % window.stride + window.stride * k)
                targets.append((e[axis] // window.stride - k) % canvas[axis])
            slabs = self._sums(sweep, e[None], deltas)
            target = jnp.stack(jnp.meshgrid(*targets, indexing="ij"), -1)
            return lax.scan(_add_at, tables, (target.reshape(-1, len(canvas)), slabs))

        return lax.scan(add, tables, jnp.asarray(all_displacements(sweep.canvas)))[0]

    def _sums(
        self,
        sweep: Sweep,
        e: Int[Array, "1 rank"],
        deltas: Sequence[Int[Array, " _steps"]],
    ) -> Block:
        """Sums over windows shortened by each `delta`, along a new leading axis."""
        block = jax.tree.map(lambda leaf: leaf[0], sweep.blocks(e))
        masks = materialised(
            lambda: [
                self._mask(axis, sweep.canvas[axis], e[0, axis], delta)
                for axis, delta in enumerate(deltas)
            ],
            e,
        )
        rank = len(self.windows)

        def total(leaf: Float[Array, "..."]) -> Float[Array, "..."]:
            leaf = leaf[None]
            for axis, (window, mask) in enumerate(
                zip(self.windows, masks, strict=True)
            ):
                size = sweep.canvas[axis] // window.stride
                # All steps of this axis times those of the axes before it.
                leaf = window_sum(
                    leaf[:, None],
                    axis - rank,
                    window,
                    size,
                    [
                        mask[:, i].reshape(
                            -1,
                            *(1,) * (leaf.ndim - 1 - rank + axis),
                            size,
                            *(1,) * (rank - 1 - axis),
                        )
                        for i in range(window.count)
                    ],
                )
                leaf = leaf.reshape(-1, *leaf.shape[2:])
            return leaf

        return jax.tree.map(total, block)

    def _mask(
        self, axis: int, canvas: int, e: Int[Array, ""], delta: Int[Array, " steps"]
    ) -> Bool[Array, "steps count positions"]:
        """Where `(i, i + delta)` is a pair of offsets of the window, for each `i`."""
        window = self.windows[axis]
        i = jnp.arange(window.count, dtype=e.dtype)[None, :, None]
        delta = delta[:, None, None]
        p = jnp.arange(0, canvas, window.stride, dtype=e.dtype)[None, None]
        p = p + jnp.asarray(window.offsets, e.dtype)[None, :, None]
        mask = (i + delta >= 0) & (i + delta < window.count)
        if window.periodic:
            return jnp.broadcast_to(mask, (delta.shape[0], *p.shape[1:]))
        partner = (p + e) % canvas
        # The output of the partner may be one that does not exist.
        output = partner - jnp.asarray(window.offsets, e.dtype)[None, :, None] - delta
        mask &= (p >= 0) & (p < window.size_in) & (partner < window.size_in)
        return mask & (output >= 0) & (output <= (window.size_out - 1) * window.stride)


def _add_at(
    tables: Block, slab: tuple[Int[Array, " rank"], Block]
) -> tuple[Block, None]:
    """Add a block to a table at a displacement."""
    target, block = slab

    def add(
        table: Float[Array, "..."], leaf: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        start = [*target] + [jnp.zeros((), target.dtype)] * leaf.ndim
        leaf = leaf.reshape((1,) * len(target) + leaf.shape)
        old = lax.dynamic_slice(table, start, leaf.shape)
        return lax.dynamic_update_slice(table, old + leaf, start)

    return jax.tree.map(add, tables, block), None


def fixed_rule(frame: Frame, block: Block) -> Rule:
    """A rule whose block is known when it is bound."""
    handle = frame.plan.add_field(block, (), lambda moving, d: moving)
    return lambda at: at.fields[handle][0]
