"""Tiles of a symmetric matrix: the other side of the diagonal."""

import math

import numpy as np
from jaxtyping import Shaped


def mirror(block: Shaped[np.ndarray, "t1 t2 *twice"]) -> Shaped[np.ndarray, "..."]:
    """The tile on the other side of the diagonal: positions are swapped as well."""
    rank = (block.ndim - 2) // 2
    further = range(2, block.ndim)
    return block.transpose(1, 0, *further[rank:], *further[:rank])


def upper_mirrored(
    block: Shaped[np.ndarray, "t t *twice"],
) -> Shaped[np.ndarray, "..."]:
    """A tile on the diagonal with what is above that below it, too.

    Its rows are pairs of an example and a position.
    """
    rank = (block.ndim - 2) // 2
    size, positions = block.shape[0], block.shape[2 : 2 + rank]
    count = size * math.prod(positions)
    order = (0, *range(2, 2 + rank), 1, *range(2 + rank, block.ndim))
    square = block.transpose(order).reshape(count, count)
    upper = np.triu(square)
    whole = upper + np.triu(square, 1).T
    whole = whole.reshape(size, *positions, size, *positions)
    return np.moveaxis(whole, 1 + rank, 1)
