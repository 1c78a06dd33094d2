"""What a tile of a matrix of kernels is: a function of two small batches."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from eqtangents._arguments import described
from eqtangents._gram._plan import Plan
from eqtangents._kernel import Kind, of_each_pair
from eqtangents._tile_plan import Examples, batch_size, like_one, tile_sizes
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

    @property
    @abc.abstractmethod
    def shared_axes(self) -> int:
        """How many axes, after those of examples, both examples have in common.

        Those that follow are as many of either, and swapped with the examples.
        """

    @abc.abstractmethod
    def is_mirrored(self, x: Examples) -> bool:
        """Whether swapping two batches is known to transpose the arrays."""

    @abc.abstractmethod
    def tile(self, x: Examples, plan: Plan) -> tuple[int, int]:
        """How many examples of either batch a tile has unless users say so."""

    def square_tile(self, x: Examples) -> int:
        """How many examples a tile of a symmetric matrix has on a side, on a device."""
        if not (n := batch_size(x)):
            return 1
        one = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), x)
        return min(self.tile(one, Plan(n, n, (n, n), symmetric=True)))


class NetworkPairs(AbstractPairs):
    """The kernels of a network of infinite width."""

    net: AbstractLayer
    kind: Kind = eqx.field(static=True)

    def __call__(
        self, x1: Examples, x2: Examples | None, first_row: Int[Array, ""] | None
    ) -> PyTree[Array]:
        """Tiles know which pairs are one example."""
        return of_each_pair(self.net, x1, x2, self.kind, first_row)

    @property
    def shared_axes(self) -> int:
        """Positions are those of one example or the other."""
        return 0

    def is_mirrored(self, x: Examples) -> bool:
        """Positions are mirrored as well."""
        return True

    def tile(self, x: Examples, plan: Plan) -> tuple[int, int]:
        """What the plain call of a device's rows and columns would take."""
        return tile_sizes(self.net, x, plan.rows, plan.columns, plan.symmetric)


class FunctionPairs(AbstractPairs):
    """The kernels that a function of two batches gives."""

    function: Callable[[Any, Any], PyTree[Array]]

    def __call__(
        self, x1: Examples, x2: Examples | None, first_row: Int[Array, ""] | None
    ) -> PyTree[Array]:
        """A function is not told which pairs are one example."""
        x2 = x1 if x2 is None else x2
        result = self.function(x1, x2)
        sizes = batch_size(x1), batch_size(x2)
        for leaf in jax.tree.leaves(result):
            if np.shape(leaf)[:2] != sizes:
                raise ValueError(
                    f"`kernel` returned {described(leaf)} for batches of {sizes[0]} "
                    f"and {sizes[1]} examples, but must return arrays whose leading "
                    f"axes are those of the pairs, {sizes}: `jax.vmap` over both "
                    "batches makes such a function of one of two examples."
                )
        return result

    @property
    def shared_axes(self) -> int:
        """None, where it is known whether arrays are mirrored."""
        return 0

    def is_mirrored(self, x: Examples) -> bool:
        """Of axes beyond those of the examples it is not known how they are swapped."""
        one = like_one(x)
        shapes = eqx.filter_eval_shape(self.function, one, one)
        return all(leaf.ndim == 2 for leaf in jax.tree.leaves(shapes))

    def tile(self, x: Examples, plan: Plan) -> tuple[int, int]:
        """All rows of a device, or half of them where devices share a block."""
        parts = 2 if plan.row_devices > 1 or plan.column_devices > 1 else 1
        size = -(-plan.rows // parts)
        return size, size
