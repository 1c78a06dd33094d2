"""The two ways to a tangent kernel: rows of a Jacobian, or products with columns."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from eqtangents._trees import varying_zero
from eqtangents.empirical._analyse import Recipe
from eqtangents.empirical._batches import size_of
from eqtangents.empirical._contraction import Terms, contracted_terms
from eqtangents.empirical._network import Network
from eqtangents.empirical._pairing import Pairing, RowCounts
from eqtangents.empirical._rows import JacobianRows, jacobian_rows


def tile_of(counts: RowCounts, chunk_size: int) -> RowCounts:
    """As many of these rows as may be held at a time, whole examples if possible."""
    n, diagonal, traced, free = counts
    if diagonal * traced > chunk_size:
        diagonal = traced = 1
    paired = max(diagonal * traced, 1)
    tile_free = min(free, max(1, chunk_size // paired))
    tile = max(1, chunk_size // (paired * max(tile_free, 1)))
    return RowCounts(min(n, tile), diagonal, traced, tile_free)


def from_rows(
    recipe: Recipe,
    leaves: list[Array],
    owner: Sequence[int],
    x1: PyTree[Array],
    x2: PyTree[Array] | None,
    output: int,
    pairing: Pairing,
    chunk_size: int,
) -> Terms:
    """Contract rows of the Jacobian, at most so many of either batch at a time.

    Terms are those of `owner`, a number for each leaf.
    """
    n1, n2 = size_of(x1), size_of(x1 if x2 is None else x2)
    seeds = pairing.seeds(recipe.outputs[output].dtype)
    tile = tile_of(pairing.counts(max(n1, n2)), chunk_size)
    tiled = functools.partial(_tiled, recipe, leaves, owner, x1, x2, output, tile)
    if seeds.shape[:2] == (tile.diagonal, tile.traced):
        return tiled(seeds)
    # One paired output at a time.
    diagonal, traced, *rest = seeds.shape
    found = lax.map(tiled, seeds.reshape(diagonal * traced, 1, 1, *rest))

    def over_traced(kernel: Array) -> Array:
        # (paired, n1, n2, 1, free, free) -> (n1, n2, diagonal, traced, free, free)
        kernel = jnp.moveaxis(kernel[:, :, :, 0], 0, 2)
        kernel = kernel.reshape(n1, n2, diagonal, traced, *kernel.shape[3:])
        return jnp.sum(kernel, axis=3)

    return jax.tree.map(over_traced, found)


def _tiled(
    recipe: Recipe,
    leaves: list[Array],
    owner: Sequence[int],
    x1: PyTree[Array],
    x2: PyTree[Array] | None,
    output: int,
    tile: RowCounts,
    seeds: Float[Array, "diagonal traced free *output"],
) -> Terms:
    """Contract rows tile by tile; without `x2`, the upper triangle of tiles."""
    n1, n2 = size_of(x1), size_of(x1 if x2 is None else x2)
    free = seeds.shape[2]

    def rows(x: PyTree[Array], examples: Any, outputs: Any) -> JacobianRows:
        some = jax.tree.map(lambda leaf: leaf[examples], x)
        few = seeds[:, :, outputs]
        return jax.vmap(lambda one: jacobian_rows(recipe, leaves, one, output, few))(
            some
        )

    whole = tile.examples >= max(n1, n2) and tile.free == free
    if whole or 0 in (n1, n2, *seeds.shape):
        # In one pass: parameters are read once for both batches.
        x = x1 if x2 is None else jax.tree.map(_concatenated, x1, x2)
        both = rows(x, slice(None), slice(None))
        rows1 = both if x2 is None else jax.tree.map(lambda a: a[:n1], both)
        rows2 = both if x2 is None else jax.tree.map(lambda a: a[n1:], both)
        return contracted_terms(recipe, owner, rows1, rows2)
    tiles1, tiles2 = (_cut_into_tiles(n, free, tile) for n in (n1, n2))

    def against_all(tile1: tuple[Array, ...]) -> Terms:
        number1, *which1 = tile1
        rows1 = rows(x1, *which1)

        def entry(tile2: tuple[Array, ...]) -> Terms:
            _, *which2 = tile2
            return contracted_terms(
                recipe, owner, rows1, rows(x1 if x2 is None else x2, *which2)
            )

        def entry_above(tile2: tuple[Array, ...]) -> Terms:
            zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(entry, tile2))
            return lax.cond(number1 <= tile2[0], entry, lambda _: zeros, tile2)

        return lax.map(entry_above if x2 is None else entry, tiles2)

    found = lax.map(against_all, tiles1)
    if x2 is None:
        found = jax.tree.map(_symmetric, found)
    return jax.tree.map(lambda tiles: _untiled(tiles, n1, n2, free, tile), found)


def _concatenated(a: Array, b: Array) -> Array:
    return jnp.concatenate([a, b])


def _cut_into_tiles(n: int, free: int, tile: RowCounts) -> tuple[Any, Any, Any]:
    """Number, examples and free outputs of each tile; the last ones repeat."""

    def cut(total: int, size: int) -> np.ndarray:
        count = -(-total // size) * size
        return np.minimum(np.arange(count, dtype=np.int32), total - 1).reshape(-1, size)

    examples, outputs = cut(n, tile.examples), cut(free, tile.free)
    count = len(examples) * len(outputs)
    return (
        jnp.arange(count, dtype=jnp.int32),
        jnp.asarray(np.repeat(examples, len(outputs), axis=0)),
        jnp.asarray(np.tile(outputs, (len(examples), 1))),
    )


def _symmetric(tiles: Float[Array, "b b e e d f f"]) -> Float[Array, "b b e e d f f"]:
    """All tiles, of which those below the diagonal mirror those above."""
    above = np.triu(np.ones(tiles.shape[:2], bool))[..., None, None, None, None, None]
    # (b1, b2, e1, e2, d, f1, f2) -> (b2, b1, e2, e1, d, f2, f1)
    return jnp.where(above, tiles, tiles.transpose(1, 0, 3, 2, 4, 6, 5))


def _untiled(
    tiles: Float[Array, "b1 b2 e1 e2 d f1 f2"],
    n1: int,
    n2: int,
    free: int,
    tile: RowCounts,
) -> Float[Array, "n1 n2 d free free"]:
    """Put the tiles of a kernel together, and drop rows that occur twice."""
    b1, b2, e1, e2, d, f1, f2 = tiles.shape
    outs = -(-free // tile.free)
    a1, a2 = b1 // outs, b2 // outs
    # Tile `b` has examples `a` and outputs `out`: with axes `e` and `f` within it,
    # (a1, out1, a2, out2, e1, e2, d, f1, f2) -> (a1, e1, a2, e2, d, out1, f1, out2, f2)
    tiles = tiles.reshape(a1, outs, a2, outs, e1, e2, d, f1, f2)
    tiles = tiles.transpose(0, 4, 2, 5, 6, 1, 7, 3, 8)
    kernel = tiles.reshape(a1 * e1, a2 * e2, d, outs * f1, outs * f2)
    return kernel[:n1, :n2, :, :free, :free]


def from_products(
    network: Network,
    x1: PyTree[Array],
    x2: PyTree[Array],
    output: int,
    pairing: Pairing,
    batch_size: int,
) -> Float[Array, "n1 n2 diagonal free1 free2"]:
    """Multiply the kernel with each column of the identity, some at a time."""
    leaves, n1 = network.leaves, size_of(x1)
    dtype = jax.eval_shape(lambda: _one_output(network, leaves, x1, output)).dtype
    seeds = pairing.seeds(dtype)
    diagonal, traced, free = seeds.shape[:3]
    if 0 in (n1, size_of(x2), *seeds.shape):
        return jnp.zeros((n1, size_of(x2), diagonal, free, free), dtype)
    seeds = seeds.reshape(diagonal * traced, *seeds.shape[2:])
    _, forward = jax.linearize(lambda l: _one_output(network, l, x1, output), leaves)

    def of_example(one: PyTree[Array]) -> Array:
        batch = jax.tree.map(lambda leaf: leaf[None], one)
        of_leaves = lambda leaves: _one_output(network, leaves, batch, output)
        value, pullback = jax.vjp(of_leaves, leaves)
        typed = seeds + varying_zero(value, dtype)

        def column(which: tuple[Array, Array]) -> Array:
            paired, own = which
            (direction,) = pullback(typed[paired, own][None])
            moved = pairing.grouped(forward(direction))
            return moved.reshape(n1, diagonal * traced, free)[:, paired]

        which = np.indices((diagonal * traced, free), dtype=np.int32).reshape(2, -1)
        return lax.map(column, tuple(jnp.asarray(which)), batch_size=batch_size)

    found = lax.map(of_example, x2)
    found = found.reshape(size_of(x2), diagonal, traced, free, n1, free)
    return jnp.sum(found, axis=2).transpose(3, 0, 1, 4, 2)


def _one_output(
    network: Network, leaves: list[Array], x: PyTree[Array], output: int
) -> Array:
    """One output for a batch."""
    return jax.vmap(lambda one: jax.tree.leaves(network(leaves, one))[output])(x)
