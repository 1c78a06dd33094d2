"""Kernels computed in tiles of pairs of examples, and put together."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree

from eqtangents._tile_plan import (
    Examples,
    batch_size,
    examples_from,
    of_each_output,
    smaller_in_derivatives,
    tile_sizes,
    tile_starts,
)
from eqtangents._trees import varying_zero
from eqtangents.covariance import (
    AbstractCovariance,
    Scope,
    materialised,
    output_block,
)
from eqtangents.nn import AbstractLayer
from eqtangents.nn._inputs import is_signal, values_of


class Entries(NamedTuple):
    """Both kernels of some pairs of examples; `ntk` is `None` where not wanted."""

    nngp: Float[Array, "..."]
    ntk: Float[Array, "..."] | None


def tiled_kernels(
    net: AbstractLayer,
    x1: Examples,
    x2: Examples | None,
    *,
    wants_ntk: bool,
    first_row: Int[Array, ""] | None = None,
) -> PyTree[Entries]:
    """The kernels of all pairs of examples, one tile of the matrix at a time.

    Examples that are split over a mesh with explicit axes stay split: each device
    computes the rows and columns of its own examples.

    `first_row`: if both batches are parts of one, the place of the first row in it,
    less that of the first column.
    """
    rows, columns = (() if x is None else _split_over(x) for x in (x1, x2))
    columns = () if set(rows) & set(columns) else columns
    if (mesh := _explicit_mesh((x1, x2))) is None:
        return _on_one_device(net, x1, x2, wants_ntk=wants_ntk, first_row=first_row)
    batches = [(x1, rows)]
    if rows or x2 is not None:
        batches.append((x1 if x2 is None else x2, columns))

    def part(net: AbstractLayer, x1: Examples, *second: Examples) -> PyTree[Entries]:
        shares = second and x2 is None
        first = lax.axis_index(rows) * batch_size(x1) if shares else None
        columns = second[0] if second else None
        return _on_one_device(net, x1, columns, wants_ntk=wants_ntk, first_row=first)

    return _over_mesh(part, mesh, net, batches, (rows, columns))


def _over_mesh(
    part: Callable[..., PyTree[Entries]],
    mesh: AbstractMesh,
    net: AbstractLayer,
    batches: list[tuple[Examples, tuple[str, ...]]],
    result: tuple[tuple[str, ...], ...],
) -> PyTree[Entries]:
    """Run `part(net, *batches)` on each device, with its own examples of each batch.

    The axes of the mesh that each batch and each axis of the result are split over are
    given beside it.
    """
    examples, axes = zip(*batches, strict=True)
    arrays, rest = eqx.partition(net, eqx.is_array)
    specs = PartitionSpec(), *(PartitionSpec(own or None) for own in axes)
    placed = [
        jax.tree.map(lambda a, s=s: jax.reshard(a, NamedSharding(mesh, s)), tree)
        for s, tree in zip(specs, (arrays, *examples), strict=True)
    ]
    out_specs = PartitionSpec(*(own or None for own in result))
    return jax.shard_map(
        lambda arrays, *own: part(eqx.combine(arrays, rest), *own),
        mesh=mesh,
        in_specs=specs,
        out_specs=out_specs,
    )(*placed)


def _explicit_mesh(batches: PyTree[Array]) -> AbstractMesh | None:
    """The mesh with explicit axes that examples lie on, split over it or not.

    Then all that meets them has to be on it: tiles and the matrix they are written to.
    """
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(batches))
    return next((one for one in meshes if AxisType.Explicit in one.axis_types), None)


def _split_over(x: Examples) -> tuple[str, ...]:
    """The explicit axes of a mesh that examples are split over."""
    spec = jax.typeof(jax.tree.leaves(x)[0]).sharding.spec
    names = spec[0] if spec else None
    return names if isinstance(names, tuple) else () if names is None else (names,)


@smaller_in_derivatives
def _on_one_device(
    net: AbstractLayer,
    x1: Examples,
    x2: Examples | None,
    *,
    wants_ntk: bool,
    first_row: Int[Array, ""] | None = None,
) -> PyTree[Entries]:
    """The kernels of all pairs, on one device.

    `first_row`: if `x1` is a part of `x2`, the row of `x2` that it begins with.
    """
    symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    n1, n2 = map(batch_size, (x1, x2))
    if not n1 or not n2:
        return _zeros(net, x1, x2, (n1, n2), wants_ntk=wants_ntk)
    offset = jnp.zeros((), jnp.int32) if symmetric else first_row
    sizes = tile_sizes(net, x1, n1, n2, symmetric)

    @jax.checkpoint  # Of a tile, gradients keep nothing but its place.
    def tile(start: Int[Array, " 2"]) -> PyTree[Entries]:
        one, other = (
            examples_from(x, start[i], sizes[i]) for i, x in enumerate((x1, x2))
        )
        identical = _identical(offset, sizes, start)
        return _tile(net, one, other, identical, wants_ntk=wants_ntk)

    def step(
        result: PyTree[Array], start: Int[Array, " 2"]
    ) -> tuple[PyTree[Array], None]:
        block = tile(start)
        put = lambda r, b: lax.dynamic_update_slice(r, b, _origin(b.ndim, start))
        result = jax.tree.map(put, result, block)
        return mirror(result, start) if symmetric else result, None

    def mirror(result: PyTree[Array], start: Int[Array, " 2"]) -> PyTree[Array]:
        return jax.tree.map(lambda leaf: mirrored(leaf, sizes[0], start), result)

    starts = tile_starts((n1, n2), sizes, symmetric)
    if starts.shape[0] > 1:
        result = _zeros(net, x1, x2, (n1, n2), wants_ntk=wants_ntk)
        return lax.scan(step, result, starts)[0]
    result = tile(starts[0])
    if not symmetric:
        return result
    # Both sides of the diagonal would be computed apart. The index does not depend on
    # the result, which gradients have no use for.
    known = jnp.ravel(jax.tree.leaves(x1)[0])[:1] >= 0
    return mirror(materialised(lambda: result, known.astype(jnp.int32)), starts[0])


def _identical(
    offset: Int[Array, ""] | None, sizes: tuple[int, int], start: Int[Array, " 2"]
) -> Bool[Array, "t1 t2"] | None:
    """Which pairs of a tile are one example, if the batches have any in common."""
    if offset is None:
        return None
    first, second = (jnp.arange(size, dtype=jnp.int32) for size in sizes)
    return (offset + start[0] + first)[:, None] == (start[1] + second)[None]


def tiled_diagonal(
    net: AbstractLayer, x: Examples, *, wants_ntk: bool
) -> PyTree[Entries]:
    """The kernels of each example with itself, at the same positions."""
    rows = _split_over(x)
    part = lambda net, x: _diagonal_on_one_device(net, x, wants_ntk=wants_ntk)
    if (mesh := _explicit_mesh(x)) is None:
        return part(net, x)
    return _over_mesh(part, mesh, net, [(x, rows)], (rows,))


def _diagonal_on_one_device(
    net: AbstractLayer, x: Examples, *, wants_ntk: bool
) -> PyTree[Entries]:
    def own(x: Examples) -> PyTree[Entries]:
        one = jax.tree.map(lambda a: a[None], x)
        block = _tile(net, one, one, jnp.ones((1, 1), bool), wants_ntk=wants_ntk)
        return jax.tree.map(_own_positions, block)

    if not batch_size(x):
        return _zeros(net, x, x, (0,), wants_ntk=wants_ntk)
    size, _ = tile_sizes(net, x, batch_size(x), 1, symmetric=False)
    return lax.map(jax.checkpoint(own), x, batch_size=size)


def _own_positions(leaf: Float[Array, "1 1 *twice"]) -> Float[Array, "*positions"]:
    rank = (leaf.ndim - 2) // 2
    positions = leaf.shape[2 : 2 + rank]
    square = leaf.reshape(math.prod(positions), math.prod(positions))
    return jnp.diagonal(square).reshape(positions)


def _tile(
    net: AbstractLayer,
    x1: Examples,
    x2: Examples,
    identical: Bool[Array, "t1 t2"] | None,
    *,
    wants_ntk: bool,
) -> PyTree[Entries]:
    """The kernels of all pairs of a few examples."""
    scope = Scope(
        batch_size(x1),
        batch_size(x2),
        _zero(net, x1, x2),
        wants_ntk=wants_ntk,
        identical=identical,
    )

    def entries(node: AbstractCovariance) -> Entries:
        block = output_block(scope, node)
        return Entries(block.nngp, block.with_ntk().ntk if wants_ntk else None)

    return of_each_output(net, x1, x2, entries)


def _zeros(
    net: AbstractLayer,
    x1: Examples,
    x2: Examples,
    n: tuple[int, ...],
    *,
    wants_ntk: bool,
) -> PyTree[Entries]:
    """Zeros of the shape of the kernels, for so many pairs of examples or examples."""
    zero = _zero(net, x1, x2)

    def empty(node: AbstractCovariance) -> Entries:
        zeros = jnp.broadcast_to(zero, (*n, *node.outline.size * len(n)))
        return Entries(zeros, zeros if wants_ntk else None)

    like_one = lambda leaf: jnp.zeros_like(leaf, shape=(1, *leaf.shape[1:]))
    one1, one2 = (jax.tree.map(like_one, x) for x in (x1, x2))
    return of_each_output(net, one1, one2, empty)


def _zero(net: AbstractLayer, x1: Examples, x2: Examples) -> Float[Array, ""]:
    """A zero that varies over all axes of a mesh that any of the arguments does."""
    dtype = values_of(jax.tree.leaves(x1, is_leaf=is_signal)[0]).dtype
    return varying_zero((net, x1, x2), dtype)


def swapped_axes(count: int, shared: int) -> tuple[int, ...]:
    """The order that swaps the axes of two examples, of which some are shared."""
    rank = (count - shared) // 2
    first = range(shared, shared + rank)
    return (*range(shared), *range(shared + rank, shared + 2 * rank), *first)


def mirrored(
    matrix: Float[Array, "n n *p"], size: int, start: Int[Array, " 2"], shared: int = 0
) -> Float[Array, "n n *p"]:
    """A matrix with the entries of one tile above its diagonal below it as well.

    Its rows are pairs of an example and a position, for each index of so many axes that
    both share. Once all tiles were mirrored it is symmetric, whatever the rounding,
    also where they overlap.
    """
    shape = (size, size, *matrix.shape[2:])
    rank = (len(shape) - 2 - shared) // 2
    positions, ones = shape[2 + shared : 2 + shared + rank], (1,) * rank
    # (n1, n2, *s, *positions1, *positions2) -> (n2, n1, *s, *positions2, *positions1)
    swap = (1, 0, *(2 + axis for axis in swapped_axes(len(shape) - 2, shared)))
    above = lax.dynamic_slice(matrix, _origin(matrix.ndim, start), shape)
    mirror = _origin(matrix.ndim, start[::-1])
    old = lax.dynamic_slice(matrix, mirror, shape)
    # Numbers of pairs of an example and a position, in the axes where these stand. A
    # mask of any other shape takes XLA minutes to fuse with what it transposes.
    count = math.prod(positions)
    column, row = (s * count + jnp.arange(size * count, dtype=s.dtype) for s in start)
    row = row.reshape(size, 1, *(1,) * shared, *positions, *ones)
    column = column.reshape(1, size, *(1,) * shared, *ones, *positions)
    new = jnp.where(row > column, above.transpose(swap), old)
    return lax.dynamic_update_slice(matrix, new, mirror)


def _origin(ndim: int, start: Int[Array, " 2"]) -> list[Int[Array, ""]]:
    return [*start] + [jnp.zeros((), start.dtype)] * (ndim - 2)
