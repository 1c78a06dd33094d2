"""Roots of functions of one number, and their derivatives."""

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


Aside = TypeVar("Aside")


def implicit_root(
    function: Callable[[Float[Array, ""]], Float[Array, ""]],
    start: Float[Array, ""],
    solve: Callable[..., tuple[Float[Array, ""], Aside]],
) -> tuple[Float[Array, ""], Aside]:
    """What `solve(function, start)` finds: a root, and floats that tell more of it.

    The root is differentiated by the implicit function theorem, to any order and in all
    that the function closes over, whatever way it was found. Where the function has no
    slope, derivatives are infinite or NaN, and there is no error, as it may be one of
    many that are mapped.
    """
    by_slope = lambda linear, value: value / linear(jnp.ones_like(value))
    return lax.custom_root(function, start, solve, by_slope, has_aux=True)
