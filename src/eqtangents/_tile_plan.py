"""Which pairs of examples are treated together: sizes and places of tiles."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, PyTree, Shaped

from eqtangents._budget import Budget, budget, under
from eqtangents._closures import with_closures_told
from eqtangents.covariance import AbstractCovariance
from eqtangents.covariance._order import first_to_last
from eqtangents.duals._elementary import may_be_differentiated
from eqtangents.nn import AbstractLayer
from eqtangents.nn._inputs import as_input, is_signal, values_of


# Examples along the first axis of each array; a signal or nested tuples of them.
Examples: TypeAlias = PyTree[Shaped[Array | np.ndarray, "..."]]

Told = TypeVar("Told")
_OfFunction = ParamSpec("_OfFunction")
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
        positions.extend(math.prod(one.outline.size) for one in _all_before(node))

    _note_outputs(net, x, note)
    pairs = budget().block_bytes // (max(positions) * itemsize)
    if most := max(kept):
        pairs = min(pairs, budget().table_bytes // (most * itemsize))
    return max(1, pairs)


def smaller_in_derivatives(
    function: Callable[_OfFunction, Told],
) -> Callable[_OfFunction, Told]:
    """The same function of a network and examples, with derivatives of their own.

    These use small blocks: they keep blocks of all layers until they come back to them,
    where the function itself needs those of one or two. And formulas that are there for
    derivatives alone are left out of the function itself.
    """

    @eqx.filter_custom_jvp
    def in_blocks(*args: Any, most: Budget, **static: Any) -> Told:
        with may_be_differentiated(False):
            return function(*args, **static)

    @in_blocks.def_jvp
    def _(
        primals: Any, tangents: Any, *, most: Budget, **static: Any
    ) -> tuple[Any, Any]:
        net, x, *_ = primals
        block_bytes = min(most.block_bytes, most.kept_bytes // _count_of_layers(net, x))
        small = under(most._replace(block_bytes=block_bytes))
        with small, may_be_differentiated(True):
            return eqx.filter_jvp(function, primals, tangents, **static)

    @functools.wraps(function)
    def call(*args: _OfFunction.args, **static: _OfFunction.kwargs) -> Told:
        # Derivatives may be asked for when the budget of this call is not in force.
        return in_blocks(*with_closures_told(args), most=budget(), **static)

    return call


def _count_of_layers(net: AbstractLayer, x: Examples) -> int:
    """Of how many layers the outputs of a network are computed."""
    layers = []
    note = lambda node: layers.extend(one.layers for one in _all_before(node))
    _note_outputs(net, x, note)
    return sum(layers)


def _note_outputs(
    net: AbstractLayer, x: Examples, note: Callable[[AbstractCovariance], None]
) -> None:
    """Show `note` the covariance of each output; nothing is computed."""
    eqx.filter_eval_shape(lambda x: of_each_output(net, x, x, note), like_one(x))


def _all_before(output: AbstractCovariance) -> list[AbstractCovariance]:
    """A covariance and all that it is computed from, within repeated layers as well."""

    def held(node: AbstractCovariance) -> list[AbstractCovariance]:
        leaves = jax.tree.leaves(vars(node))
        return [one for one in leaves if isinstance(one, AbstractCovariance)]

    return first_to_last(output, held)


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
