"""A network as the covariance function of a Gaussian process in another library."""

from typing import Any, Literal, TypeAlias

from jaxtyping import Array, Float

from eqtangents._arguments import checked_choice
from eqtangents._kernel import nngp, nngp_diagonal, ntk, ntk_diagonal
from eqtangents._networks import check_network
from eqtangents.nn import AbstractLayer


# The covariance of outputs, or the tangent kernel in its place.
WhichCovariance: TypeAlias = Literal["nngp", "ntk"]
_FUNCTIONS = {"nngp": (nngp, nngp_diagonal), "ntk": (ntk, ntk_diagonal)}


def checked_covariance(net: Any, kind: Any) -> WhichCovariance:
    """Which of the kernels, if this is a network.

    **Raises:** `TypeError` for what is no network; `ValueError` for other kernels.
    """
    check_network(net, None)
    return checked_choice("kind", kind, tuple(_FUNCTIONS))


def covariance_matrix(
    net: AbstractLayer,
    kind: WhichCovariance,
    x1: Float[Array, "n1 *shape"],
    x2: Float[Array, "n2 *shape"] | None,
) -> Float[Array, "n1 n2"]:
    """The kernel of two batches, of a network with one output for each example."""
    return _of_single_outputs(_FUNCTIONS[kind][0](net, x1, x2), 2)


def own_covariances(
    net: AbstractLayer, kind: WhichCovariance, x: Float[Array, "n *shape"]
) -> Float[Array, " n"]:
    """The kernel of each example with itself."""
    return _of_single_outputs(_FUNCTIONS[kind][1](net, x), 1)


def _of_single_outputs(kernel: Any, axes: int) -> Array:
    if getattr(kernel, "ndim", None) == axes:
        return kernel
    raise ValueError(
        "The network has outputs at several positions, or several outputs, but a "
        "covariance function is of one: end the network by `nn.GlobalAvgPool()` or "
        "`nn.Flatten()`."
    )
