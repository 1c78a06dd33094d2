"""Errors about values, as early as these are known."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from eqtangents._trees import varies


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
    if not varies((value, wrong)):
        return eqx.branched_error_if(value, jnp.any(wrong), jnp.argmax(wrong), messages)
    # Inside of `jax.shard_map` only what is the same on all devices can be passed on.
    right = jnp.ones((), bool)
    right = eqx.branched_error_if(right, jnp.any(wrong), jnp.argmax(wrong), messages)
    arrays, rest = eqx.partition(value, eqx.is_array)
    kept = lambda leaf: jnp.where(right, leaf, jnp.zeros_like(leaf))
    return eqx.combine(jax.tree.map(kept, arrays), rest)


@jax.jit
def not_finite(array: Shaped[Array, "..."]) -> Bool[Array, ""]:
    """Whether NaN or infinity is among the values."""
    return ~jnp.all(jnp.isfinite(array))
