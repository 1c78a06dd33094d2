"""Inputs that are more than an array: variable lengths, and graphs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Real

from eqtangents.covariance import InputCovariance, Window, seen_through
from eqtangents.nn._arrays import as_input_array, examples_of
from eqtangents.nn._habits import checked_new


class Masked(eqx.Module):
    """An input of which some positions are missing, as in sequences of any length.

    Every layer keeps missing positions at zero, whatever they held (NaN, say), and
    gives them no part in pooling, attention and normalisation.
    """

    value: Real[Array, "..."]
    mask: Bool[Array, "..."]

    if not TYPE_CHECKING:  # checkers read `__init__`
        __new__ = checked_new

    def __init__(
        self,
        value: Real[Array | np.ndarray, "..."],
        mask: Bool[Array | np.ndarray, "..."],
    ):
        """Tell which positions there are.

        **Arguments:**

        - `value`: one example `(channels, *spatial)`, or a batch of them.
        - `mask`: true where there is a position, `(*spatial)` or `(n, *spatial)`.
        """
        value, mask = (
            as_input_array("Masked", "value", value),
            as_input_array("Masked", "mask", mask),
        )
        if value.dtype == bool and mask.dtype != bool:
            raise ValueError(
                "Masked: `value` and `mask` seem to be swapped: write "
                "`nn.Masked(value, mask)`."
            )
        if mask.dtype != bool:
            raise ValueError(
                f"Masked: `mask` has dtype {mask.dtype}, but must be "
                "true where there is a position: `mask.astype(bool)`, say."
            )
        shape = value.shape
        if not shape or mask.shape not in (shape[1:], shape[:1] + shape[2:]):
            raise ValueError(
                f"Masked: `mask` has shape {mask.shape} and `value` {shape}, but all "
                "channels have one mask: values `(n, channels, *spatial)` have a mask "
                "`(n, *spatial)`, and one example has a mask `(*spatial)`."
            )
        self.value, self.mask = value, mask

    @classmethod
    def pad(cls, sequences: Sequence[Real[Array | np.ndarray, "..."]]) -> "Masked":
        """A batch of examples of different sizes, padded to the size of the largest.

        Kernels, and networks, that end in a global pooling are the same as for the
        examples as they are, unless windows lie differently on a longer input: strides
        with `"SAME"`, `"VALID"` windows, `"CIRCULAR"` ones, and resizing.

        **Arguments:**

        - `sequences`: arrays `(channels, *spatial)` of one number of channels, of any
            sizes in space: sequences, images, volumes.

        **Returns:** a `Masked` batch, `(n, channels, *largest)`.

        **Raises:** `TypeError` and `ValueError` for what cannot stand in one batch.
        """
        arrays = examples_of(sequences)
        size = tuple(map(max, zip(*(array.shape[1:] for array in arrays), strict=True)))
        values, masks = [], []
        for array in arrays:
            more = [(0, n - m) for n, m in zip(size, array.shape[1:], strict=True)]
            values.append(jnp.pad(array, [(0, 0), *more]))
            masks.append(np.pad(np.ones(array.shape[1:], bool), more))
        return cls(jnp.stack(values), jnp.asarray(np.stack(masks)))


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

    value: Real[Array, "..."] | Masked
    adjacency: Adjacency

    if not TYPE_CHECKING:  # checkers read `__init__`
        __new__ = checked_new

    def __init__(
        self,
        value: Real[Array | np.ndarray, "..."] | Masked,
        adjacency: Float[Array | np.ndarray, "..."] | Edges,
    ):
        """Tell which positions are connected.

        **Arguments:**

        - `value`: one example `(channels, *spatial)`, or a batch of them.
        - `adjacency`: the weight of the edge from each position to each other,
            `(*positions, *positions)` for the axes to be aggregated, or `Edges`; with a
            leading axis for a batch.
        """
        if isinstance(value, Edges) or isinstance(adjacency, Masked):
            raise TypeError(
                "Graph: `value` and `adjacency` seem to be swapped: write "
                "`nn.Graph(value, adjacency)`."
            )
        masked = isinstance(value, Masked)
        self.value = value if masked else as_input_array("Graph", "value", value)
        self.adjacency = _adjacency(adjacency)


def _adjacency(adjacency: Any) -> Adjacency:
    """A dense adjacency as an array of JAX, or edges as three of them."""
    if isinstance(adjacency, Edges):
        edges = Edges(
            *(
                as_input_array("Edges", name, part)
                for name, part in adjacency._asdict().items()
            )
        )
        weights = edges.weights.shape
        for name in ("senders", "receivers"):
            ends = getattr(edges, name)
            if not jnp.issubdtype(ends.dtype, jnp.integer):
                raise ValueError(
                    f"Edges: `{name}` has dtype {ends.dtype}, but must hold "
                    "integers, the numbers of positions."
                )
            if ends.shape[: len(weights)] != weights or ends.ndim > len(weights) + 1:
                raise ValueError(
                    f"Edges: `{name}` has shape {ends.shape} and `weights` {weights}, "
                    "but each edge has one weight, and each end a position (or a last "
                    "axis of coordinates)."
                )
        return edges
    if isinstance(adjacency, tuple) and len(adjacency) == 3:
        raise TypeError(
            "Graph: `adjacency` is a tuple of 3: a sparse one is `nn.Edges(senders, "
            "receivers, weights)`."
        )
    dense = as_input_array("Graph", "adjacency", adjacency)
    batched, rank = dense.ndim % 2, dense.ndim // 2
    shape = dense.shape[batched:]
    if not rank or shape[:rank] != shape[rank:]:
        raise ValueError(
            f"Graph: `adjacency` has shape {dense.shape}, but holds the weight of the "
            "edge from each position to each other, `(positions, positions)`, or with "
            "a leading axis of examples for a batch."
        )
    return dense


Cleared = TypeVar("Cleared")  # a signal, or a tuple of several

# One example as layers take it.
Signal: TypeAlias = Real[Array, "..."] | Masked | Graph
# The same kind of signal, out of a layer as it went in.
SignalT = TypeVar("SignalT", bound=Signal)


class Extras(NamedTuple):
    """The mask and the graph of one example, either of which may be missing."""

    mask: Bool[Array, "*size"] | None
    adjacency: Adjacency | None

    def rewrap(
        self, value: Real[Array, "channels *size"], mask: Bool[Array, "*size"] | None
    ) -> Any:
        """A layer's output: the counterpart of `unwrap`, with the output's mask."""
        out = value
        if mask is not None:
            out = Masked(jnp.where(mask[None], value, jnp.zeros_like(value)), mask)
        return out if self.adjacency is None else Graph(out, self.adjacency)


def unwrap(x: Signal) -> tuple[Real[Array, "channels *size"], Extras]:
    """The values of one example, zero where a position is missing, and its extras.

    `extras.rewrap(value, mask)` is the counterpart, for the output of a layer.
    """
    adjacency, mask = None, None
    if isinstance(x, Graph):
        x, adjacency = x.value, x.adjacency
    if isinstance(x, Masked):
        x, mask = x.value, x.mask
        x = jnp.where(mask[None], x, jnp.zeros_like(x))
    return x, Extras(mask, adjacency)


def cleared(x: Cleared) -> Cleared:
    """The same inputs, with zeros where a position is missing."""

    def one(signal: Signal) -> Signal:
        value, extras = unwrap(signal)
        return extras.rewrap(value, extras.mask)

    return jax.tree.map(one, x, is_leaf=is_signal)


def window_mask(
    extras: Extras, windows: Sequence[Window]
) -> Bool[Array, "*size_out"] | None:
    """The mask of a layer's output that moves windows over its input."""
    return None if extras.mask is None else seen_through(extras.mask, windows)


def read_out(
    value: Float[Array, " channels"], extras: Extras
) -> Float[Array, " channels"] | Masked:
    """The output of a layer that leaves no positions, nor a graph of them.

    Its mask tells whether the example had any positions at all.
    """
    if extras.mask is None:
        return value
    there = extras.mask.any()
    return Masked(jnp.where(there[None], value, jnp.zeros_like(value)), there)


def values_of(x: Array | Masked | Graph) -> Array:
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


def as_input(x1: Signal, x2: Signal) -> InputCovariance:
    """The covariance of the examples of two batches."""
    x = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), x1, x2)
    graph, mask = None, None
    if isinstance(x, Graph):
        x, graph = x.value, x.adjacency
    if isinstance(x, Masked):
        x, mask = x.value, x.mask
    return InputCovariance(x, mask=mask, graph=graph)
