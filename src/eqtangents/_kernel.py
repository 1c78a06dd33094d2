"""Kernels of infinitely wide networks."""

import itertools
import math
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from eqtangents.covariance import (
    BLOCK_BYTES,
    AbstractCovariance,
    Block,
    Scope,
    dense,
)
from eqtangents.nn import AbstractLayer, Graph, Masked
from eqtangents.nn._inputs import (
    Signal,
    as_input,
    is_signal,
    values_of,
    with_equal_edges,
)


Inputs: TypeAlias = PyTree[Shaped[Array, "..."]]


class Kernel(eqx.Module):
    """The two kernels of an infinitely wide network.

    For networks with a readout the axes are those of the examples, `(n1, n2)`; where
    spatial axes remain, those of both positions follow, `(n1, n2, *size, *size)`.
    """

    nngp: Float[Array, "n1 n2 *positions"]
    ntk: Float[Array, "n1 n2 *positions"]


@eqx.filter_jit
def kernel(net: AbstractLayer, x1: Inputs, x2: Inputs | None = None) -> PyTree[Kernel]:
    r"""The neural network Gaussian process and neural tangent kernels of a network.

    With $f$ the network's output and $\theta$ its parameters at initialisation, in the
    limit of infinitely many channels,

    $$\mathrm{nngp} = \mathbb{E}\, f(x)\, f(x')^T, \qquad
    \mathrm{ntk} = \mathbb{E}\, \nabla_\theta f(x)\, \nabla_\theta f(x')^T$$

    per output channel (different channels are uncorrelated).

    **Arguments:**

    - `net`: the network, with or without parameters: they play no role.
    - `x1`: a batch of inputs, channels first; a tuple of batches for a network with
        several inputs.
    - `x2`: another batch, or `None` for `x1` with itself, which costs half and is
        symmetric to the last bit.

    **Returns:** a `Kernel` in the dtype of the inputs; a tuple of them for a network
    with several outputs.

    **Raises:** `ValueError` if the inputs do not fit each other or the network, naming
    the layer and its path in the network.

    **Cost:** per pair of examples and layer, the positions for networks that end in
    `Flatten`, their square for those with pooling. Beyond inputs and result, memory
    does not depend on the number of examples.

    **Source:** Jacot et al. 2018, arXiv:1806.07572; Novak et al. 2019,
    arXiv:1810.05148; Arora et al. 2019, arXiv:1904.11955.
    """
    blocks = _evaluate(net, x1, x2, wants_ntk=True)
    return jax.tree.map(
        lambda b: Kernel(b.nngp, b.ntk),
        blocks,
        is_leaf=lambda leaf: isinstance(leaf, Block),
    )


@eqx.filter_jit
def nngp(
    net: AbstractLayer, x1: Inputs, x2: Inputs | None = None
) -> PyTree[Float[Array, "n1 n2 *positions"]]:
    """The neural network Gaussian process kernel alone, at about half the cost.

    Arguments, result axes and errors are those of `eqtangents.kernel`.
    """
    blocks = _evaluate(net, x1, x2, wants_ntk=False)
    return jax.tree.map(
        lambda b: b.nngp, blocks, is_leaf=lambda leaf: isinstance(leaf, Block)
    )


@eqx.filter_jit
def ntk(
    net: AbstractLayer, x1: Inputs, x2: Inputs | None = None
) -> PyTree[Float[Array, "n1 n2 *positions"]]:
    """The neural tangent kernel alone.

    Arguments, result axes and errors are those of `eqtangents.kernel`.
    """
    return jax.tree.map(
        lambda k: k.ntk,
        kernel(net, x1, x2),
        is_leaf=lambda leaf: isinstance(leaf, Kernel),
    )


def _evaluate(
    net: AbstractLayer, x1: Inputs, x2: Inputs | None, *, wants_ntk: bool
) -> PyTree[Block]:
    """Blocks of all pairs of examples, a tile of them at a time."""
    if x2 is not None and jax.tree.structure(x1) == jax.tree.structure(x2):
        x1, x2 = _alike(x1, x2)
    _check_inputs(x1, x2)
    symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    n1, n2 = (jax.tree.leaves(x)[0].shape[0] for x in (x1, x2))

    @jax.checkpoint
    def tile(
        x1: Inputs, x2: Inputs, identical: Bool[Array, "t1 t2"] | None = None
    ) -> PyTree[Block]:
        return _tile(net, x1, x2, identical, wants_ntk=wants_ntk)

    if not n1 or not n2:
        return tile(x1, x2)
    t1, t2 = _tile_sizes(x1, n1, n2, symmetric)
    if not symmetric and (t1, t2) == (n1, n2):
        return tile(x1, x2)

    def rows(x: Inputs, start: Int[Array, ""] | int, size: int) -> Inputs:
        return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), x)

    def step(
        result: PyTree[Array], start: Int[Array, " 2"]
    ) -> tuple[PyTree[Array], None]:
        tile1, tile2 = rows(x1, start[0], t1), rows(x2, start[1], t2)
        identical = None
        if symmetric:
            row, column = (s + jnp.arange(t1, dtype=start.dtype) for s in start)
            identical = row[:, None] == column[None]
        block = tile(tile1, tile2, identical)
        return jax.tree.map(lambda r, b: _place(r, b, start), result, block), None

    def empty(node: AbstractCovariance) -> Block:
        size = node.outline.size
        zeros = jnp.zeros((n1, n2, *size, *size), jax.tree.leaves(x1)[0].dtype)
        return Block(zeros, zeros if wants_ntk else None)

    outputs = _outputs(net, rows(x1, 0, 0), rows(x2, 0, 0))
    result = jax.tree.map(empty, outputs, is_leaf=_is_covariance)
    pairs = itertools.product(_starts(n1, t1), _starts(n2, t2))
    starts = [(i, j) for i, j in pairs if not symmetric or i <= j]
    starts = jnp.asarray(np.array(starts, np.int32))
    result, _ = lax.scan(step, result, starts)
    if not symmetric:
        return result
    return jax.tree.map(lambda leaf: _mirrored(leaf, t1, starts), result)


