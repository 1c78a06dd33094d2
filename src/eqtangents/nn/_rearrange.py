"""Other orders of the positions, and zeros between them."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import AxisSizes, Order, Widths, plain
from eqtangents.covariance import AbstractCovariance, Gathered, Scaled, Stencil, picked
from eqtangents.nn._inputs import SignalT, unwrap, window_mask
from eqtangents.nn._layer import (
    AbstractParameterless,
    Covariances,
    LayerError,
    one_input,
)
from eqtangents.nn._positions import map_positions, reached
from eqtangents.nn._spatial import windows


class Rearrange(AbstractParameterless):
    r"""Positions in another shape or order, $K'_{qq'} = K_{i(q)\, i(q')}$.

    What each channel holds is reshaped to `split`, given further axes of the sizes in
    `repeats`, along which it is the same, transposed to `order`, and reshaped to
    `size`.

    **Cost:** as `ImageResize`.
    """

    split: tuple[int, ...] = eqx.field(static=True)
    order: tuple[int, ...] = eqx.field(static=True)
    size: tuple[int, ...] = eqx.field(static=True)
    repeats: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        split: AxisSizes,
        order: Order,
        size: AxisSizes,
        *,
        repeats: AxisSizes = (),
    ):
        """Set the steps, over the spatial axes of one example."""
        self.split, self.order = plain(split), plain(order)
        self.size, self.repeats = plain(size), plain(repeats)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        value, extras = unwrap(x)
        self._check(value.shape[1:])
        out = self._move(value)
        return extras.rewrap(out, reached(extras.mask, self._move_one))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        self._check(covariance.outline.size)
        return map_positions(covariance, self.size, self._move_one)

    def _move(self, value: Float[Array, "c *size"]) -> Float[Array, "c *size_out"]:
        count, inner = value.shape[0], (*self.split, *self.repeats)
        value = value.reshape(count, *self.split, *(1,) * len(self.repeats))
        value = jnp.broadcast_to(value, (count, *inner))
        value = value.transpose(0, *(1 + axis for axis in self.order))
        return value.reshape(count, *self.size)

    def _move_one(self, values: Float[Array, "*size"]) -> Float[Array, "*size_out"]:
        return self._move(values[None])[0]

    def _check(self, size: tuple[int, ...]) -> None:
        if math.prod(size) != math.prod(self.split):
            raise LayerError(
                self,
                f"splits {math.prod(self.split)} positions, but its input has {size}.",
            )


class Pad(AbstractParameterless):
    """Zeros before, after and between the positions.

    **Cost:** keeps the covariances of all pairs of positions of its input, for one tile
    of examples. A convolution pads by itself at no cost.
    """

    widths: tuple[tuple[int, int, int], ...] = eqx.field(static=True)

    def __init__(self, widths: Widths):
        """Set `(before, after, between)` for each spatial axis."""
        self.widths = plain(widths)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        value, extras = unwrap(x)
        indices = self._indices(value.shape[1:])
        zero = np.zeros((), value.dtype)
        out = lax.pad(value, zero, [(0, 0, 0), *self.widths])
        mask = None if extras.mask is None else picked(extras.mask[None], indices)[0]
        return extras.rewrap(out, mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        return Gathered(covariance, self._indices(covariance.outline.size))

    def _indices(self, size: tuple[int, ...]) -> list[np.ndarray]:
        """Which position of the input each one of the output is; -1 for zeros."""
        if len(size) != len(self.widths):
            raise LayerError(
                self,
                f"pads {len(self.widths)} spatial axes, but its input has {len(size)}.",
            )
        indices = []
        for n, (before, after, between) in zip(size, self.widths, strict=True):
            index = np.full((n - 1) * (between + 1) + 1, -1)
            index[:: between + 1] = np.arange(n)
            indices.append(np.pad(index, (before, after), constant_values=-1))
        return indices


class Unfold(AbstractParameterless):
    r"""The values of each window side by side, as channels.

    $$K'_{qq'} = \frac{1}{|F|} \sum_{o \in F} K_{s q + o,\, s q' + o}$$

    and $T'$ alike, where windows lie next to each other, $s$ being their size. So a
    `Linear` after it is a convolution. A window over a whole axis flattens that axis
    alone, and leaves one position of it.
    """

    kernel_size: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, kernel_size: AxisSizes):
        """Set the size of windows along each spatial axis."""
        self.kernel_size = plain(kernel_size)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        value, extras = unwrap(x)
        covered = self._windows(value.shape[1:])
        split = [value.shape[0]]
        for window in covered:
            split += [window.size_out, window.count]
        inner = [slice(w.size_out * w.count) for w in covered]
        value = value[:, *inner].reshape(split)
        rank = len(covered)
        order = [0, *range(2, 2 * rank + 1, 2), *range(1, 2 * rank, 2)]
        sizes = [window.size_out for window in covered]
        value = value.transpose(order).reshape(-1, *sizes)
        return extras.rewrap(value, window_mask(extras, covered))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        covered = self._windows(covariance.outline.size)
        taps = math.prod(window.count for window in covered)
        out = Scaled(Stencil(covariance, covered), taps**-0.5)
        out.outline = out.outline.replace(
            channels=covariance.outline.channels * taps,
            gaussian=False,
            exchangeable=False,
            summable=False,
        )
        return out

    def _windows(self, size: tuple[int, ...]) -> tuple:
        kernel = self.kernel_size
        return windows(self, size, kernel_size=kernel, stride=kernel, padding="VALID")


class MoveChannels(AbstractParameterless):
    """Channels come later than first, or, being one, not at all: the end of a network.

    Kernels are per channel, and stay as they are.
    """

    axis: int | None = eqx.field(static=True)

    def __init__(self, axis: int | None):
        """Set the axis of channels in the output; `None` if the only one is dropped."""
        self.axis = plain(axis)

    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array:
        value, _ = unwrap(x)
        return value[0] if self.axis is None else jnp.moveaxis(value, 0, self.axis)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        return one_input(self, covariance)
