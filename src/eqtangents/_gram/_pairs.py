"""What a tile of a matrix of kernels is: a function of two small batches."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Int, PyTree, Shaped

from eqtangents._kernel import Kind, of_each_pair
from eqtangents._tile_plan import Examples, square_tile
from eqtangents.nn import AbstractLayer


class AbstractPairs(eqx.Module):
    """The kernels of all pairs of two batches."""

    @abc.abstractmethod
    def __call__(
        self, x1: Examples, x2: Examples | None, first_row: Int[Array, ""] | None
    ) -> PyTree[Array]:
        """Arrays `(n1, n2, ...)`; `first_row` is the row of `x2` where `x1` begins.

        With `None` for `x2` both batches are `x1`.
        """

    @abc.abstractmethod
    def is_mirrored(self, x: Examples) -> bool:
        """Whether swapping two batches is known to transpose the arrays."""

    @abc.abstractmethod
    def tile_size(self, x: Examples, rows: int, devices: int) -> int:
        """How many examples a tile has on a side unless users say so."""


class NetworkPairs(AbstractPairs):
    """The kernels of a network of infinite width."""

    net: AbstractLayer
    kind: Kind = eqx.field(static=True)

    def __call__(
        self, x1: Examples, x2: Examples | None, first_row: Int[Array, ""] | None
    ) -> PyTree[Array]:
        """Tiles know which pairs are one example."""
        return of_each_pair(self.net, x1, x2, self.kind, first_row)

    def is_mirrored(self, x: Examples) -> bool:
        """Positions are mirrored as well."""
        return True

    def tile_size(self, x: Examples, rows: int, devices: int) -> int:
        """The one with which the kernel runs through its layers in cache."""
        return min(rows, square_tile(x))


class FunctionPairs(AbstractPairs):
    """The kernels that a function of two batches gives."""

    function: Callable[[Any, Any], PyTree[Array]]

    def __call__(
        self, x1: Examples, x2: Examples | None, first_row: Int[Array, ""] | None
    ) -> PyTree[Array]:
        """A function is not told which pairs are one example."""
        return self.function(x1, x1 if x2 is None else x2)

    def is_mirrored(self, x: Examples) -> bool:
        """Of axes beyond those of the examples it is not known how they are swapped."""
        one = jax.tree.map(like_one, x)
        shapes = eqx.filter_eval_shape(self.function, one, one)
        return all(leaf.ndim == 2 for leaf in jax.tree.leaves(shapes))

    def tile_size(self, x: Examples, rows: int, devices: int) -> int:
        """All rows of a device, or half of them where devices share a block."""
        return -(-rows // (1 if devices == 1 else 2))


def like_one(leaf: Shaped[Array | np.ndarray, "n *rest"]) -> jax.ShapeDtypeStruct:
    """What there is of an array for one example."""
    return jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype)
