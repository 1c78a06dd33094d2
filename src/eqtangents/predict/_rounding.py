"""How large the rounding of a kernel matrix is, and what is told from it."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar


LARGE = 30  # what is so many times larger than rounding is hardly changed by it


@functools.partial(jax.jit, static_argnums=2)
def needed_eigenvalue(
    kernel: Float[Array, "n n"], floor: Float[Array, ""], inverted: bool, scale: Scalar
) -> Float[Array, ""]:
    """What the smallest eigenvalue must exceed."""
    n, eps = kernel.shape[0], float(jnp.finfo(kernel.dtype).eps)
    # Rounding of each entry by itself is a random matrix, of about this norm. No entry
    # is larger than those on the diagonal, unless an eigenvalue is negative.
    stored = n**0.5 * eps * jnp.max(jnp.abs(jnp.diagonal(kernel)), initial=0)
    with_noise = jnp.maximum((1 - 1 / LARGE) * floor, stored)
    inverse = jnp.where(floor > stored, with_noise, rounding_of(kernel))
    tolerance = allowance(n)
    largest = jnp.maximum(largest_sum(kernel), jnp.asarray(scale, kernel.dtype))
    tiny = float(jnp.finfo(kernel.dtype).tiny)  # a kernel of zeros passes
    return jnp.where((floor > 0) | inverted, inverse, -tolerance * largest - tiny)


def allowance(n: int) -> float:
    """How negative an eigenvalue may be, in units of the largest."""
    # The kernel may have been computed in float32, whatever its dtype is now.
    return 10 * n**0.5 * float(jnp.finfo(jnp.float32).eps)


def rounding_of(kernel: Float[Array, "n n"]) -> Float[Array, ""]:
    """What a factorisation makes of eigenvalues that are zero, and more."""
    unit = float(jnp.finfo(kernel.dtype).eps) / 2
    return kernel.shape[0] ** 0.5 * unit * largest_sum(kernel)


def largest_sum(kernel: Float[Array, "n n"]) -> Float[Array, ""]:
    """No less than the largest eigenvalue: the largest sum of a row."""
    return jnp.max(jnp.sum(jnp.abs(kernel), axis=1), initial=0)
