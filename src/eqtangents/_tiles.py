"""A kernel tile by tile: how many examples at a time, in which order, put together."""

import itertools
import math
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from eqtangents.covariance import (
    BLOCK_BYTES,
    AbstractCovariance,
    Scope,
    bounded,
    dense,
    materialised,
)
from eqtangents.nn import AbstractLayer
from eqtangents.nn._inputs import as_input, is_signal, values_of


Inputs: TypeAlias = PyTree[Shaped[Array, "..."]]


class Entries(NamedTuple):
    """Both kernels of some pairs of examples; `ntk` is `None` where not wanted."""

    nngp: Float[Array, "..."]
    ntk: Float[Array, "..."] | None


def evaluate(
    net: AbstractLayer, x1: Inputs, x2: Inputs | None, *, wants_ntk: bool
) -> PyTree[Entries]:
    """The kernels of all pairs of examples, a tile of them at a time.

    Examples that are split over a mesh with explicit axes stay so: each device computes
    the rows and columns of its own.
    """
    rows, columns = (() if x is None else _split_over(x) for x in (x1, x2))
    columns = () if set(rows) & set(columns) else columns
    if not rows and not columns:
        return _evaluate(net, x1, x2, wants_ntk=wants_ntk)
    mesh = jax.typeof(jax.tree.leaves((x1, x2))[0]).sharding.mesh
    arrays, rest = eqx.partition(net, eqx.is_array)
    second = x1 if x2 is None else x2
    own = lambda axes: PartitionSpec(axes or None)

    def part(arrays: PyTree[Array], x1: Inputs, second: Inputs) -> PyTree[Entries]:
        first = None
        if x2 is None:  # The row of the whole that this part begins with.
            first = lax.axis_index(rows) * _count(x1)
        net = eqx.combine(arrays, rest)
        return _evaluate(net, x1, second, wants_ntk=wants_ntk, first_row=first)

    specs = PartitionSpec(), own(rows), own(columns)
    placed = [
        jax.tree.map(lambda a, s=s: jax.reshard(a, NamedSharding(mesh, s)), tree)
        for s, tree in zip(specs, (arrays, x1, second), strict=True)
    ]
    out_specs = PartitionSpec(rows or None, columns or None)
    return jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=out_specs)(*placed)


def _split_over(x: Inputs) -> tuple[str, ...]:
    """The explicit axes of a mesh that examples are split over."""
    spec = jax.typeof(jax.tree.leaves(x)[0]).sharding.spec
    names = spec[0] if spec else None
    return names if isinstance(names, tuple) else () if names is None else (names,)


def _evaluate(
    net: AbstractLayer,
    x1: Inputs,
    x2: Inputs | None,
    *,
    wants_ntk: bool,
    first_row: Int[Array, ""] | None = None,
) -> PyTree[Entries]:
    """The kernels of all pairs, on one device.

    `first_row`: if `x1` is a part of `x2`, where that begins.
    """
    symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    n1, n2 = map(_count, (x1, x2))
    offset = jnp.zeros((), jnp.int32) if symmetric else first_row

    @jax.checkpoint
    def tile(
        x1: Inputs, x2: Inputs, identical: Bool[Array, "t1 t2"] | None = None
    ) -> PyTree[Entries]:
        return _tile(net, x1, x2, identical, wants_ntk=wants_ntk)

    if not n1 or not n2:
        return _zeros(net, x1, x2, (n1, n2), wants_ntk=wants_ntk)
    t1, t2 = _tile_sizes(x1, n1, n2, symmetric)

    def identical(
        row: Int[Array, ""] | int, column: Int[Array, ""] | int
    ) -> Bool[Array, "t1 t2"] | None:
        if offset is None:
            return None
        first, second = jnp.arange(t1, dtype=jnp.int32), jnp.arange(t2, dtype=jnp.int32)
        return (offset + row + first)[:, None] == (column + second)[None]

    def step(
        result: PyTree[Array], start: Int[Array, " 2"]
    ) -> tuple[PyTree[Array], None]:
        tile1, tile2 = _rows(x1, start[0], t1), _rows(x2, start[1], t2)
        block = tile(tile1, tile2, identical(*start))
        return jax.tree.map(lambda r, b: _place(r, b, start), result, block), None

    pairs = itertools.product(_starts(n1, t1), _starts(n2, t2))
    starts = [(i, j) for i, j in pairs if not symmetric or i <= j]
    starts = jnp.asarray(np.array(starts, np.int32))
    if starts.shape[0] > 1:
        result = _zeros(net, x1, x2, (n1, n2), wants_ntk=wants_ntk)
        result, _ = lax.scan(step, result, starts)
    else:
        result = tile(x1, x2, identical(0, 0))
    if not symmetric:
        return result
    if starts.shape[0] == 1:  # Or both sides of the diagonal would be computed apart.
        # That does not depend on the result, which gradients have no use for.
        whole, known = result, jnp.ravel(jax.tree.leaves(x1)[0])[:1] >= 0
        result = materialised(lambda: whole, known.astype(jnp.int32))
    return jax.tree.map(lambda leaf: _mirrored(leaf, t1, starts), result)


