"""Roots of functions of one number, and their derivatives."""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents._trees import varying_zero


Aside = TypeVar("Aside")
Point: TypeAlias = Float[Array, ""]
# Of Newton's method: the point, the step that led there, and how many there were.
_Approach: TypeAlias = tuple[Point, Point, Int[Array, ""]]


def implicit_root(
    function: Callable[[Point], Point],
    start: Point,
    solve: Callable[..., tuple[Point, Aside]],
) -> tuple[Point, Aside]:
    """What `solve(function, start)` finds: a root, and floats that tell more of it.

    The root is differentiated by the implicit function theorem, to any order and in all
    that the function closes over, whatever way it was found. Where the function has no
    slope, derivatives are infinite or NaN, and there is no error, as it may be one of
    many that are mapped.
    """
    by_slope = lambda linear, value: value / linear(jnp.ones_like(value))
    start = varying_as_result(function, start)
    return lax.custom_root(function, start, solve, by_slope, has_aux=True)


def varying_as_result(function: Callable[[Point], Point], start: Point) -> Point:
    """The same number, to begin a loop with that applies the function.

    Inside of `jax.shard_map` it varies over the axes of a mesh that the result does.
    """
    return start + varying_zero(function(start), start.dtype)


def bisected(
    function: Callable[[Point], Point], negative: Point, positive: Point
) -> Point:
    """A root between two ends, to the last digit: that is where a sign changes.

    **Arguments:**

    - `function`: what is negative at one end and positive at the other.
    - `negative`, `positive`: these ends. Either may be the larger one.
    """
    middle = lambda ends: ends[0] + 0.5 * (ends[1] - ends[0])

    def differs(ends: tuple[Point, Point]) -> Bool[Array, ""]:
        least, most = jnp.minimum(*ends), jnp.maximum(*ends)
        return (least < middle(ends)) & (middle(ends) < most)

    def halved(ends: tuple[Point, Point]) -> tuple[Point, Point]:
        between = middle(ends)
        below = function(between) < 0
        return jnp.where(below, between, ends[0]), jnp.where(below, ends[1], between)

    zero = varying_zero((function(negative), positive), negative.dtype)
    return middle(lax.while_loop(differs, halved, (negative + zero, positive + zero)))


def newton(function: Callable[[Point], Point], start: Point, most: int) -> Point:
    """What Newton's method comes to in so many steps: a root, any number, or NaN."""
    eps = float(jnp.finfo(start.dtype).eps)

    def goes_on(state: _Approach) -> Bool[Array, ""]:
        x, step, count = state
        return (count < most) & (jnp.abs(step) > 4 * eps * jnp.abs(x))

    def follow(state: _Approach) -> _Approach:
        x, _, count = state
        value, slope = jax.jvp(function, (x,), (jnp.ones_like(x),))
        step = value / slope
        return x - step, step, count + 1

    start = varying_as_result(function, start)
    endless = jnp.full_like(start, jnp.inf)
    return lax.while_loop(goes_on, follow, (start, endless, jnp.asarray(0)))[0]
