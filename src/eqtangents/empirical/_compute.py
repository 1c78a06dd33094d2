"""The two ways to a tangent kernel: rows of a Jacobian, or products with columns."""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from eqtangents.empirical._batches import size_of
from eqtangents.empirical._contraction import Rows
from eqtangents.empirical._network import Network
from eqtangents.empirical._pairing import Pairing
from eqtangents.empirical._structure import Structure


# Contributions of leaves to a kernel, each with axes `n1 n2 diagonal free1 free2`.
Terms: TypeAlias = dict[int, Array]


def tile_of(rows: Rows, chunk_size: int) -> Rows:
    """As many of these rows as may be held at a time, whole examples if possible."""
    n, diagonal, traced, free = rows
    if diagonal * traced > chunk_size:
        diagonal = traced = 1
    paired = max(diagonal * traced, 1)
    tile_free = min(free, max(1, chunk_size // paired))
    tile = max(1, chunk_size // (paired * max(tile_free, 1)))
    return Rows(min(n, tile), diagonal, traced, tile_free)


def from_rows(
    structure: Structure,
    leaves: list[Array],
    x1: PyTree[Array],
    x2: PyTree[Array] | None,
    output: int,
    pairing: Pairing,
    chunk_size: int,
) -> Terms:
    """Contract rows of the Jacobian, at most so many of either batch at a time."""
    n1, n2 = size_of(x1), size_of(x1 if x2 is None else x2)
    seeds = pairing.seeds(structure.outputs[output].dtype)
    tile = tile_of(pairing.rows(max(n1, n2)), chunk_size)
    kernels = functools.partial(_tiled, structure, leaves, x1, x2, output, tile)
    if seeds.shape[:2] == (tile.diagonal, tile.traced):
        return kernels(seeds)
    # One paired output at a time.
    diagonal, traced, *rest = seeds.shape
    found = lax.map(kernels, seeds.reshape(diagonal * traced, 1, 1, *rest))

    def joined(terms: Array) -> Array:
        terms = jnp.moveaxis(terms[:, :, :, 0], 0, 2)
        terms = terms.reshape(n1, n2, diagonal, traced, *terms.shape[3:])
        return jnp.sum(terms, axis=3)

    return jax.tree.map(joined, found)


def _tiled(
    structure: Structure,
    leaves: list[Array],
    x1: PyTree[Array],
    x2: PyTree[Array] | None,
    output: int,
    tile: Rows,
    seeds: Float[Array, "diagonal traced free *output"],
) -> Terms:
    """Tile by tile; of a batch with itself, the upper triangle of tiles."""
    n1, n2 = size_of(x1), size_of(x1 if x2 is None else x2)
    free = seeds.shape[2]

    def rows(x: PyTree[Array], examples: Any, outputs: Any) -> Any:
        some = jax.tree.map(lambda leaf: leaf[examples], x)
        few = seeds[:, :, outputs]
        return jax.vmap(lambda one: structure.rows(leaves, one, output, few))(some)

    whole = tile.examples >= max(n1, n2) and tile.free == free
    if whole or 0 in (n1, n2, *seeds.shape):
        # In one pass: parameters are read once for both batches.
        x = x1 if x2 is None else jax.tree.map(_end_to_end, x1, x2)
        both = rows(x, slice(None), slice(None))
        rows1 = both if x2 is None else jax.tree.map(lambda a: a[:n1], both)
        rows2 = both if x2 is None else jax.tree.map(lambda a: a[n1:], both)
        return structure.kernels(rows1, rows2)
    blocks1, blocks2 = (_blocks(n, free, tile) for n in (n1, n2))

    def against_all(block1: tuple[Array, ...]) -> Terms:
        number1, *which1 = block1
        rows1 = rows(x1, *which1)

        def entry(block2: tuple[Array, ...]) -> Terms:
            _, *which2 = block2
            return structure.kernels(rows1, rows(x1 if x2 is None else x2, *which2))

        def entry_above(block2: tuple[Array, ...]) -> Terms:
            zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(entry, block2))
            return lax.cond(number1 <= block2[0], entry, lambda _: zeros, block2)

        return lax.map(entry_above if x2 is None else entry, blocks2)

    found = lax.map(against_all, blocks1)
    if x2 is None:
        found = jax.tree.map(_mirrored, found)
    return jax.tree.map(lambda terms: _joined(terms, n1, n2, free, tile), found)


def _end_to_end(a: Array, b: Array) -> Array:
    return jnp.concatenate([a, b])


def _blocks(n: int, free: int, tile: Rows) -> tuple[Any, Any, Any]:
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


def _mirrored(terms: Float[Array, "b b e e d f f"]) -> Float[Array, "b b e e d f f"]:
    """Tiles below the diagonal, from those above."""
    above = np.triu(np.ones(terms.shape[:2], bool))[..., None, None, None, None, None]
    return jnp.where(above, terms, terms.transpose(1, 0, 3, 2, 4, 6, 5))


def _joined(
    terms: Float[Array, "b1 b2 e1 e2 d f1 f2"], n1: int, n2: int, free: int, tile: Rows
) -> Float[Array, "n1 n2 d free free"]:
    """Tiles put together, without what is there twice."""
    _, _, e1, e2, d, f1, f2 = terms.shape
    outputs = -(-free // tile.free)
    terms = terms.reshape(
        -1, outputs, terms.shape[1] // outputs, outputs, e1, e2, d, f1, f2
    )
    terms = terms.transpose(0, 4, 2, 5, 6, 1, 7, 3, 8)
    a1, _, a2, *_ = terms.shape
    terms = terms.reshape(a1 * e1, a2 * e2, d, outputs * f1, outputs * f2)
    return terms[:n1, :n2, :, :free, :free]


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
    dtype = jax.eval_shape(lambda: _output(network, leaves, x1, output)).dtype
    seeds = pairing.seeds(dtype)
    diagonal, traced, free = seeds.shape[:3]
    if 0 in (n1, size_of(x2), *seeds.shape):
        return jnp.zeros((n1, size_of(x2), diagonal, free, free), dtype)
    seeds = seeds.reshape(diagonal * traced, *seeds.shape[2:])
    _, forward = jax.linearize(lambda l: _output(network, l, x1, output), leaves)

    def of_example(one: PyTree[Array]) -> Array:
        batch = jax.tree.map(lambda leaf: leaf[None], one)
        _, pullback = jax.vjp(lambda l: _output(network, l, batch, output), leaves)

        def column(which: tuple[Array, Array]) -> Array:
            paired, own = which
            (direction,) = pullback(seeds[paired, own][None])
            moved = pairing.grouped(forward(direction))
            return moved.reshape(n1, diagonal * traced, free)[:, paired]

        which = np.indices((diagonal * traced, free), dtype=np.int32).reshape(2, -1)
        return lax.map(column, tuple(jnp.asarray(which)), batch_size=batch_size)

    found = lax.map(of_example, x2)
    found = found.reshape(size_of(x2), diagonal, traced, free, n1, free)
    return jnp.sum(found, axis=2).transpose(3, 0, 1, 4, 2)


def _output(
    network: Network, leaves: list[Array], x: PyTree[Array], output: int
) -> Array:
    """One output for a batch."""
    return jax.vmap(lambda one: jax.tree.leaves(network(leaves, one))[output])(x)
