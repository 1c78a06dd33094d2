"""Covariances that are stored at all displacements and looked up at any positions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from eqtangents.covariance._covariance import AbstractCovariance, tabulate
from eqtangents.covariance._frame import Block, Evaluation, Frame, Rule
from eqtangents.covariance._lattice import along, partner


class Gathered(AbstractCovariance):
    r"""Positions picked by index, $K'_{pp'} = K_{i(p)\, i(p')}$, from a stored table.

    The table holds the square of the input's canvas for each pair of examples. Without
    indices nothing moves, but the output can be asked for on any canvas: this is what
    stands between layers whose canvases cannot agree.
    """

    def __init__(
        self,
        upstream: AbstractCovariance,
        indices: tuple[tuple[int, ...], ...] | None = None,
    ):
        """Pick positions along each axis, or take all of them."""
        self.upstream = upstream
        if indices is None:
            indices = tuple(tuple(range(h)) for h in upstream.outline.size)
        self.indices = indices
        size = tuple(map(len, indices))
        self.outline = upstream.outline.replace(
            size=size, canvas=size, rigid=(False,) * len(size)
        )

    def bind(self, frame: Frame) -> Rule:
        """Compute the table, then look up a block at a time."""
        if frame.canvas is None:
            upstream = frame.bind(self.upstream)
            picks = np.ix_(*map(np.asarray, self.indices))

            def coincident_rule(at: Evaluation) -> Block:
                return jax.tree.map(lambda leaf: leaf[..., *picks], at(upstream))

            return coincident_rule
        native = self.upstream.outline.canvas
        table = tabulate(frame.scope, self.upstream, native, same=frame.same)
        canvas = frame.canvas

        def look(d: Int[Array, " rank"]) -> tuple[list[Array], list[Array]]:
            here, displacement = [], []
            for axis, (g, n, index) in enumerate(
                zip(canvas, native, self.indices, strict=True)
            ):
                picked = jnp.asarray(index + (0,) * (g - len(index)), d.dtype)
                there = picked[partner(g, d[axis])]
                here.append(along(picked, axis, len(canvas)))
                displacement.append(along((there - picked) % n, axis, len(canvas)))
            return displacement, here

        return stored_rule(frame, table, lambda leaf, d: _gather(leaf, *look(d)))


def _gather(
    table: Float[Array, "..."], displacement: list[Array], here: list[Array]
) -> Float[Array, "..."]:
    """Entries of a table at one displacement and position for each output position."""
    rank = len(here)
    pairs = (slice(None),) * (table.ndim - 2 * rank)
    picked = table[(*displacement, *pairs, *here)]  # positions first, then pairs
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
) -> Rule:
    """A rule that looks its block up in a table of the same pairs."""
    handle = frame.plan.add_field(
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
            rigid and g != common
            for rigid, g, common in zip(
                branch.outline.rigid, branch.outline.canvas, canvas, strict=True
            )
        )
        else branch
        for branch in branches
    ]