def _tile(
    net: AbstractLayer,
    x1: Inputs,
    x2: Inputs,
    identical: Bool[Array, "t1 t2"] | None,
    *,
    wants_ntk: bool,
) -> PyTree[Block]:
    """Blocks of all pairs of a few examples."""
    first, second = (jax.tree.leaves(x)[0] for x in (x1, x2))
    scope = Scope(
        first.shape[0],
        second.shape[0],
        first.dtype,
        wants_ntk=wants_ntk,
        identical=identical,
    )

    def evaluate(node: AbstractCovariance) -> Block:
        block = dense(scope, node)
        return block.with_ntk() if wants_ntk else block

    return jax.tree.map(evaluate, _outputs(net, x1, x2), is_leaf=_is_covariance)


def _outputs(net: AbstractLayer, x1: Inputs, x2: Inputs) -> PyTree[AbstractCovariance]:
    """The covariances of the network's outputs."""
    return net.propagate(jax.tree.map(as_input, x1, x2, is_leaf=is_signal))


def _is_covariance(node: object) -> bool:
    return isinstance(node, AbstractCovariance)


def _tile_sizes(x1: Inputs, n1: int, n2: int, symmetric: bool) -> tuple[int, int]:
    """How many examples of either batch to treat at a time: as many as fill a block."""
    values = map(values_of, jax.tree.leaves(x1, is_leaf=is_signal))
    entry = max(value[0, 0].size * value.dtype.itemsize for value in values)
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


def _alike(x1: Inputs, x2: Inputs) -> tuple[Inputs, Inputs]:
    """The inputs, with graphs of as many edges."""
    first, structure = jax.tree.flatten(x1, is_leaf=is_signal)
    second = jax.tree.leaves(x2, is_leaf=is_signal)
    pairs = [with_equal_edges(a, b) for a, b in zip(first, second, strict=True)]
    x1, x2 = ([pair[i] for pair in pairs] for i in (0, 1))
    return jax.tree.unflatten(structure, x1), jax.tree.unflatten(structure, x2)


def _check_inputs(x1: Inputs, x2: Inputs | None) -> None:
    """Raise unless both are batches of examples of the same shape and type."""
    for name, x in (("x1", x1), ("x2", x2)):
        signals = jax.tree.leaves(x, is_leaf=is_signal)
        for signal in signals:
            _check_signal(name, signal)
        types = sorted({str(values_of(signal).dtype) for signal in signals})
        if len(types) > 1:
            raise ValueError(
                f"The inputs in `{name}` have dtypes {', '.join(types)}, but a kernel "
                "has one dtype. Convert them to the same."
            )
        sizes = sorted({leaf.shape[0] for leaf in jax.tree.leaves(x)})
        if len(sizes) > 1:
            raise ValueError(
                f"The inputs in `{name}` have {sizes} examples, but must have as many "
                "of each kind."
            )
    if x2 is None:
        return
    if jax.tree.structure(x1) != jax.tree.structure(x2):
        raise ValueError(
            f"`x1` is a {jax.tree.structure(x1)} of arrays and `x2` a "
            f"{jax.tree.structure(x2)}; both must be what the network takes."
        )
    for a, b in zip(jax.tree.leaves(x1), jax.tree.leaves(x2), strict=True):
        if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
            raise ValueError(
                f"One example of `x1` has shape {a.shape[1:]} and dtype {a.dtype}, one "
                f"of `x2` {b.shape[1:]} and {b.dtype}, but a kernel compares examples "
                "of one kind: channels first, `(n, channels, *spatial)`."
            )


def _check_signal(name: str, signal: Signal) -> None:
    """Raise unless this is a batch of inputs of one kind."""
    values = values_of(signal)
    if values.ndim < 2:
        raise ValueError(
            f"`{name}` has shape {values.shape}, but a batch of inputs has a leading "
            "axis of examples and one of channels, `(n, channels, *spatial)`. For one "
            "example, pass `x[None]`."
        )
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` has dtype {values.dtype}, but kernels are computed in the dtype "
            "of the inputs, which must be a floating-point one. Convert it, for "
            f"example by `{name}.astype(jnp.float32)`."
        )
    masked = signal.value if isinstance(signal, Graph) else signal
    if not isinstance(masked, Masked):
        return
    positions = (values.shape[0], *values.shape[2:])
    if masked.mask.shape != positions:
        raise ValueError(
            f"The mask in `{name}` has shape {masked.mask.shape}, but its values have "
            f"shape {values.shape}. A mask tells which positions there are, "
            f"{positions}: `(n, *spatial)`, for all channels alike."
        )
