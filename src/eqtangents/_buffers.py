"""Arrays that compilers compute once, and not again for each of their uses.

XLA fuses cheap operations into all that reads their result. The result of a conditional
cannot be fused. Its predicate always has the same value, which the compiler cannot see.
Accelerators do the arithmetic again in less time than a conditional takes.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from eqtangents._budget import budget
from eqtangents._transposed import broadcast_up, with_transpose


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

    def present() -> PyTree[Array]:
        return _flat_masks(build())

    def absent() -> PyTree[Array]:  # Varying over the same axes of a mesh.
        return _flat_masks(jax.tree.map(jnp.zeros_like, shapes))

    found = lax.cond(index.ravel()[0] >= 0, present, absent)
    return jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), found, shapes)


def _flat_masks(arrays: PyTree[Array]) -> PyTree[Array]:
    """Masks with one axis, for the reason that `in_one_loop` has."""
    row = lambda leaf: leaf.reshape(-1) if leaf.dtype == bool else leaf
    return jax.tree.map(row, arrays)


def in_one_loop(
    function: Callable[[Array], PyTree[Array]], array: Shaped[Array, "..."]
) -> PyTree[Array]:
    """`function(array)` of a function of each entry, on CPUs in a loop over one axis.

    Of what it gives, the last axes are those of the array. LLVM writes out a loop over
    few entries, and makes vectors of that around it, gathering number by number. Then a
    reciprocal of 8 x 32 x 32 numbers takes 0.1 s to compile, and longer to run.
    """
    if not budget().conditionals or array.ndim < 2:
        return function(array)
    found = function(lax.optimization_barrier(array.reshape(-1)))
    apart = lambda leaf: leaf.reshape(*leaf.shape[:-1], *array.shape)
    return jax.tree.map(apart, found)


def as_if_unknown(index: Int[Array, "..."], arrays: PyTree[Array]) -> Int[Array, "..."]:
    """The same index, of which compilers know nothing before the arrays are computed.

    Else they would see which way a conditional goes, and take it away, or compute
    long before it is needed what it decides on.
    """
    known = [leaf for leaf in jax.tree.leaves(arrays) if _has_numbers(leaf)]
    if not known or not budget().conditionals:
        return index
    return index - _false_of(known[0]).astype(index.dtype)


def _has_numbers(array: Array) -> bool:
    """Whether there is any, and they are real."""
    return array.size > 0 and jnp.issubdtype(array.dtype, jnp.floating)


def _false_of(array: Float[Array, "..."]) -> Bool[Array, ""]:
    """A condition that does not hold, of which no compiler knows that.

    It is the same for a whole batch: a conditional would be none once its predicate is
    batched.
    """
    first = _one_of_batch(lax.stop_gradient(array).ravel()[0])
    return first < jnp.full_like(first, -jnp.inf)


@jax.custom_batching.custom_vmap
def _one_of_batch(number: Float[Array, ""]) -> Float[Array, ""]:
    return number


@_one_of_batch.def_vmap
def _one_of_batch_vmap(
    size: int, batched: list[bool], number: Float[Array, "..."]
) -> tuple[Float[Array, ""], bool]:
    return _one_of_batch(number[0] if batched[0] else number), False


def buffered(arrays: PyTree[Array]) -> PyTree[Array]:
    """The same arrays, on CPUs in buffers of their own, as their derivatives are.

    In a chain of layers, what the last one reads would be computed from the first one
    on, for each layer again: the work would grow like the square of the depth, or
    faster, and so would the program. Here no operation stands within the conditional,
    so that all cores share what computes the arrays.
    """
    if not budget().conditionals:
        return arrays
    return jax.tree.map(lambda x: _in_buffer(x) if _has_numbers(x) else x, arrays)


def buffered_sum(
    one: Float[Array, "..."], other: Float[Array, "..."]
) -> Float[Array, "..."]:
    """`buffered(one + other)`, of fields of the two ends of pairs.

    Backwards, the buffer is added up for each end. On CPUs that are additions of its
    slices: a reduction takes longer to begin than all of them.
    """
    if budget().conditionals:
        shape = jnp.broadcast_shapes(one.shape, other.shape)
        one, other = broadcast_up(one, shape), broadcast_up(other, shape)
    return buffered(one + other)


@functools.partial(jax.jit, inline=True)  # Arrays of one shape are traced once.
def _in_buffer(array: Float[Array, "..."]) -> Float[Array, "..."]:
    copied = lambda x: lax.cond(_false_of(x), jnp.zeros_like, lambda x: x, x)
    return with_transpose(copied, copied, array)