def evaluate_diagonal(
    net: AbstractLayer, x: Inputs, *, wants_ntk: bool
) -> PyTree[Entries]:
    """The kernels of each example with itself, at the same positions."""

    def own(x: Inputs) -> PyTree[Entries]:
        one = jax.tree.map(lambda a: a[None], x)
        block = _tile(net, one, one, jnp.ones((1, 1), bool), wants_ntk=wants_ntk)
        return jax.tree.map(_coinciding, block)

    if not _count(x):
        return _zeros(net, x, x, (0,), wants_ntk=wants_ntk)
    size, _ = _tile_sizes(x, _count(x), 1, symmetric=False)
    return lax.map(jax.checkpoint(own), x, batch_size=size)


def _coinciding(leaf: Float[Array, "1 1 *twice"]) -> Float[Array, "*positions"]:
    rank = (leaf.ndim - 2) // 2
    positions = leaf.shape[2 : 2 + rank]
    square = leaf.reshape(math.prod(positions), math.prod(positions))
    return jnp.diagonal(square).reshape(positions)


def _tile(
    net: AbstractLayer,
    x1: Inputs,
    x2: Inputs,
    identical: Bool[Array, "t1 t2"] | None,
    *,
    wants_ntk: bool,
) -> PyTree[Entries]:
    """The kernels of all pairs of a few examples."""
    scope = Scope(
        _count(x1),
        _count(x2),
        _zero(net, x1, x2),
        wants_ntk=wants_ntk,
        identical=identical,
    )

    def entries(node: AbstractCovariance) -> Entries:
        block = bounded(scope, node, dense(scope, node))
        return Entries(block.nngp, block.with_ntk().ntk if wants_ntk else None)

    return jax.tree.map(entries, _outputs(net, x1, x2), is_leaf=_is_covariance)


def _outputs(net: AbstractLayer, x1: Inputs, x2: Inputs) -> PyTree[AbstractCovariance]:
    """The covariances of the network's outputs."""
    return net.propagate(jax.tree.map(as_input, x1, x2, is_leaf=is_signal))


def _is_covariance(node: object) -> bool:
    return isinstance(node, AbstractCovariance)


def _zeros(
    net: AbstractLayer, x1: Inputs, x2: Inputs, n: tuple[int, ...], *, wants_ntk: bool
) -> PyTree[Entries]:
    """Zeros of the shape of the kernels, for so many pairs of examples or examples."""
    zero = _zero(net, x1, x2)

    def empty(node: AbstractCovariance) -> Entries:
        size = node.outline.size * len(n)
        zeros = jnp.broadcast_to(zero, (*n, *size))
        return Entries(zeros, zeros if wants_ntk else None)

    outputs = _outputs(net, _like_one(x1), _like_one(x2))
    return jax.tree.map(empty, outputs, is_leaf=_is_covariance)


