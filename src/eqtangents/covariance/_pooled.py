r"""Windowed pooling: the two positions of a pair range over their windows freely.

$$K'_{qq'} = \sum_{i, j} K_{s q + i,\, s q' + j}$$

The pairs of offsets with $\delta = j - i$ belong to the input displacement
$e = s (q' - q) + \delta$. Inputs are asked for in groups, of all $e = s t + \rho$ with
$0 \le \rho < s$ along each axis, and go to the few output displacements $t + k$ with
$\rho - \delta = s k$: which entries of which input add up is the same for every group.
No input is needed twice, and nothing of the inputs' resolution is stored but a group.
"""

import dataclasses
import functools
import itertools
import math
import operator
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents._buffers import materialised
from eqtangents.covariance._block import Block, BlockRule
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame, Scope
from eqtangents.covariance._lattice import along, positions
from eqtangents.covariance._overlay import added_at, box_of, overlaid
from eqtangents.covariance._stencil import strided
from eqtangents.covariance._table import Sweep, at_displacement
from eqtangents.covariance._window import Window
from eqtangents.covariance._window_sums import window_sum


# Along one axis, for each `rho, delta` and each pair of offsets with this difference:
# where both inputs exist.
_Masks: TypeAlias = dict[tuple[int, int], list[Bool[Array, " _canvas"]]]


