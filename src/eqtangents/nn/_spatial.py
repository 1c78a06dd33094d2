"""Windows on the spatial axes of a layer's input."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from eqtangents._types import Padding
from eqtangents.covariance import Window
from eqtangents.nn._layer import LayerError


def windows(
    layer: object,
    size: tuple[int, ...],
    *,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...],
    dilation: int | tuple[int, ...] = 1,
    padding: Padding,
) -> tuple[Window, ...]:
    """The windows of a layer on an input of some size, one for each axis."""
    rank = len(size)
    if not rank and isinstance(kernel_size, int):
        raise LayerError(
            layer,
            "moves a window over spatial axes, but its input has none. The shape of an "
            "example must be `(channels, *spatial)`.",
        )
    kernels = per_axis(layer, "kernel_size", kernel_size, rank)
    strides = per_axis(layer, "stride", stride, rank)
    dilations = per_axis(layer, "dilation", dilation, rank)
    if isinstance(padding, int):
        padding = ((padding, padding),) * rank
    paddings = (padding,) * rank if isinstance(padding, str) else padding
    if len(paddings) != rank:
        raise LayerError(
            layer,
            f"`padding={padding}` is for {len(paddings)} spatial axes, but the input "
            f"has {rank}, of sizes {size}. Give a pair for each axis.",
        )
    moved = tuple(
        Window.of(n, kernel=k, stride=s, dilation=d, padding=p)
        for n, k, s, d, p in zip(
            size, kernels, strides, dilations, paddings, strict=True
        )
    )
    for axis, window in enumerate(moved):
        if window.size_out < 1:
            extent = window.offsets[-1] - window.offsets[0] + 1
            raise LayerError(
                layer,
                f"its window covers {extent} positions of spatial axis {axis}, but the "
                f"input has only {window.size_in} there. Use a smaller `kernel_size`, "
                'or `padding="SAME"`.',
            )
    return moved


def per_axis(
    layer: object, name: str, value: int | tuple[int, ...], rank: int
) -> tuple[int, ...]:
    """An option of a layer for each spatial axis, given once or for each."""
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank:
        raise LayerError(
            layer,
            f"`{name}={value}` is for {len(values)} spatial axes, but the input has "
            f"{rank}. Give one number, or one for each axis.",
        )
    return values


def padded(
    x: Float[Array, "channels *size"],
    windows: tuple[Window, ...],
    *,
    fill: float = 0.0,
) -> Float[Array, "channels *padded"]:
    """The input with all that windows reach beyond it, filled or wrapped around."""
    for axis, window in enumerate(windows, 1):
        widths = [(0, 0)] * x.ndim
        widths[axis] = window.padding
        if window.periodic:
            x = jnp.pad(x, widths, mode="wrap")
        else:
            x = jnp.pad(x, widths, constant_values=fill)
    return x


def window_sums(
    x: Float[Array, "channels *size"], windows: tuple[Window, ...]
) -> Float[Array, "channels *size_out"]:
    """The sum under each window."""
    sums = lax.reduce_window(
        padded(x, windows),
        np.zeros((), x.dtype),  # not traced: else no derivative is known
        lax.add,
        (1, *(window.count for window in windows)),
        (1, *(window.stride for window in windows)),
        "VALID",
    )
    return sums[:, *(slice(window.size_out) for window in windows)]
