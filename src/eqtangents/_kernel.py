"""Kernels of infinitely wide networks."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, overload

import jax
from jaxtyping import Array, Int, PyTree

from eqtangents._batches import NestedBatch, OneBatch, checked_arguments
from eqtangents._budget import suiting
from eqtangents._kernel_habits import KERNEL_HABITS
from eqtangents._kernel_pair import Kernel as Kernel
from eqtangents._networks import check_hyperparameters
from eqtangents._parameters import Trainable
from eqtangents._programs import whole_program
from eqtangents._rated import with_rates
from eqtangents._signatures import names_checked
from eqtangents._tiles import Entries, tiled_diagonal, tiled_kernels
from eqtangents._trees import Batch
from eqtangents.nn import AbstractLayer


# The results of a network with several outputs.
NestedKernel: TypeAlias = Kernel | tuple["NestedKernel", ...]
NestedMatrix: TypeAlias = Array | tuple["NestedMatrix", ...]
Kind: TypeAlias = Literal["ntk", "nngp", "both"]


@overload
def kernel(
    net: AbstractLayer,
    x1: OneBatch,
    x2: OneBatch | None = None,
    *,
    trainable: Trainable = None,
) -> Kernel: ...
@overload
def kernel(
    net: AbstractLayer,
    x1: Sequence[NestedBatch],
    x2: Sequence[NestedBatch] | None = None,
    *,
    trainable: Trainable = None,
) -> NestedKernel: ...
@names_checked(KERNEL_HABITS)
def kernel(
    net: AbstractLayer,
    x1: Batch,
    x2: Batch | None = None,
    *,
    trainable: Trainable = None,
) -> Any:
    r"""The neural network Gaussian process and neural tangent kernels of a network.

    With $f$ the network's output and $\theta$ its parameters at initialisation, in the
    limit of infinitely many channels,

    $$\mathrm{nngp} = \mathbb{E}\, f(x)\, f(x')^T, \qquad
    \mathrm{ntk} = \mathbb{E}\, \nabla_\theta f(x)\, \nabla_\theta f(x')^T$$

    per output channel (different channels are uncorrelated).

    **Arguments:**

    - `net`: the network, with or without parameters: they play no role.
    - `x1`: a batch of inputs, channels first: an array of JAX or NumPy, a `Masked` or a
        `Graph`; a tuple of batches for a network with several inputs.
    - `x2`: another batch, or `None` for `x1` with itself, which costs half and is
        symmetric to the last bit. An array beside a `Masked` has all positions.
    - `trainable`: which parameters are trained, and how fast: a test of parameters, or
        a tree with the structure of `net.init(...)`, or a prefix of it, of booleans or
        of learning rates (numbers, or arrays of shape `()`; of a `Repeat` also
        `(n,)`, one for each copy). The tangent kernel is the sum of
        $\eta_p\, \mathbb{E}\, \partial_p f(x)\, \partial_p f(x')^T$ over parameters
        $p$ with the rates $\eta_p$. By default all rates are 1.

    **Returns:** a `Kernel` in the dtype of the inputs; a tuple of them for a network
    with several outputs.

    **Raises:** `TypeError` for what is no network or no batch; `ValueError` if the
    inputs do not fit each other, have no channels or positions, or hold NaN or infinity
    (unless they are traced); `LayerError`, a `ValueError`, if they do not fit the
    network, naming the layer and its path in it, and if two layers share weights;
    `TypeError` or `ValueError` if `trainable` does not fit, or picks nothing.

    **Cost:** per pair of examples and layer, the positions for networks that end in
    `Flatten`, their square for those with pooling. Beyond inputs and result, memory
    does not depend on the number of examples.

    **Source:** Jacot et al. 2018, arXiv:1806.07572; Novak et al. 2019,
    arXiv:1810.05148; Arora et al. 2019, arXiv:1904.11955.
    """
    net, x1, x2 = checked_arguments(net, x1, x2)
    return of_each_pair(with_rates(net, x1, trainable), x1, x2, "both")


@overload
def nngp(net: AbstractLayer, x1: OneBatch, x2: OneBatch | None = None) -> Array: ...
@overload
def nngp(
    net: AbstractLayer,
    x1: Sequence[NestedBatch],
    x2: Sequence[NestedBatch] | None = None,
) -> NestedMatrix: ...
@names_checked(KERNEL_HABITS)
def nngp(net: AbstractLayer, x1: Batch, x2: Batch | None = None) -> Any:
    """The neural network Gaussian process kernel alone, at about half the cost.

    It takes and raises what `eqtangents.kernel` does, and has the axes of its arrays.
    """
    return of_each_pair(*checked_arguments(net, x1, x2), "nngp")


@overload
def ntk(
    net: AbstractLayer,
    x1: OneBatch,
    x2: OneBatch | None = None,
    *,
    trainable: Trainable = None,
) -> Array: ...
@overload
def ntk(
    net: AbstractLayer,
    x1: Sequence[NestedBatch],
    x2: Sequence[NestedBatch] | None = None,
    *,
    trainable: Trainable = None,
) -> NestedMatrix: ...
@names_checked(KERNEL_HABITS)
def ntk(
    net: AbstractLayer,
    x1: Batch,
    x2: Batch | None = None,
    *,
    trainable: Trainable = None,
) -> Any:
    """The neural tangent kernel alone.

    It takes and raises what `eqtangents.kernel` does, and has the axes of its arrays.
    """
    net, x1, x2 = checked_arguments(net, x1, x2)
    return of_each_pair(with_rates(net, x1, trainable), x1, x2, "ntk")


@overload
def kernel_diagonal(
    net: AbstractLayer, x: OneBatch, *, trainable: Trainable = None
) -> Kernel: ...
@overload
def kernel_diagonal(
    net: AbstractLayer, x: Sequence[NestedBatch], *, trainable: Trainable = None
) -> NestedKernel: ...
@names_checked(KERNEL_HABITS)
def kernel_diagonal(
    net: AbstractLayer, x: Batch, *, trainable: Trainable = None
) -> Any:
    """Both kernels of each example with itself, in time proportional to their number.

    They are the diagonal of `eqtangents.kernel(net, x)`: prior variances, of which
    posterior ones are made.

    **Arguments:**

    - `net`: the network.
    - `x`: a batch of inputs, as for `eqtangents.kernel`.
    - `trainable`: which parameters are trained, and how fast, as there.

    **Returns:** a `Kernel` of arrays `(n,)`, or `(n, *size)` where spatial axes remain:
    both positions are then the same. A tuple of them for several outputs.

    **Raises:** what `eqtangents.kernel` does.
    """
    net, x, _ = checked_arguments(net, x, None)
    return _of_each_example(with_rates(net, x, trainable), x, "both")


@overload
def nngp_diagonal(net: AbstractLayer, x: OneBatch) -> Array: ...
@overload
def nngp_diagonal(net: AbstractLayer, x: Sequence[NestedBatch]) -> NestedMatrix: ...
@names_checked(KERNEL_HABITS)
def nngp_diagonal(net: AbstractLayer, x: Batch) -> Any:
    """The neural network Gaussian process kernel of each example with itself.

    It takes and raises what `eqtangents.kernel_diagonal` does, and has its axes.
    """
    net, x, _ = checked_arguments(net, x, None)
    return _of_each_example(net, x, "nngp")


@overload
def ntk_diagonal(
    net: AbstractLayer, x: OneBatch, *, trainable: Trainable = None
) -> Array: ...
@overload
def ntk_diagonal(
    net: AbstractLayer, x: Sequence[NestedBatch], *, trainable: Trainable = None
) -> NestedMatrix: ...
@names_checked(KERNEL_HABITS)
def ntk_diagonal(net: AbstractLayer, x: Batch, *, trainable: Trainable = None) -> Any:
    """The neural tangent kernel of each example with itself.

    It takes and raises what `eqtangents.kernel_diagonal` does, and has its axes.
    """
    net, x, _ = checked_arguments(net, x, None)
    return _of_each_example(with_rates(net, x, trainable), x, "ntk")


def of_each_pair(
    net: AbstractLayer,
    x1: Batch,
    x2: Batch | None,
    kind: Kind,
    first_row: Int[Array, ""] | None = None,
) -> Any:
    """The kernels of all pairs of two batches, or of two parts of one.

    `first_row`: of one batch, the place of the first row less that of the first column.
    """
    with suiting((x1, x2, net)):
        return _compiled_of_each_pair(net, x1, x2, kind, first_row)


@whole_program
def _compiled_of_each_pair(
    net: AbstractLayer,
    x1: Batch,
    x2: Batch | None,
    kind: Kind,
    first_row: Int[Array, ""] | None,
) -> Any:
    check_hyperparameters(net)
    entries = tiled_kernels(net, x1, x2, wants_ntk=kind != "nngp", first_row=first_row)
    return _map_outputs(_PART_OF_KIND[kind], entries)


def _of_each_example(net: AbstractLayer, x: Batch, kind: Kind) -> Any:
    with suiting((x, net)):
        return _compiled_of_each_example(net, x, kind)


@whole_program
def _compiled_of_each_example(net: AbstractLayer, x: Batch, kind: Kind) -> Any:
    check_hyperparameters(net)
    return _map_outputs(
        _PART_OF_KIND[kind], tiled_diagonal(net, x, wants_ntk=kind != "nngp")
    )


def _both_kernels(entries: Entries) -> Kernel:
    assert entries.ntk is not None, "both kernels were asked for"
    return Kernel(entries.nngp, entries.ntk)


_PART_OF_KIND: dict[Kind, Callable[[Entries], Any]] = {
    "ntk": lambda entries: entries.ntk,
    "nngp": lambda entries: entries.nngp,
    "both": _both_kernels,
}


def _map_outputs(fn: Callable[[Entries], Any], entries: PyTree[Entries]) -> PyTree:
    """`fn` of the entries of each output of the network."""
    return jax.tree.map(fn, entries, is_leaf=lambda node: isinstance(node, Entries))
