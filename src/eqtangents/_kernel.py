"""Kernels of infinitely wide networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from eqtangents._kernel_pair import Kernel as Kernel
from eqtangents._tiles import Entries, Inputs, evaluate, evaluate_diagonal
from eqtangents.nn import AbstractLayer, Graph, Masked
from eqtangents.nn._inputs import (
    Signal,
    is_signal,
    values_of,
    with_equal_edges,
)



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
    return _kernels(evaluate(net, *_checked(x1, x2), wants_ntk=True))


@eqx.filter_jit
def nngp(
    net: AbstractLayer, x1: Inputs, x2: Inputs | None = None
) -> PyTree[Float[Array, "n1 n2 *positions"]]:
    """The neural network Gaussian process kernel alone, at about half the cost.

    Arguments, result axes and errors are those of `eqtangents.kernel`.
    """
    return _nngps(evaluate(net, *_checked(x1, x2), wants_ntk=False))


@eqx.filter_jit
def ntk(
    net: AbstractLayer, x1: Inputs, x2: Inputs | None = None
) -> PyTree[Float[Array, "n1 n2 *positions"]]:
    """The neural tangent kernel alone.

    Arguments, result axes and errors are those of `eqtangents.kernel`.
    """
    return _ntks(evaluate(net, *_checked(x1, x2), wants_ntk=True))


@eqx.filter_jit
def kernel_diagonal(net: AbstractLayer, x: Inputs) -> PyTree[Kernel]:
    """Both kernels of each example with itself, in time proportional to their number.

    They are the diagonal of `eqtangents.kernel(net, x)`: prior variances, of which
    posterior ones are made.

    **Arguments:**

    - `net`: the network.
    - `x`: a batch of inputs, as for `eqtangents.kernel`.

    **Returns:** a `Kernel` of arrays `(n,)`, or `(n, *size)` where spatial axes remain:
    both positions are then the same. A tuple of them for several outputs.

    **Raises:** `ValueError` as `eqtangents.kernel` does.
    """
    x, _ = _checked(x, None)
    return _kernels(evaluate_diagonal(net, x, wants_ntk=True))


@eqx.filter_jit
def nngp_diagonal(
    net: AbstractLayer, x: Inputs
) -> PyTree[Float[Array, "n *positions"]]:
    """The neural network Gaussian process kernel of each example with itself.

    Arguments, result axes and errors are those of `eqtangents.kernel_diagonal`.
    """
    x, _ = _checked(x, None)
    return _nngps(evaluate_diagonal(net, x, wants_ntk=False))


@eqx.filter_jit
def ntk_diagonal(net: AbstractLayer, x: Inputs) -> PyTree[Float[Array, "n *positions"]]:
    """The neural tangent kernel of each example with itself.

    Arguments, result axes and errors are those of `eqtangents.kernel_diagonal`.
    """
    x, _ = _checked(x, None)
    return _ntks(evaluate_diagonal(net, x, wants_ntk=True))


def _kernels(entries: PyTree[Entries]) -> PyTree[Kernel]:
    return jax.tree.map(lambda e: Kernel(e.nngp, e.ntk), entries, is_leaf=_is_entries)


def _nngps(entries: PyTree[Entries]) -> PyTree[Float[Array, "..."]]:
    return jax.tree.map(lambda e: e.nngp, entries, is_leaf=_is_entries)


def _ntks(entries: PyTree[Entries]) -> PyTree[Float[Array, "..."]]:
    return jax.tree.map(lambda e: e.ntk, entries, is_leaf=_is_entries)


def _is_entries(leaf: object) -> bool:
    return isinstance(leaf, Entries)


def _checked(x1: Inputs, x2: Inputs | None) -> tuple[Inputs, Inputs | None]:
    """The inputs, if a kernel can be made of them."""
    if x2 is not None and jax.tree.structure(x1) == jax.tree.structure(x2):
        x1, x2 = _alike(x1, x2)
    _check_inputs(x1, x2)
    return x1, x2


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
