"""Which pairs of examples are treated together: sizes and places of tiles."""

import itertools
import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, PyTree, Shaped

from eqtangents._budget import budget
from eqtangents.covariance import AbstractCovariance
from eqtangents.nn import AbstractLayer
from eqtangents.nn._inputs import as_input, is_signal, values_of


# Examples along the first axis of each array; a signal or nested tuples of them.
Examples: TypeAlias = PyTree[Shaped[Array | np.ndarray, "..."]]

Told = TypeVar("Told")
_Size = TypeVar("_Size", int, Int[np.ndarray, " s"])


def batch_size(x: Examples) -> int:
    """The number of examples."""
    return jax.tree.leaves(x)[0].shape[0]


def examples_from(x: Examples, start: Int[Array, ""] | int, size: int) -> Examples:
    """So many examples from one on."""
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), x)


def like_one(x: Examples) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes of one example."""
    one = lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype)
    return jax.tree.map(one, x)


def of_each_output(
    net: AbstractLayer,
    x1: Examples,
    x2: Examples,
    entries: Callable[[AbstractCovariance], Told],
) -> PyTree[Told]:
    """What a function tells of the covariance of each of the network's outputs."""
    outputs = net.propagate(jax.tree.map(as_input, x1, x2, is_leaf=is_signal))
    is_covariance = lambda node: isinstance(node, AbstractCovariance)
    return jax.tree.map(entries, outputs, is_leaf=is_covariance)


_STARTS_OF_A_BLOCK = 16  # starting so many tiles costs as much as a full block


def tile_sizes(
    net: AbstractLayer, x1: Examples, n1: int, n2: int, symmetric: bool
) -> tuple[int, int]:
    """How many examples of either batch to treat at a time: as many as fill a block.

    Tiles share the examples evenly, because the last one overlaps the one before. Of
    all that fit into a block, those are taken whose pairs, and examples with
    themselves, are fewest in all. Those on the diagonal of a symmetric matrix have
    pairs twice, so that smaller ones have fewer; to begin one costs as much as a small
    part of a block.
    """
    pairs = _most_pairs(net, x1)
    if symmetric:
        sizes = evenly(n1, np.arange(1, 1 + min(n1, max(1, math.isqrt(pairs)))))
        count = -(-n1 // sizes)
        each = sizes * sizes + 2 * sizes + pairs / _STARTS_OF_A_BLOCK
        size = int(sizes[np.argmin(count * (count + 1) * each)])
        return size, size
    columns = evenly(n2, np.arange(1, 1 + min(n2, pairs)))
    rows = evenly(n1, np.maximum(1, pairs // columns))
    tiles = -(-n1 // rows) * -(-n2 // columns)
    best = np.argmin(tiles * (rows * columns + rows + columns))
    return int(rows[best]), int(columns[best])


def _most_pairs(net: AbstractLayer, x: Examples) -> int:
    """As many pairs of examples as fill a block, or their tables what they may."""
    values = [values_of(leaf) for leaf in jax.tree.leaves(x, is_leaf=is_signal)]
    itemsize = max(v.dtype.itemsize for v in values)
    positions, kept = [1], [0]

    def note(node: AbstractCovariance) -> None:
        outline = node.outline
        kept.append((outline.keeping(outline.canvas) if outline.rank else outline).kept)
        positions.append(_most_positions(node))

    one = like_one(x)
    eqx.filter_eval_shape(lambda x: of_each_output(net, x, x, note), one)
    pairs = budget().block_bytes // (max(positions) * itemsize)
    if most := max(kept):
        pairs = min(pairs, budget().table_bytes // (most * itemsize))
    return max(1, pairs)


def _most_positions(output: AbstractCovariance) -> int:
    """The most positions of all covariances that one is computed from."""
    most, todo, seen = 1, [output], set()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        most = max(most, math.prod(node.outline.size))
        held = jax.tree.leaves(vars(node))
        todo += [one for one in held if isinstance(one, AbstractCovariance)]
    return most


def evenly(n: int, most: _Size) -> _Size:
    """The size of equal parts of `n`, up to one, that are at most so large."""
    return -(-n // -(-n // most))


def tile_starts(
    n: tuple[int, int], sizes: tuple[int, int], symmetric: bool
) -> Int[Array, "tiles 2"]:
    """The first row and column of tiles that cover all pairs, or the upper triangle.

    The last tile overlaps the one before where sizes do not divide the whole.
    """
    rows, columns = (
        [min(start, count - size) for start in range(0, count, size)]
        for count, size in zip(n, sizes, strict=True)
    )
    starts = itertools.product(rows, columns)
    starts = [(i, j) for i, j in starts if not symmetric or i <= j]
    return jnp.asarray(np.array(starts, np.int32))
