"""Batch normalisation, at finite width alone."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._types import NonNegative
from eqtangents.covariance import AbstractCovariance
from eqtangents.nn._inputs import Extras
from eqtangents.nn._layer import BATCH_AXIS, AbstractUnary, LayerError


class BatchNorm(AbstractUnary):
    """Each channel less its mean over a batch, over its standard deviation.

    A batch is mapped by `jax.vmap(model, axis_name="batch")`; the statistics are those
    of that batch, over its positions too. It has no kernel in closed form, because the
    output for an example depends on the others of the batch.

    **Source:** Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    eps: NonNegative = 1e-5

    def apply(
        self, value: Float[Array, "channels *size"], extras: Extras
    ) -> Float[Array, "channels *size"]:
        axes = tuple(range(1, value.ndim))
        there = jnp.ones(value.shape[1:], bool) if extras.mask is None else extras.mask
        count = lax.psum(there.sum(dtype=value.dtype), BATCH_AXIS)
        count = jnp.maximum(count, 1)

        def mean(v: Float[Array, "channels *size"]) -> Float[Array, "channels ..."]:
            v = jnp.where(there[None], v, jnp.zeros_like(v))
            return lax.psum(v.sum(axes, keepdims=True), BATCH_AXIS) / count

        value = value - mean(value)
        eps = jnp.asarray(self.eps, value.dtype)
        return value / jnp.sqrt(mean(value * value) + eps)

    def push(self, covariance: AbstractCovariance) -> AbstractCovariance:
        """Raise: outputs depend on the whole batch."""
        raise LayerError(
            self,
            "has no kernel: its output for one example depends on all others of the "
            "batch. Use `LayerNorm` or `GroupNorm`.",
        )
