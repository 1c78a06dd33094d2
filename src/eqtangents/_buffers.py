"""Arrays that compilers compute once, and not again for each of their uses.

XLA fuses cheap operations into all that reads their result. The result of a conditional
cannot be fused. Its predicate always has the same value, which the compiler cannot see.
Accelerators do the arithmetic again in less time than a conditional takes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from eqtangents._budget import budget
from eqtangents._trees import varies


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


def as_if_unknown(index: Int[Array, "..."], arrays: PyTree[Array]) -> Int[Array, "..."]:
    """The same index, of which compilers do not know that it is constant, if it is.

    Else they would see which way a conditional goes, and take it away. The arrays are
    anything that is computed.
    """
    # Conditions that vary over a mesh would make what they decide on vary as well.
    false = None if varies(arrays) else _false_of(arrays)
    return index if false is None else index - false.astype(index.dtype)


def _false_of(arrays: PyTree[Array]) -> Bool[Array, ""] | None:
    """A condition that does not hold, on any number among the arrays, if there is one.

    There is none where no conditional is wanted.
    """
    real = lambda leaf: leaf.size and jnp.issubdtype(leaf.dtype, jnp.floating)
    known = [leaf for leaf in jax.tree.leaves(arrays) if real(leaf)]
    if not known or not budget().conditionals:
        return None
    first = lax.stop_gradient(known[0]).ravel()[0]
    return first < jnp.full_like(first, -jnp.inf)


def buffered(arrays: PyTree[Array]) -> PyTree[Array]:
    """The same arrays, on CPUs in buffers of their own, as their derivatives are.

    In a chain of layers, what the last one reads would be computed from the first one
    on, for each layer again: the work would grow like the square of the depth, or
    faster, and so would the program. Here no operation stands within the conditional,
    so that all cores share what computes the arrays.
    """
    false = _false_of(arrays)
    if false is None:
        return arrays
    zeros = lambda arrays: jax.tree.map(jnp.zeros_like, arrays)
    return lax.cond(false, zeros, lambda arrays: arrays, arrays)
