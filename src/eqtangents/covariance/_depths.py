"""What holds of a repeated layer, and what state it has, at each depth."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PyTree

from eqtangents.covariance._outline import Outline


class ShapeChange(ValueError):
    """A layer changes what it would be given when it follows itself."""


def facts_at_all_depths(before: Outline, after: Outline, n: int) -> Outline:
    """The facts that hold of a repeated layer's input at every depth.

    `before`: of the first input. `after`: of the layer's output, given these; from the
    second depth on, it is the input.
    """
    for name in ("size", "channels"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            raise ShapeChange(
                f"its layer must keep the {name}, so that it can follow itself, "
                f"but turns {old} into {new}. Change the layer, or put one "
                "that makes the change before the `Repeat`."
            )
    if after.mask is not before.mask:
        raise ShapeChange(
            "its layer must keep which positions are masked, but moves them. "
            "Repeat only layers whose windows keep the size of their input."
        )
    return before.replace(
        gaussian=before.gaussian and (n == 1 or after.gaussian),
        centred_by=before.centred_by if n == 1 or after.centred else (),
        summable=before.summable and (n == 1 or after.summable),
        trainable=before.trainable or after.trainable,
        vanishing=before.vanishing or (n > 1 and after.vanishing),
        diagonal=before.diagonal and after.diagonal,
        fixed_canvas=after.fixed_canvas,
    )


def facts_at_any_depth(before: Outline, after: Outline) -> Outline:
    """The facts that hold of a repeated layer's output, or of its first input."""
    if before.has_trained_gains != after.has_trained_gains:
        raise ShapeChange(
            "has a `depth`, so that its output may be its input, but trained gains act "
            "on one of them alone. Put a layer with weights before it, or at the end "
            "of the layer that it repeats."
        )
    return Outline.joined([after, before])


Carried = TypeVar("Carried")


def after_steps(
    step: Callable[[Carried, Any], Carried],
    start: Carried,
    inputs: PyTree[Array],
    n: int,
    depth: Int[Array, ""] | None,
) -> Carried:
    """A state after `n` steps, or after `depth` of them, a number that may be traced.

    All states are kept for that, and mapped over depths it is one scan: nothing in it
    depends on the depth.
    """
    if depth is None or not n:
        return lax.scan(lambda s, x: (step(s, x), None), start, inputs, length=n)[0]

    def keep(state: Carried, one: Any) -> tuple[Carried, Carried]:
        state = step(state, one)
        return state, state

    _, kept = lax.scan(keep, start, inputs, length=n)
    place = jnp.clip(depth - 1, 0, n - 1)
    pick = lambda first, later: jnp.where(depth > 0, later[place], first)
    return jax.tree.map(pick, start, kept)
