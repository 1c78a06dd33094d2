"""Pooling over windows and over all positions."""

import math
from typing import overload

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eqtangents._types import Counts, Padding, plain
from eqtangents.covariance import AbstractCovariance, Pooled, Scaled, Total, Window
from eqtangents.nn._inputs import Signal, SignalT, read_out, unwrap, window_mask
from eqtangents.nn._layer import (
    AbstractParameterless,
    Covariances,
    LayerError,
    one_input,
)
from eqtangents.nn._spatial import padded, window_sums, windows


class SumPool(AbstractParameterless):
    r"""Sums over windows, $K'_{qq'} = \sum_{i, j} K_{s q + i,\, s q' + j}$, $T'$ alike.

    **Cost:** keeps the output's covariance of all position pairs in memory, for one
    tile of examples.
    """

    kernel_size: Counts = eqx.field(static=True)
    stride: Counts = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        kernel_size: Counts,
        stride: Counts = 1,
        padding: Padding = "VALID",
    ):
        """Describe the windows, as for `Conv`."""
        self.kernel_size, self.stride = plain(kernel_size), plain(stride)
        self.padding = plain(padding)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        value, extras = unwrap(x)
        covered = _pool_windows(self, value.shape[1:])
        return extras.rewrap(window_sums(value, covered), window_mask(extras, covered))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        return Pooled(covariance, _pool_windows(self, covariance.outline.size))


class AvgPool(AbstractParameterless):
    r"""Means over windows.

    $$K'_{qq'} = \frac{1}{|F|^2} \sum_{i, j} K_{s q + i,\, s q' + j}$$

    and $T'$ alike. **Cost:** as `SumPool`.
    """

    kernel_size: Counts = eqx.field(static=True)
    stride: Counts = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    normalize_edges: bool = eqx.field(static=True)

    def __init__(
        self,
        kernel_size: Counts,
        stride: Counts = 1,
        padding: Padding = "VALID",
        *,
        normalize_edges: bool = False,
    ):
        """Describe the windows, as for `Conv`.

        With `normalize_edges`, windows that reach into zero padding are divided by the
        number of inputs they cover, not by the size of the window.
        """
        self.kernel_size, self.stride = plain(kernel_size), plain(stride)
        self.padding = plain(padding)
        self.normalize_edges = normalize_edges

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        value, extras = unwrap(x)
        covered = _pool_windows(self, value.shape[1:])
        shares = jnp.asarray(self._shares(covered), value.dtype)
        out = window_sums(value, covered) * (shares[None] if shares.ndim else shares)
        return extras.rewrap(out, window_mask(extras, covered))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        covered = _pool_windows(self, covariance.outline.size)
        return Scaled(Pooled(covariance, covered), self._shares(covered))

    def _shares(self, covered: tuple[Window, ...]) -> float | np.ndarray:
        """The weight of each input, at each output position or at all of them."""
        if not self.normalize_edges:
            return 1 / math.prod(window.count for window in covered)
        counts = np.ones(())
        for window in covered:
            counts = np.multiply.outer(counts, window.counts())
        return 1 / counts


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
        value, extras = unwrap(x)
        covered = _pool_windows(self, value.shape[1:])
        if extras.mask is not None:
            value = jnp.where(extras.mask[None], value, -jnp.inf)
        largest = lax.reduce_window(
            padded(value, covered, fill=-np.inf),
            np.asarray(-np.inf, value.dtype),
            lax.max,
            (1, *(window.count for window in covered)),
            (1, *(window.stride for window in covered)),
            "VALID",
        )[:, *(slice(window.size_out) for window in covered)]
        return extras.rewrap(largest, window_mask(extras, covered))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        raise LayerError(
            self,
            "has no kernel in closed form. Use `AvgPool`, or estimate the kernel by "
            "`eqtangents.monte_carlo`.",
        )


class GlobalSumPool(AbstractParameterless):
    r"""The sum over all positions, $K' = \sum_{pp'} K_{pp'}$ and $T'$ alike."""

    @overload
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array: ...
    @overload
    def __call__(self, x: Signal, *, key: PRNGKeyArray | None = None) -> Signal: ...
    def __call__(self, x: Signal, *, key: PRNGKeyArray | None = None) -> Signal:
        value, extras = unwrap(x)
        sums = value.sum(tuple(range(1, value.ndim)))
        return read_out(sums, extras)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        return Total(one_input(self, covariance))


class GlobalAvgPool(AbstractParameterless):
    r"""The mean over all positions, $K' = \frac{1}{P P'} \sum_{pp'} K_{pp'}$.

    The mean of a masked input is over the positions that it has.
    """

    @overload
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array: ...
    @overload
    def __call__(self, x: Signal, *, key: PRNGKeyArray | None = None) -> Signal: ...
    def __call__(self, x: Signal, *, key: PRNGKeyArray | None = None) -> Signal:
        value, extras = unwrap(x)
        sums = value.sum(tuple(range(1, value.ndim)))
        share = _weight_of_each_position(value.shape[1:], extras.mask, value.dtype)
        return read_out(share * sums, extras)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        outline = covariance.outline
        share = _weight_of_each_position(
            outline.size, outline.mask, jnp.zeros(()).dtype
        )
        return Scaled(Total(covariance), share)


def _weight_of_each_position(
    size: tuple[int, ...], mask: Bool[Array, "*n_and_size"] | None, dtype: DTypeLike
) -> float | Float[Array, "*n"]:
    """One over the number of positions there are, or zero if there are none."""
    if mask is None:
        return 1 / max(1, math.prod(size))
    count = mask.sum(tuple(range(mask.ndim - len(size), mask.ndim)))
    return 1 / jnp.maximum(count, 1).astype(dtype)


def _pool_windows(
    layer: "SumPool | AvgPool | MaxPool", size: tuple[int, ...]
) -> tuple[Window, ...]:
    return windows(
        layer,
        size,
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
    )
