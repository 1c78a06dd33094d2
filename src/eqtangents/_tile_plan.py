"""Which pairs of examples are treated together: sizes and places of tiles."""

import itertools
import math
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, PyTree, Shaped

from eqtangents.covariance import BLOCK_BYTES
from eqtangents.nn._inputs import is_signal, values_of


# Examples along the first axis of each array; a signal or nested tuples of them.
Examples: TypeAlias = PyTree[Shaped[Array | np.ndarray, "..."]]

_Size = TypeVar("_Size", int, Int[np.ndarray, " s"])


def batch_size(x: Examples) -> int:
    """The number of examples."""
    return jax.tree.leaves(x)[0].shape[0]


def examples_from(x: Examples, start: Int[Array, ""] | int, size: int) -> Examples:
    """So many examples from one on."""
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), x)


def square_tile(x: Examples) -> int:
    """How many examples are on each side of the tiles of a symmetric matrix."""
    return tile_sizes(x, batch_size(x), batch_size(x), symmetric=True)[0]


def tile_sizes(x1: Examples, n1: int, n2: int, symmetric: bool) -> tuple[int, int]:
    """How many examples of either batch to treat at a time: as many as fill a block.

    Tiles share the examples evenly, because the last one overlaps the one before. Of
    all that fit into a block, those are taken whose pairs, and examples with
    themselves, are fewest in all.
    """
    values = map(values_of, jax.tree.leaves(x1, is_leaf=is_signal))
    entry = max(math.prod(v.shape[2:]) * v.dtype.itemsize for v in values)
    pairs = max(1, BLOCK_BYTES // entry)
    if symmetric:
        (size,) = evenly(n1, np.array([max(1, int(pairs**0.5))]))
        return int(size), int(size)
    columns = evenly(n2, np.arange(1, 1 + min(n2, pairs)))
    rows = evenly(n1, np.maximum(1, pairs // columns))
    tiles = -(-n1 // rows) * -(-n2 // columns)
    best = np.argmin(tiles * (rows * columns + rows + columns))
    return int(rows[best]), int(columns[best])


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
