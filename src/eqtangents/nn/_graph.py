"""Graphs: sums over neighbours."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._types import SpatialAxes, plain
from eqtangents.covariance import AbstractCovariance, Mapped
from eqtangents.nn._inputs import Adjacency, Edges, Extras
from eqtangents.nn._layer import AbstractUnary, LayerError


class Aggregate(AbstractUnary):
    r"""Sums over the neighbours of each position of a `Graph`, as they are weighted.

    $$y_q = \sum_p P_{pq} x_p, \qquad K' = P^T K P'$$

    per pair of examples, and $T'$ alike, where $P_{pq}$ is the weight of the edge from
    $p$ to $q$. Inputs that are no `Graph` pass unchanged.

    **Cost:** as a dense matrix for a dense adjacency; for `Edges` per position and
    edge. Keeps all pairs of positions in memory, for one tile of examples.

    **Source:** Du et al. 2019, arXiv:1905.13192 (graph neural tangent kernel).
    """

    axes: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, axes: SpatialAxes | None = None):
        """Set the axes of one example that the graph connects; by default all spatial.

        They are counted from 1, the first spatial axis.
        """
        axes = plain(axes)
        self.axes = (axes,) if isinstance(axes, int) else axes

    def apply(
        self, value: Float[Array, "channels *size"], extras: Extras
    ) -> Float[Array, "channels *size"]:
        if extras.adjacency is None:
            return value
        self._check(value.shape[1:], jax.tree.map(jnp.shape, extras.adjacency))
        return jax.vmap(self._sums, (None, 0))(extras.adjacency, value)

    def push(self, covariance: AbstractCovariance) -> AbstractCovariance:
        outline = covariance.outline
        if outline.graph is None:
            return covariance
        of_one = lambda leaf: leaf.shape[1:]
        self._check(outline.size, jax.tree.map(of_one, outline.graph))
        return Mapped(
            covariance,
            outline.size,
            self._sums,
            lambda scope: outline.graph,
            mask=outline.mask,
        )

    def _axes(self, rank: int) -> tuple[int, ...]:
        """The connected axes, counted without the axis of channels."""
        axes = range(1, rank + 1) if self.axes is None else self.axes
        if not axes or min(axes) < 1 or max(axes) > rank:
            raise LayerError(
                self,
                f"aggregates over the axes {tuple(axes)} of an example, but its "
                f"spatial axes are {tuple(range(1, rank + 1))}.",
            )
        return tuple(axis - 1 for axis in axes)

    def _sums(
        self, adjacency: Adjacency, values: Float[Array, "*size"]
    ) -> Float[Array, "*size"]:
        """The sums of one channel."""
        axes = self._axes(values.ndim)
        first = tuple(range(len(axes)))
        values = jnp.moveaxis(values, axes, first)
        sizes, rest = values.shape[: len(axes)], values.shape[len(axes) :]
        flat = values.reshape(math.prod(sizes), *rest)
        if isinstance(adjacency, Edges):
            sums = _sparse_sums(adjacency, flat, sizes)
        else:
            matrix = adjacency.astype(values.dtype)
            matrix = matrix.reshape(flat.shape[0], flat.shape[0])
            sums = jnp.tensordot(matrix.T, flat, 1, precision=lax.Precision.HIGHEST)
        return jnp.moveaxis(sums.reshape(values.shape), first, axes)

    def _check(self, size: tuple[int, ...], shapes: Any) -> None:
        """Raise unless the graph of an example, given by its shapes, fits its size."""
        axes = self._axes(len(size))
        connected = tuple(size[axis] for axis in axes)
        if isinstance(shapes, Edges):
            shape: Any = shapes.weights
            wanted = (shape, (*shape, len(axes)))
            wanted = wanted if len(axes) == 1 else wanted[1:]
            for name in ("senders", "receivers"):
                got = getattr(shapes, name)
                if got not in wanted or len(shape) != 1:
                    raise LayerError(
                        self,
                        f"its graph has `{name}` of shape {got} and `weights` of shape "
                        f"{shape} for each example, but one weight an edge and "
                        f"{len(axes)} coordinates of its ends are needed.",
                    )
        elif shapes != connected + connected:
            raise LayerError(
                self,
                f"its graph has an adjacency of shape {shapes} for each "
                f"example, but connects axes of sizes {connected}: its shape must be "
                f"{connected + connected}.",
            )


def _sparse_sums(
    edges: Edges, values: Float[Array, "positions *rest"], sizes: tuple[int, ...]
) -> Float[Array, "positions *rest"]:
    """Weighted sums over edges, whose ends have a coordinate for each axis."""
    ends, real = [], jnp.ones(edges.weights.shape, bool)
    for end in (edges.senders, edges.receivers):
        coordinates = end.reshape(*edges.weights.shape, len(sizes))
        real &= jnp.all(coordinates >= 0, -1)
        strides = [[math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]]
        ends.append((coordinates * jnp.asarray(strides, coordinates.dtype)).sum(-1))
    senders, receivers = (jnp.where(real, end, jnp.zeros_like(end)) for end in ends)
    weights = edges.weights.astype(values.dtype)
    weights = jnp.where(real, weights, jnp.zeros_like(weights))
    weights = weights.reshape(-1, *(1,) * (values.ndim - 1))
    return jnp.zeros_like(values).at[receivers].add(weights * values[senders])
