"""The kernels of a network as a function of two batches, for a class of predictors."""

from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._kernel import (
    Kernel,
    kernel as both_kernels,
    nngp,
    nngp_diagonal,
    ntk,
    ntk_diagonal,
)
from eqtangents._trees import Batch
from eqtangents.nn import AbstractLayer
from eqtangents.predict._arguments import array_argument, described, is_both
from eqtangents.predict._ensemble import Ensemble
from eqtangents.predict._gaussian_process import GaussianProcess
from eqtangents.predict._gradient_descent import GradientDescent
from eqtangents.predict._gradient_descent_mse import GradientDescentMSE
from eqtangents.predict._kernel_matrix import as_matrix


# Of `(x1, x2)`, where `x2=None` is `x1`: a matrix, or both kernels.
KernelFunction: TypeAlias = Callable[..., Array | Kernel]

_WANTED: dict[object, KernelFunction] = {
    GaussianProcess: nngp,
    GradientDescent: ntk,
    GradientDescentMSE: ntk,
    Ensemble: both_kernels,
}
# For each kernel of networks, the variances of outputs.
_VARIANCES: tuple[tuple[object, Callable[..., Array]], ...] = (
    (nngp, nngp_diagonal),
    (ntk, ntk_diagonal),
    (both_kernels, nngp_diagonal),
)
_EXAMPLES_AT_A_TIME = 32  # whose own kernels are computed


def class_of_predictors(make: object) -> object:
    """The class that is made, which may have arguments already.

    **Raises:** `TypeError` for what makes no predictor.
    """
    of = getattr(make, "func", make)
    if of in _WANTED:
        return of
    if isinstance(make, AbstractLayer) or not callable(make):
        raise TypeError(
            f"`make` is {described(make)}, but a class of predictors is needed first: "
            "`FromNetwork(GaussianProcess, network, x_train, y_train)`."
        )
    if of is not make or not isinstance(make, type):
        return of  # a function of one's own
    raise TypeError(
        f"`make` is {described(make)}, but a class of predictors is needed: "
        "`GaussianProcess`, `Ensemble`, `GradientDescentMSE`, or "
        "`functools.partial(GradientDescent, loss)`."
    )


def kernel_function(
    network: AbstractLayer | KernelFunction, of: object
) -> KernelFunction:
    """The kernel of the network that this class of predictors wants.

    **Raises:** `TypeError` for what has no kernel, and if the class wants none in
    particular of a network.
    """
    if isinstance(network, AbstractLayer):
        wanted = _WANTED.get(of)
        if wanted is None:
            raise TypeError(
                f"Of a network, `make` may get the NNGP kernel, the NTK or both, and "
                f"{described(of)} does not tell. Pass a function instead, as "
                "`eqx.Partial(eqtangents.ntk, net)`."
            )
        return eqx.Partial(wanted, network)
    if type(network).__module__.startswith("equinox.nn"):
        raise TypeError(
            f"`network` is {described(network)}: lift it by "
            "`eqtangents.from_equinox(model)`, or pass a function of two batches that "
            "uses `eqtangents.empirical_ntk`."
        )
    if not callable(network) or isinstance(network, type):
        raise TypeError(
            f"`network` is {described(network)}, but a network of `eqtangents.nn`, or "
            "a function of two batches that returns their kernel, is needed."
        )
    return network


def nngp_of(kernel: Array | Kernel) -> Array:
    """The kernel that is a covariance of outputs."""
    return array_argument("kernel(x, None)", kernel.nngp if is_both(kernel) else kernel)


def variances_of(kernel: KernelFunction, x: Batch) -> Float[Array, " n *positions"]:
    """Variance of each output: the kernel of each example with itself."""
    of, args = getattr(kernel, "func", None), getattr(kernel, "args", ())
    for known, diagonal in _VARIANCES:
        if of is known and len(args) == 1 and not getattr(kernel, "keywords", None):
            return diagonal(args[0], x)

    def one(example: Batch) -> Float[Array, "*positions"]:
        own = nngp_of(kernel(jax.tree.map(lambda a: a[None], example), None))
        rank = (own.ndim - 2) // 2
        return jnp.reshape(jnp.diagonal(as_matrix(own)), own.shape[2 : 2 + rank])

    return lax.map(one, x, batch_size=_EXAMPLES_AT_A_TIME)
