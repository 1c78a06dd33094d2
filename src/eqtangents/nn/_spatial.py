"""Windows on the spatial axes of a layer's input."""

from collections.abc import Sequence

import jax.numpy as jnp
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
    per_axis = {}
    for name, value in (
        ("kernel_size", kernel_size),
        ("stride", stride),
        ("dilation", dilation),
    ):
        values = (value,) * rank if isinstance(value, int) else tuple(value)
        if len(values) != rank:
            raise LayerError(
                layer,
                f"`{name}={value}` is for {len(values)} spatial axes, but the input "
                f"has {rank}, of sizes {size}. Give one number, or one for each axis.",
            )
        per_axis[name] = values
    found = tuple(
        Window.of(h, k, s, d, padding)
        for h, k, s, d in zip(size, *per_axis.values(), strict=True)
    )
    for axis, window in enumerate(found):
        if window.size_out < 1:
            extent = window.offsets[-1] - window.offsets[0] + 1
            raise LayerError(
                layer,
                f"its window covers {extent} positions of spatial axis {axis}, but the "
                f"input has only {window.size_in} there. Use a smaller `kernel_size`, "
                'or `padding="SAME"`.',
            )
    return found


def check_window(layer: object, **options: object) -> None:
    """Raise for sizes that are not positive, and for unknown paddings."""
    for name, value in options.items():
        if name == "padding":
            if value not in ("VALID", "SAME", "CIRCULAR"):
                raise ValueError(
                    f"{type(layer).__name__}: `padding` is {value!r}, but must be "
                    '"VALID", "SAME" or "CIRCULAR".'
                )
            continue
        values = value if isinstance(value, Sequence) else (value,)
        if not all(isinstance(v, int) and v >= 1 for v in values):
            raise ValueError(
                f"{type(layer).__name__}: `{name}` is {value!r}, but must be a "
                "positive integer, or a tuple of them."
            )


def padded(
    x: Float[Array, "channels *size"], windows: tuple[Window, ...]
) -> Float[Array, "channels *padded"]:
    """The input with all that windows reach beyond it, zero or wrapped around."""
    for axis, window in enumerate(windows, 1):
        widths = [(0, 0)] * x.ndim
        widths[axis] = window.padding
        x = jnp.pad(x, widths, mode="wrap" if window.periodic else "constant")
    return x
