"""What each parameter adds to the tangent kernel of an infinitely wide network."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from eqtangents._batches import checked_arguments
from eqtangents._kernel import of_each_pair
from eqtangents._kernel_habits import KERNEL_HABITS
from eqtangents._rated import with_rates
from eqtangents._signatures import names_checked
from eqtangents._tile_plan import Examples
from eqtangents._trees import Batch
from eqtangents.nn import AbstractLayer
from eqtangents.nn._rates import Rate, is_rate


@names_checked(KERNEL_HABITS)
def ntk_by_leaf(net: AbstractLayer, x1: Batch, x2: Batch | None = None) -> Any:
    r"""The contribution of each parameter to the neural tangent kernel, in one pass.

    $$\Theta = \sum_p \Theta_p, \qquad
    \Theta_p = \mathbb{E}\, \nabla_p f(x)\, \nabla_p f(x')^T$$

    with one $p$ for the weights of a layer and one for its biases. Of networks of
    finite width it is `eqtangents.empirical_ntk_by_leaf`. Arguments and errors are as
    in `eqtangents.kernel`.

    **Returns:** a tree with the structure of the parameters of `net.init(...)`, a
    kernel for each with the axes of `eqtangents.ntk`; for several outputs a tuple of
    them. A layer's is the sum over its leaves. All copies of a `Repeat` are one leaf.

    **Cost:** that of `eqtangents.nngp`, and so many times the difference between
    `eqtangents.ntk` and it as there are leaves, in time and in memory.
    """
    net, x1, x2 = checked_arguments(net, x1, x2)
    rated = with_rates(net, x1, True)
    kernels = _of_each_leaf(rated, x1, x2)
    leaves, structure = jax.tree.flatten(rated, is_leaf=is_rate)
    number = iter(range(len(leaves)))

    def part(leaf: Any) -> PyTree[Array] | None:
        if not is_rate(leaf):
            return None
        i = next(number)
        return jax.tree.map(lambda kernel: kernel[i], kernels)

    return structure.unflatten(map(part, leaves))


@eqx.filter_jit
def _of_each_leaf(
    net: AbstractLayer, x1: Examples, x2: Examples | None
) -> PyTree[Float[Array, "leaves n1 n2 ..."]]:
    """The kernels where one parameter alone is trained, for each of them.

    Mapped over learning rates, all that does not depend on them is computed once.
    """
    leaves, structure = jax.tree.flatten(net, is_leaf=is_rate)

    def kernel(rates: Float[Array, " leaves"]) -> PyTree[Array]:
        given = iter(rates)
        rated = [Rate(next(given), r.shape) if is_rate(r) else r for r in leaves]
        return of_each_pair(structure.unflatten(rated), x1, x2, "ntk")

    return jax.vmap(kernel)(jnp.eye(sum(map(is_rate, leaves))))
