"""Arrays that compilers compute once, and not again for each of their uses.

XLA fuses cheap operations into all that reads their result. The result of a conditional
cannot be fused. Its predicate always has the same value, which the compiler cannot see.
Accelerators do the arithmetic again in less time than a conditional takes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PyTree

from eqtangents._budget import budget


def materialised(
    build: Callable[[], PyTree[Array]], index: Int[Array, "..."]
) -> PyTree[Array]:
    """`build()`, on CPUs in buffers of its own.

    Each of its consumers would build it again: dynamic slices, say, and masks with
    their index arithmetic. No `index` of a loop is negative. On CPUs it is built on one
    core: not for whole layers.
    """
    shapes = jax.eval_shape(build)
    if not jax.tree.leaves(shapes) or not budget().conditionals:
        return build()

    def absent() -> PyTree[Array]:  # Varying over the same axes of a mesh.
        return jax.tree.map(jnp.zeros_like, shapes)

    return lax.cond(index.ravel()[0] >= 0, build, absent)


def buffered(arrays: PyTree[Array]) -> PyTree[Array]:
    """The same arrays, on CPUs in buffers of their own, as their derivatives are.

    In a chain of layers, what the last one reads would be computed from the first one
    on, for each layer again: the work would grow like the square of the depth, or
    faster, and so would the program. Here no operation stands within the conditional,
    so that all cores share what computes the arrays.
    """
    leaves = jax.tree.leaves(arrays)
    if not budget().conditionals or not all(leaf.size for leaf in leaves):
        return arrays
    first = lax.stop_gradient(leaves[0]).ravel()[0]
    absent = first < jnp.full_like(first, -jnp.inf)
    zeros = lambda arrays: jax.tree.map(jnp.zeros_like, arrays)
    return lax.cond(absent, zeros, lambda arrays: arrays, arrays)
