"""Positions picked by index, out of covariances stored at all displacements."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from eqtangents.covariance._block import Block, BlockRule, Evaluation
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame
from eqtangents.covariance._lattice import along, partner, picked, where
from eqtangents.covariance._table import tabulate


class Gathered(AbstractCovariance):
    r"""Positions picked by index, $K'_{pp'} = K_{i(p)\, i(p')}$, from a table.

    The table holds the square of the input's canvas for each pair of examples.
    """

    asks = "everywhere"

    def __init__(
        self,
        upstream: AbstractCovariance,
        indices: Sequence[Sequence[int] | Int[np.ndarray, "..."] | int],
    ):
        """Pick positions along each axis.

        An axis with one number, instead of a sequence, disappears. Where a number is
        negative, the output is zero.
        """
        self.above = (upstream,)
        self.indices = [np.asarray(index, np.int32) for index in indices]
        size = tuple(index.size for index in self.indices if index.ndim)
        mask = upstream.outline.mask
        kept = upstream.outline.keeping(upstream.outline.canvas)
        self.outline = kept.replace(
            size=size,
            canvas=size,
            fixed_canvas=(False,) * len(size),
            diagonal=False,
            mask=None if mask is None else picked(mask, self.indices),
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Compute the table, then look up a block at a time."""
        if frame.canvas is None:
            return self._coincident_rule(frame.bind(self.upstream))
        native = self.upstream.outline.canvas
        table = tabulate(
            frame.scope, self.upstream, native, self_pairs=frame.self_pairs
        )
        canvas, rank = frame.canvas, len(frame.canvas)

        def look(leaf: Float[Array, "..."], d: Int[Array, " rank"]) -> Array:
            here, displacement = [], []
            inside = jnp.ones(canvas, bool)
            axis = 0  # Of the output, which lacks the axes that disappear.
            for n, index in zip(native, self.indices, strict=True):
                if not index.ndim:
                    here.append(index)
                    displacement.append(np.zeros((), np.int32))
                    continue
                index = np.pad(index, (0, canvas[axis] - index.size))
                first = jnp.asarray(index, d.dtype)
                second = first[partner(canvas[axis], d[axis])]
                here.append(along(first, axis, rank))
                displacement.append(along((second - first) % n, axis, rank))
                if np.any(index < 0):
                    inside &= along((first >= 0) & (second >= 0), axis, rank)
                axis += 1
            return where(inside, _table_entries(leaf, displacement, here, canvas))

        return frame.lookup(table, look)

    def _coincident_rule(self, upstream: BlockRule) -> BlockRule:
        picks = np.ix_(*map(np.atleast_1d, self.indices))
        inside = functools.reduce(np.logical_and, [p >= 0 for p in picks], np.bool_(1))

        def rule(at: Evaluation) -> Block:
            def pick(leaf: Float[Array, "..."]) -> Float[Array, "..."]:
                lead = leaf.shape[: leaf.ndim - len(picks)]
                entries = where(jnp.asarray(inside), leaf[..., *picks])
                return entries.reshape(*lead, *self.outline.size)

            return jax.tree.map(pick, at(upstream))

        return rule


def _table_entries(
    table: Float[Array, "..."],
    displacement: list[Array | np.ndarray],
    here: list[Array | np.ndarray],
    canvas: tuple[int, ...],
) -> Float[Array, "..."]:
    """Entries of a table at one displacement and position for each output position."""
    pairs = (slice(None),) * (table.ndim - 2 * len(here))
    picks = [jnp.broadcast_to(p, canvas) for p in (*displacement, *here)]
    entries = table[(*picks[: len(here)], *pairs, *picks[len(here) :])]
    rank = len(canvas)  # (*canvas, *pairs) -> (*pairs, *canvas)
    return jnp.moveaxis(entries, range(rank), range(-rank, 0))


def recanvassed(upstream: AbstractCovariance) -> AbstractCovariance:
    """The same covariance, to be asked for on any canvas.

    Nothing moves. It stands between layers whose canvases cannot agree.
    """
    return Gathered(upstream, [range(h) for h in upstream.outline.size])


def wrap_uneven(
    upstream: AbstractCovariance, axis: int, before: int, after: int
) -> AbstractCovariance:
    """Repeat the inputs of a periodic axis beyond both of its ends."""
    indices = [range(h) for h in upstream.outline.size]
    size = upstream.outline.size[axis]
    wrapped = [p % size for p in range(-before, size + after)]
    return Gathered(upstream, [*indices[:axis], wrapped, *indices[axis + 1 :]])


def on_common_canvas(
    branches: Sequence[AbstractCovariance],
) -> tuple[AbstractCovariance, ...]:
    """Branches that can all be asked for on the largest of their canvases."""
    largest = tuple(map(max, zip(*(b.outline.canvas for b in branches), strict=True)))

    def fits(branch: AbstractCovariance) -> bool:
        outline = branch.outline
        axes = zip(outline.fixed_canvas, outline.canvas, largest, strict=True)
        return all(not fixed or own == common for fixed, own, common in axes)

    return tuple(b if fits(b) else recanvassed(b) for b in branches)
