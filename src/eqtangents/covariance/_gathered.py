"""Covariances that are stored at all displacements and looked up at any positions."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from eqtangents.covariance._covariance import AbstractCovariance, tabulate
from eqtangents.covariance._frame import Block, BlockRule, Evaluation, Frame
from eqtangents.covariance._lattice import along, partner, picked, where


class Gathered(AbstractCovariance):
    r"""Positions picked by index, $K'_{pp'} = K_{i(p)\, i(p')}$, from a stored table.

    The table holds the square of the input's canvas for each pair of examples. Without
    indices nothing moves, but the output can be asked for on any canvas: this is what
    stands between layers whose canvases cannot agree.
    """

    def __init__(
        self,
        upstream: AbstractCovariance,
        indices: Sequence[Sequence[int] | Int[np.ndarray, "..."] | int] | None = None,
    ):
        """Pick positions along each axis, or take all of them.

        An axis with one number disappears. Where a number is negative there is nothing
        to pick: the output is zero.
        """
        self.upstream = upstream
        if indices is None:
            indices = [range(h) for h in upstream.outline.size]
        self.indices = [np.asarray(index, np.int32) for index in indices]
        size = tuple(index.size for index in self.indices if index.ndim)
        mask = upstream.outline.mask
        self.outline = upstream.outline.replace(
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
        table = tabulate(frame.scope, self.upstream, native, same=frame.same)
        canvas, rank = frame.canvas, len(frame.canvas)

        def look(leaf: Float[Array, "..."], d: Int[Array, " rank"]) -> Array:
            here, displacement = [], []
            inside = jnp.ones(canvas, bool)
            axis = 0  # of the output
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
            return where(inside, _gather(leaf, displacement, here, canvas))

        return stored_rule(frame, table, look)

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


def _gather(
    table: Float[Array, "..."],
    displacement: list[Array | np.ndarray],
    here: list[Array | np.ndarray],
    canvas: tuple[int, ...],
) -> Float[Array, "..."]:
    """Entries of a table at one displacement and position for each output position."""
    pairs = (slice(None),) * (table.ndim - 2 * len(here))
    picks = [jnp.broadcast_to(p, canvas) for p in (*displacement, *here)]
    picked = table[(*picks[: len(here)], *pairs, *picks[len(here) :])]
    rank = len(canvas)  # These axes come first, then the pairs.
    return jnp.moveaxis(picked, range(rank), range(-rank, 0))


def at_displacement(
    table: Float[Array, "..."], d: Int[Array, " rank"]
) -> Float[Array, "..."]:
    """The block of a table `(*canvas, *pairs, *canvas)` at a displacement."""
    rank = d.shape[0]
    rest = table.ndim - rank
    start = [*d] + [jnp.zeros((), d.dtype)] * rest
    return lax.dynamic_slice(table, start, (1,) * rank + table.shape[rank:])[
        (0,) * rank
    ]


def stored_rule(
    frame: Frame,
    table: Block,
    look: Callable[[Float[Array, "..."], Int[Array, " rank"]], Float[Array, "..."]],
) -> BlockRule:
    """A rule that looks its block up in a table of the same pairs."""
    handle = frame.registry.add_field(
        (),
        table,
        lambda moving, d: jax.tree.map(lambda leaf: look(leaf, frame.here(d)), moving),
    )
    return lambda at: at.fields[handle][1]


def wrap_uneven(
    upstream: AbstractCovariance, axis: int, before: int, after: int
) -> AbstractCovariance:
    """Repeat the inputs of a periodic axis beyond both of its ends."""
    indices = [tuple(range(h)) for h in upstream.outline.size]
    size = upstream.outline.size[axis]
    indices[axis] = tuple(p % size for p in range(-before, size + after))
    return Gathered(upstream, tuple(indices))


def on_common_canvas(
    branches: list[AbstractCovariance],
) -> list[AbstractCovariance]:
    """Branches that can all be asked for on the largest of their canvases."""
    canvas = tuple(map(max, zip(*(b.outline.canvas for b in branches), strict=True)))
    return [
        Gathered(branch)
        if any(
            fixed_canvas and g != common
            for fixed_canvas, g, common in zip(
                branch.outline.fixed_canvas, branch.outline.canvas, canvas, strict=True
            )
        )
        else branch
        for branch in branches
    ]
