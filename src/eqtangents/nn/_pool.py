"""Pooling over windows and over all positions."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import Padding
from eqtangents.covariance import (
    AbstractCovariance,
    Pooled,
    Scaled,
    Total,
    Window,
)
from eqtangents.nn._layer import AbstractParameterless, Covariances, single
from eqtangents.nn._spatial import check_window, padded, windows


class SumPool(AbstractParameterless):
    r"""Sums over windows, $K'_{qq'} = \sum_{i, j} K_{s q + i,\, s q' + j}$, $T'$ alike.

    **Cost:** keeps the output's covariance of all position pairs in memory, for one
    tile of examples.
    """

    kernel_size: int | tuple[int, ...] = eqx.field(static=True)
    stride: int | tuple[int, ...] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Padding = "VALID",
    ):
        """Describe the windows, as for `Conv`."""
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        check_window(self, kernel_size=kernel_size, stride=stride, padding=padding)

    def __call__(
        self, x: Float[Array, "channels *size"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "channels *size_out"]:
        """Apply to one example."""
        return _window_sums(x, _pool_windows(self, x.shape[1:]))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Sum over both windows of each pair of positions."""
        covariance = single(self, covariance)
        return Pooled(covariance, _pool_windows(self, covariance.outline.size))


class AvgPool(AbstractParameterless):
    r"""Means over windows.

    $$K'_{qq'} = \frac{1}{|F|^2} \sum_{i, j} K_{s q + i,\, s q' + j}$$

    and $T'$ alike. **Cost:** as `SumPool`.
    """

    kernel_size: int | tuple[int, ...] = eqx.field(static=True)
    stride: int | tuple[int, ...] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    normalize_edges: bool = eqx.field(static=True)

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Padding = "VALID",
        *,
        normalize_edges: bool = False,
    ):
        """Describe the windows, as for `Conv`.

        With `normalize_edges`, windows that reach into zero padding are divided by the
        number of inputs they cover, not by the size of the window.
        """
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.normalize_edges = normalize_edges
        check_window(self, kernel_size=kernel_size, stride=stride, padding=padding)

    def __call__(
        self, x: Float[Array, "channels *size"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "channels *size_out"]:
        """Apply to one example."""
        found = _pool_windows(self, x.shape[1:])
        shares = jnp.asarray(self._shares(found), x.dtype)
        return _window_sums(x, found) * shares[None]

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Average over both windows of each pair of positions."""
        covariance = single(self, covariance)
        found = _pool_windows(self, covariance.outline.size)
        return Scaled(Pooled(covariance, found), self._shares(found))

    def _shares(self, found: tuple[Window, ...]) -> np.ndarray:
        """The weight of each input, at each output position or at all of them."""
        if not self.normalize_edges:
            return np.full((1,) * len(found), 1 / math.prod(w.count for w in found))
        counts = np.ones(())
        for window in found:
            counts = np.multiply.outer(counts, window.counts())
        return 1 / counts


class GlobalSumPool(AbstractParameterless):
    r"""The sum over all positions, $K' = \sum_{pp'} K_{pp'}$ and $T'$ alike."""

    def __call__(
        self, x: Float[Array, "channels *size"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " channels"]:
        """Apply to one example."""
        return x.sum(tuple(range(1, x.ndim)))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Sum over all pairs of positions."""
        return Total(single(self, covariance))


class GlobalAvgPool(AbstractParameterless):
    r"""The mean over all positions, $K' = \frac{1}{P^2} \sum_{pp'} K_{pp'}$."""

    def __call__(
        self, x: Float[Array, "channels *size"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " channels"]:
        """Apply to one example."""
        return x.mean(tuple(range(1, x.ndim)))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Average over all pairs of positions."""
        covariance = single(self, covariance)
        share = 1 / math.prod(covariance.outline.size)
        return Scaled(Total(covariance), np.asarray(share))


def _pool_windows(
    layer: "SumPool | AvgPool", size: tuple[int, ...]
) -> tuple[Window, ...]:
    return windows(
        layer,
        size,
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
    )


def _window_sums(
    x: Float[Array, "channels *size"], found: tuple[Window, ...]
) -> Float[Array, "channels *size_out"]:
    sums = lax.reduce_window(
        padded(x, found),
        np.zeros((), x.dtype),  # not traced: else no derivative is known
        lax.add,
        (1, *(window.count for window in found)),
        (1, *(window.stride for window in found)),
        "VALID",
    )
    return sums[:, *(slice(window.size_out) for window in found)]
