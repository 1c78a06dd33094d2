"""Layers whose infinitely wide limit has no closed form."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import Counts, NonNegative, Padding, plain
from eqtangents.covariance import AbstractCovariance
from eqtangents.nn._inputs import SignalT, unwrap, window_mask
from eqtangents.nn._layer import (
    BATCH,
    AbstractParameterless,
    Covariances,
    LayerError,
)
from eqtangents.nn._spatial import padded, windows


class MaxPool(AbstractParameterless):
    """The largest value under each window. It has no kernel in closed form."""

    kernel_size: Counts = eqx.field(static=True)
    stride: Counts = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        kernel_size: Counts,
        stride: Counts = 1,
        padding: Padding = "VALID",
    ):
        """Describe the windows, as for `Conv`; padding is never the largest."""
        self.kernel_size, self.stride = plain(kernel_size), plain(stride)
        self.padding = plain(padding)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        """Apply to one example."""
        value, extras = unwrap(x)
        found = windows(
            self,
            value.shape[1:],
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
        )
        if extras.mask is not None:
            value = jnp.where(extras.mask[None], value, -jnp.inf)
        largest = lax.reduce_window(
            padded(value, found, fill=-np.inf),
            np.asarray(-np.inf, value.dtype),
            lax.max,
            (1, *(window.count for window in found)),
            (1, *(window.stride for window in found)),
            "VALID",
        )[:, *(slice(window.size_out) for window in found)]
        return extras.rewrap(largest, window_mask(extras, found))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Raise: the maximum of Gaussians has no covariance in closed form."""
        raise LayerError(
            self,
            "has no kernel in closed form. Use `AvgPool`, or estimate the kernel by "
            "`eqtangents.monte_carlo`.",
        )


class BatchNorm(AbstractParameterless):
    """Each channel less its mean over a batch, over its standard deviation.

    A batch is mapped by `jax.vmap(model, axis_name="batch")`; the statistics are those
    of that batch, over its positions too. It has no kernel in closed form, because the
    output for an example depends on the others of the batch.

    **Source:** Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    eps: NonNegative = 1e-5

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        """Apply to one example of a batch."""
        value, extras = unwrap(x)
        axes = tuple(range(1, value.ndim))
        there = jnp.ones(value.shape[1:], bool) if extras.mask is None else extras.mask
        count = lax.psum(there.sum(dtype=value.dtype), BATCH)
        count = jnp.maximum(count, 1)

        def mean(v: Float[Array, "channels *size"]) -> Float[Array, "channels ..."]:
            v = jnp.where(there[None], v, jnp.zeros_like(v))
            return lax.psum(v.sum(axes, keepdims=True), BATCH) / count

        value = value - mean(value)
        eps = jnp.asarray(self.eps, value.dtype)
        value = value / jnp.sqrt(mean(value * value) + eps)
        return extras.rewrap(value, extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Raise: outputs depend on the whole batch."""
        raise LayerError(
            self,
            "has no kernel: its output for one example depends on all others of the "
            "batch. Use `LayerNorm` or `GroupNorm`.",
        )