def _zero(net: AbstractLayer, x1: Inputs, x2: Inputs) -> Float[Array, ""]:
    """A zero that varies over all axes of a mesh that any of the arguments does."""
    dtype = values_of(jax.tree.leaves(x1, is_leaf=is_signal)[0]).dtype
    arrays = [leaf for leaf in jax.tree.leaves((net, x1, x2)) if eqx.is_array(leaf)]
    return sum(
        (jnp.zeros_like(leaf, dtype=dtype, shape=()) for leaf in arrays),
        jnp.zeros((), dtype),
    )


def _count(x: Inputs) -> int:
    return jax.tree.leaves(x)[0].shape[0]


def _rows(x: Inputs, start: Int[Array, ""] | int, size: int) -> Inputs:
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), x)


def _like_one(x: Inputs) -> Inputs:
    """Zeros in the place of one example."""
    return jax.tree.map(lambda a: jnp.zeros_like(a, shape=(1, *a.shape[1:])), x)


def _tile_sizes(x1: Inputs, n1: int, n2: int, symmetric: bool) -> tuple[int, int]:
    """How many examples of either batch to treat at a time: as many as fill a block."""
    values = map(values_of, jax.tree.leaves(x1, is_leaf=is_signal))
    entry = max(math.prod(v.shape[2:]) * v.dtype.itemsize for v in values)
    pairs = max(1, BLOCK_BYTES // entry)
    square = max(1, int(pairs**0.5))
    if symmetric:
        return min(square, n1), min(square, n1)
    t2 = min(n2, max(1, pairs // min(square, n1)))
    return min(n1, max(1, pairs // t2)), t2


def _starts(n: int, tile: int) -> list[int]:
    """First rows of tiles that cover `n` rows; the last one overlaps the one before."""
    return [min(start, n - tile) for start in range(0, n, tile)]


def _place(
    result: Float[Array, "n1 n2 *p"],
    tile: Float[Array, "t1 t2 *p"],
    start: Int[Array, " 2"],
) -> Float[Array, "n1 n2 *p"]:
    """Write a tile."""
    return lax.dynamic_update_slice(result, tile, _origin(tile.ndim, start))


def _mirrored(
    result: Float[Array, "n n *p"], size: int, starts: Int[Array, "tiles 2"]
) -> Float[Array, "n n *p"]:
    """With what is above the diagonal below it too, tile by tile.

    Rows are pairs of an example and a position. The result is symmetric whatever the
    rounding.
    """
    rank = (result.ndim - 2) // 2
    shape = (size, size, *result.shape[2:])
    positions = math.prod(shape[2 : 2 + rank])
    swap = (1, 0, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    order = np.arange(positions)[:, None] > np.arange(positions)[None]

    def step(
        result: Float[Array, "n n *p"], start: Int[Array, " 2"]
    ) -> tuple[Float[Array, "n n *p"], None]:
        above = lax.dynamic_slice(result, _origin(result.ndim, start), shape)
        mirror = _origin(result.ndim, start[::-1])
        old = lax.dynamic_slice(result, mirror, shape)
        column, row = (s + jnp.arange(size, dtype=start.dtype) for s in start)
        row, column = row[:, None, None, None], column[None, :, None, None]
        below = (row > column) | ((row == column) & order[None, None])
        below = jnp.broadcast_to(below, (size, size, positions, positions))
        new = jnp.where(below.reshape(shape), above.transpose(swap), old)
        return lax.dynamic_update_slice(result, new, mirror), None

    return lax.scan(step, result, starts)[0]


def _origin(ndim: int, start: Int[Array, " 2"]) -> list[Int[Array, ""]]:
    return [*start] + [jnp.zeros((), start.dtype)] * (ndim - 2)