class Pooled(AbstractCovariance):
    """Sums over all pairs of positions of two windows."""

    asks = "everywhere"
    asks_coinciding = "otherwise"
    nonzero_where_masked = True

    def __init__(self, upstream: AbstractCovariance, windows: tuple[Window, ...]):
        """Sum outputs over windows, one for each axis."""
        upstream, self.windows, outline = strided(upstream, windows)
        self.above = (upstream,)
        self.outline = outline.keeping(outline.canvas).replace(diagonal=False)

    def bind(self, frame: Frame) -> BlockRule:
        """Compute the displacements that are asked for, unless a table has them."""
        if not self.windows:
            return frame.bind(self.upstream)
        rank, canvas, reach = self.outline.rank, frame.canvas, frame.reach
        if canvas is None:
            canvas, reach = self.outline.canvas, (0,) * rank
        tables: list[_Table] = frame.scope.memo.once(self, frame.self_pairs, list)
        table = next((t for t in tables if t.serves(frame)), None)
        if table is None:
            axes = tuple(map(_Axis, self.windows, canvas, reach))
            table = _Table(self._blocks(frame.scope, axes, frame.self_pairs), axes)
            tables.append(table)
        if frame.canvas is not None:
            return frame.lookup(table.blocks, table.look)
        zero, crop = jnp.zeros(rank, jnp.int32), tuple(map(slice, self.outline.size))
        look = lambda leaf: table.look(leaf, zero)[..., *crop]
        return frame.constant(jax.tree.map(look, table.blocks))

    def _blocks(
        self, scope: Scope, axes: tuple["_Axis", ...], self_pairs: bool
    ) -> Block:
        """The blocks of a table, `(*displacements, *pairs, *canvas)`."""
        canvas, above, reach = (
            tuple(getattr(axis, name) for axis in axes)
            for name in ("canvas", "above", "above_reach")
        )
        sweep = Sweep(
            scope,
            self.upstream,
            above,
            self_pairs=self_pairs,
            reach=reach,
            read_once=False,
        )
        rows = tuple(axis.groups + len(axis.terms) - 1 for axis in axes)
        empty = jnp.broadcast_to(scope.zero, (*rows, *sweep.frame.pairs, *canvas))
        wants_ntk = sweep.frame.wants_ntk and self.outline.trainable
        tables = Block(empty, empty if wants_ntk else None)
        groups = tuple(axis.groups for axis in axes)
        box = box_of(groups, sweep.most // math.prod(len(a.residues) for a in axes))
        counts = tuple(g // b for g, b in zip(groups, box, strict=True))
        corners = np.array([*np.ndindex(*counts)], np.int32) * np.array([box], np.int32)

        def add(tables: Block, corner: Int[Array, " rank"]) -> tuple[Block, None]:
            slabs = _box_sums(sweep, axes, box, corner)
            put = lambda table, slab: added_at(table, slab, corner)
            return jax.tree.map(put, tables, slabs), None

        tables, _ = lax.scan(add, tables, jnp.asarray(corners))
        for number, axis in enumerate(axes):
            tables = jax.tree.map(functools.partial(axis.folded, number), tables)
        return tables


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One axis of a table: output displacements up to `reach`, on a canvas."""

    window: Window
    canvas: int
    reach: int

    @functools.cached_property
    def terms(self) -> dict[int, list[tuple[int, int]]]:
        """The pairs `rho, delta` for each `k`, in the order of `k`."""
        stride, count = self.window.stride, self.window.count
        terms: dict[int, list[tuple[int, int]]] = {}
        for rho, delta in itertools.product(range(stride), range(1 - count, count)):
            k, rest = divmod(rho - delta, stride)
            if not rest:
                terms.setdefault(k, []).append((rho, delta))
        return dict(sorted(terms.items()))

    @functools.cached_property
    def residues(self) -> list[int]:
        """Every `rho` that some pair of offsets leads to."""
        return sorted({rho for rho, _ in itertools.chain(*self.terms.values())})

    @property
    def whole(self) -> bool:
        """Whether groups go all around the canvas, and so hold every displacement."""
        return 2 * self.reach + len(self.terms) >= self.canvas

    @property
    def first(self) -> int:
        """The `t` of the first group."""
        return 0 if self.whole else -self.reach - max(self.terms)

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self.canvas if self.whole else 2 * self.reach + len(self.terms)

    @property
    def above(self) -> int:
        """The canvas of the inputs."""
        return self.canvas * self.window.stride

    @property
    def above_reach(self) -> int:
        """The largest displacement of the inputs, either way."""
        end = self.first + self.groups
        return self.above if self.whole else self.window.stride * max(end, -self.first)

    def masks(self, t: Int[Array, ""]) -> _Masks:
        """The masks for a group; none where all inputs exist."""
        window, stride = self.window, self.window.stride
        full = window.counts() == (window.count,) * self.canvas
        if window.periodic or full:
            return {}

        def mask(rho: int, delta: int, offset: int) -> Bool[Array, " canvas"]:
            p = positions(self.canvas) * stride + offset
            partner = (p + (t * stride + rho)) % self.above
            # The output of the partner may be one that does not exist.
            output = partner - offset - delta
            inside = (p >= 0) & (p < window.size_in) & (partner < window.size_in)
            return inside & (output >= 0) & (output < window.size_out * stride)

        return {
            (rho, delta): [mask(rho, delta, o) for o in _met(window, delta).offsets]
            for rho, delta in itertools.chain(*self.terms.values())
        }

    def folded(self, number: int, table: Float[Array, "..."]) -> Float[Array, "..."]:
        """Cut a table to the rows that are asked for.

        Rows that are a whole canvas apart have one displacement, and are added up.
        """
        low = min(self.terms)  # The first row has the displacement `first + low`.
        if not self.whole:
            start = max(self.terms) - low
            stop = start + 2 * self.reach + 1
            return lax.slice_in_dim(table, start, stop, axis=number)
        ends = list(range(self.canvas, table.shape[number], self.canvas))
        total, *more = jnp.split(table, ends, number)
        for part in more:
            widths = [(0, 0)] * table.ndim
            widths[number] = (0, self.canvas - part.shape[number])
            total = total + jnp.pad(part, widths)
        return jnp.roll(total, low, number)

    def row(self, d: Int[Array, ""]) -> Int[Array, ""]:
        """The row of a displacement in the table."""
        return d if self.whole else (d + self.reach) % self.canvas


class _Table(NamedTuple):
    """The blocks at some displacements, `(*displacements, *pairs, *canvas)`."""

    blocks: Block
    axes: tuple[_Axis, ...]

    def serves(self, frame: Frame) -> bool:
        """Whether the table has all displacements that a frame asks for."""
        if frame.canvas is None:
            return True
        return frame.canvas == tuple(axis.canvas for axis in self.axes) and all(
            axis.whole or axis.reach >= reach
            for axis, reach in zip(self.axes, frame.reach, strict=True)
        )

    def look(
        self, leaf: Float[Array, "..."], d: Int[Array, " rank"]
    ) -> Float[Array, "..."]:
        """The block at a displacement."""
        rows = [axis.row(d[i]) for i, axis in enumerate(self.axes)]
        return at_displacement(leaf, jnp.stack(rows))


def _met(window: Window, delta: int) -> Window:
    """The offsets `o` such that `o + delta` lies in the window as well."""
    start, stop = max(0, -delta), window.count - max(0, delta)
    return dataclasses.replace(window, offsets=window.offsets[start:stop])


def _box_sums(
    sweep: Sweep,
    axes: tuple[_Axis, ...],
    box: tuple[int, ...],
    corner: Int[Array, " rank"],
) -> Block:
    """The sums that a box of groups adds to the rows of a table from its corner on."""
    first = np.array([axis.first for axis in axes], np.int32)
    strides = np.array([axis.window.stride for axis in axes], np.int32)
    above = np.array([axis.above for axis in axes], np.int32)
    residues = itertools.product(*(axis.residues for axis in axes))
    residues = np.array(list(residues), np.int32)
    t = corner[None] + (np.array([*np.ndindex(*box)], np.int32) + first[None])
    e = ((t * strides[None])[:, None] + residues[None]).reshape(-1, first.size)

    def masks_of(t: Int[Array, " rank"]) -> list[_Masks]:
        return [axis.masks(t[i]) for i, axis in enumerate(axes)]

    masks = materialised(lambda: jax.vmap(masks_of)(t), corner)

    def slab(leaf: Float[Array, "..."]) -> Float[Array, "..."]:
        leaf = leaf.reshape(t.shape[0], len(residues), *leaf.shape[1:])
        sums = jax.vmap(lambda one, its: _group_sums(one, axes, its))(leaf, masks)
        return overlaid(sums.reshape(*box, *sums.shape[1:]), len(box))

    return jax.tree.map(slab, sweep.blocks(e % above[None]))


def _group_sums(
    leaf: Float[Array, "group ..."],
    axes: tuple[_Axis, ...],
    masks: list[_Masks],
) -> Float[Array, "..."]:
    """The sums that a group adds at each `k`, `(*k, *pairs, *canvas)`."""
    rank = len(axes)
    leaf = leaf.reshape(*(len(axis.residues) for axis in axes), *leaf.shape[1:])
    for number, axis in enumerate(axes):

        def part(
            rho: int, delta: int, leaf=leaf, number=number, axis=axis
        ) -> Float[Array, "..."]:
            met = _met(axis.window, delta)
            inside = masks[number].get((rho, delta), [None] * met.count)
            return window_sum(
                lax.index_in_dim(
                    leaf, axis.residues.index(rho), number, keepdims=False
                ),
                number - rank,
                met,
                axis.canvas,
                [None if m is None else along(m, number, rank) for m in inside],
            )

        shifts = [
            functools.reduce(operator.add, itertools.starmap(part, pairs))
            for pairs in axis.terms.values()
        ]
        leaf = jnp.stack(shifts, number)
    return leaf
