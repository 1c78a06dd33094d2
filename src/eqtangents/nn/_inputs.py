"""Inputs that are more than an array: variable lengths, and graphs."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from eqtangents.covariance import Input, Window, seen_through


class Masked(eqx.Module):
    """An input of which some positions are missing, as in sequences of any length.

    Every layer keeps missing positions at zero, whatever they held (NaN, say), and
    gives them no part in pooling, attention and normalisation.
    """

    value: Float[Array, "..."]
    mask: Bool[Array, "..."]

    def __init__(
        self,
        value: Float[Array | np.ndarray, "..."],
        mask: Bool[Array | np.ndarray, "..."],
    ):
        """Tell which positions there are.

        **Arguments:**

        - `value`: one example `(channels, *spatial)`, or a batch of them.
        - `mask`: true where there is a position, `(*spatial)` or `(n, *spatial)`.
        """
        self.value, self.mask = jnp.asarray(value), jnp.asarray(mask)


class Edges(NamedTuple):
    """A sparse adjacency: edges from senders to receivers, with weights.

    Positions are numbers, or tuples of them along the last axis where several axes are
    aggregated. Edges with a negative position do not count, so that examples with
    different numbers of edges fit one array. Repeated edges add up.
    """

    senders: Int[Array | np.ndarray, "..."]
    receivers: Int[Array | np.ndarray, "..."]
    weights: Float[Array | np.ndarray, "..."]


Adjacency: TypeAlias = Float[Array, "..."] | Edges


class Graph(eqx.Module):
    """An input whose positions are connected, for `Aggregate`."""

    value: Float[Array, "..."] | Masked
    adjacency: Adjacency

    def __init__(
        self,
        value: Float[Array | np.ndarray, "..."] | Masked,
        adjacency: Float[Array | np.ndarray, "..."] | Edges,
    ):
        """Tell which positions are connected.

        **Arguments:**

        - `value`: one example `(channels, *spatial)`, or a batch of them.
        - `adjacency`: the weight of the edge from each position to each other,
            `(*positions, *positions)` for the axes to be aggregated, or `Edges`; with a
            leading axis for a batch.
        """
        self.value = value if isinstance(value, Masked) else jnp.asarray(value)
        self.adjacency = jax.tree.map(jnp.asarray, adjacency)


# One example as layers take it.
Signal: TypeAlias = Float[Array, "..."] | Masked | Graph


class Side(NamedTuple):
    """What comes with the values of one example."""

    mask: Bool[Array, "*size"] | None
    adjacency: Adjacency | None

    def close(
        self, value: Float[Array, "channels *size"], mask: Bool[Array, "*size"] | None
    ) -> Signal:
        """A layer's output: the counterpart of `opened`, with the output's mask."""
        out = value
        if mask is not None:
            out = Masked(jnp.where(mask[None], value, jnp.zeros_like(value)), mask)
        return out if self.adjacency is None else Graph(out, self.adjacency)


def opened(x: Signal) -> tuple[Float[Array, "channels *size"], Side]:
    """The values of one example, zero where there are none, and what is beside them."""
    adjacency, mask = None, None
    if isinstance(x, Graph):
        x, adjacency = x.value, x.adjacency
    if isinstance(x, Masked):
        x, mask = x.value, x.mask
        x = jnp.where(mask[None], x, jnp.zeros_like(x))
    return x, Side(mask, adjacency)


def window_mask(
    side: Side, windows: Sequence[Window]
) -> Bool[Array, "*size_out"] | None:
    """The mask of a layer's output that moves windows over its input."""
    return None if side.mask is None else seen_through(side.mask, windows)


def read_out(
    value: Float[Array, " channels"], side: Side
) -> Float[Array, " channels"] | Masked:
    """The output of a layer that leaves no positions, nor a graph of them.

    Its mask tells whether the example had any positions at all.
    """
    if side.mask is None:
        return value
    there = side.mask.any()
    return Masked(jnp.where(there[None], value, jnp.zeros_like(value)), there)


def values_of(x: Signal) -> Float[Array, "..."]:
    """The values alone, as they are."""
    x = x.value if isinstance(x, Graph) else x
    return x.value if isinstance(x, Masked) else x


def is_signal(x: PyTree) -> bool:
    """Whether this is one input, and not a tuple of inputs."""
    return isinstance(x, jax.Array | Masked | Graph)


def with_equal_edges(x1: Signal, x2: Signal) -> tuple[Signal, Signal]:
    """Two batches whose sparse graphs have as many edges: further ones do not count."""
    if not (isinstance(x1, Graph) and isinstance(x2, Graph)):
        return x1, x2
    first, second = x1.adjacency, x2.adjacency
    if not (isinstance(first, Edges) and isinstance(second, Edges)):
        return x1, x2
    most = max(graph.weights.shape[1] for graph in (first, second))

    def extended(graph: Edges) -> Edges:
        more = most - graph.weights.shape[1]
        widths = lambda leaf: [(0, 0), (0, more)] + [(0, 0)] * (leaf.ndim - 2)
        pad = lambda leaf: jnp.pad(leaf, widths(leaf), constant_values=-1)
        return jax.tree.map(pad, graph)

    return Graph(x1.value, extended(first)), Graph(x2.value, extended(second))


def as_input(x1: Signal, x2: Signal) -> Input:
    """The covariance of the examples of two batches."""
    x = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), x1, x2)
    graph, mask = None, None
    if isinstance(x, Graph):
        x, graph = x.value, x.adjacency
    if isinstance(x, Masked):
        x, mask = x.value, x.mask
    return Input(x, mask=mask, graph=graph)
