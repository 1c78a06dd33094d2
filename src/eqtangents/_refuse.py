"""Errors about values, as early as these are known."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Integer, Shaped


Refusable = TypeVar("Refusable")


def known(condition: Bool[Array, ""]) -> bool | None:
    """Whether it is true, or `None` within what is compiled or batched."""
    try:
        return bool(condition)
    except jax.errors.ConcretizationTypeError:
        return None


def refuse(value: Refusable, *checks: tuple[Bool[Array, ""], str]) -> Refusable:
    """The same value, unless something is wrong with it.

    What is known now is raised now, as any error of Python. What is known only when a
    compiled function runs is raised then, by `eqx.branched_error_if`.

    **Arguments:**

    - `value`: what depends on the checks.
    - `checks`: whether something is wrong, and what; the first that is, is told.

    **Raises:** `RuntimeError`.
    """
    later = []
    for wrong, message in checks:
        now = known(wrong)
        if now is None:
            later.append((wrong, message))
        elif now:
            raise RuntimeError(message)
    if not later:
        return value
    wrong = jnp.stack([wrong for wrong, _ in later])
    messages = [message for _, message in later]
    # What passes through the check is copied, and the same on all devices of a mesh.
    # So a zero does, and is taken from all numbers: this changes no bit and is compiled
    # as a part of what comes next.
    nothing = eqx.branched_error_if(
        jnp.asarray(0), jnp.any(wrong), jnp.argmax(wrong), messages
    )
    arrays, rest = eqx.partition(value, eqx.is_array)
    return eqx.combine(jax.tree.map(lambda x: _less(x, nothing), arrays), rest)


def _less(array: Array, nothing: Integer[Array, ""]) -> Array:
    """The same array, which depends on a zero."""
    if jnp.issubdtype(array.dtype, jnp.number):
        return array - nothing
    return jnp.where(nothing == 0, array, jnp.zeros_like(array))


@jax.jit
def not_finite(array: Shaped[Array, "..."]) -> Bool[Array, ""]:
    """Whether NaN or infinity is among the values: less themselves, these are NaN."""
    return ~jnp.isfinite(jnp.sum(array - array))
