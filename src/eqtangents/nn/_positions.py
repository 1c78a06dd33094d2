"""What linear maps of positions share, alike for all channels and examples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from eqtangents.covariance import AbstractCovariance, Mapped


def map_positions(
    covariance: AbstractCovariance,
    size: tuple[int, ...],
    move: Callable[[Float[Array, "*size"]], Float[Array, "*size_out"]],
) -> AbstractCovariance:
    """The covariance of linearly mapped positions."""
    mask = covariance.outline.mask
    if mask is not None:
        mask = jax.vmap(lambda one: reached(one, move))(mask)
    return Mapped(covariance, size, lambda _, values: move(values), mask=mask)


def reached(
    mask: Bool[Array, "*size"] | None,
    move: Callable[[Float[Array, "*size"]], Float[Array, "*size_out"]],
) -> Bool[Array, "*size_out"] | None:
    """The outputs to which any position there is contributes."""
    if mask is None:
        return None
    units = jnp.eye(mask.size).reshape(mask.size, *mask.shape)
    weights = jax.vmap(move)(units)
    there = mask.reshape(-1, *(1,) * (weights.ndim - 1))
    return jnp.any((weights != 0) & there, 0)
