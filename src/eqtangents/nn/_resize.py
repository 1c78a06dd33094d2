"""Resizing of the spatial axes."""

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import equinox as eqx
import jax
import jax.image
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import Rule, is_integer, lowered, plain
from eqtangents.covariance import AbstractCovariance
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import (
    AbstractParameterless,
    Covariances,
    LayerError,
    one_input,
)
from eqtangents.nn._positions import map_positions, reached


ResizeMethod: TypeAlias = Literal[
    "nearest", "linear", "bilinear", "trilinear", "triangle", "cubic", "bicubic",
    "tricubic", "lanczos3", "lanczos5",
]  # fmt: skip
# The sizes of all spatial axes; `None` for an axis whose size stays.
Resized: TypeAlias = Annotated[
    Sequence[int | None],
    Rule(
        "be a tuple of sizes, one for each spatial axis, `None` where it stays",
        lambda x: isinstance(x, Sequence) and not isinstance(x, str),
        "be a tuple of sizes of at least 1, one for each spatial axis, `None` where it "
        "stays",
        lambda x: all(n is None or (is_integer(n) and n >= 1) for n in x),
    ),
]


class ImageResize(AbstractParameterless):
    r"""Resize the spatial axes as `jax.image.resize` does.

    $K'_{qq'} = \sum_{pp'} A_{qp} K_{pp'} A_{q'p'}$ and $T'$ alike, with $A$ the weights
    of the interpolation, which is linear whatever the `method`.

    **Cost:** keeps all pairs of positions of input and output in memory, for one tile
    of examples.
    """

    shape: tuple[int | None, ...] = eqx.field(static=True)
    method: ResizeMethod = eqx.field(static=True)
    antialias: bool = eqx.field(static=True)

    def __init__(
        self,
        shape: Resized,
        method: ResizeMethod = "linear",
        *,
        antialias: bool = True,
    ):
        """Set the sizes of the spatial axes; `None` keeps the size of an axis."""
        self.shape, self.method = plain(shape), lowered(method)
        self.antialias = antialias

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        value, extras = unwrap(x)
        self._size_out(value.shape[1:])
        out = jax.vmap(self._resize)(value)
        return extras.rewrap(out, reached(extras.mask, self._resize))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        return map_positions(
            covariance, self._size_out(covariance.outline.size), self._resize
        )

    def _resize(self, values: Float[Array, "*size"]) -> Float[Array, "*size_out"]:
        return jax.image.resize(
            values,
            self._size_out(values.shape),
            self.method,
            self.antialias,
            precision=lax.Precision.HIGHEST,
        )

    def _size_out(self, size: tuple[int, ...]) -> tuple[int, ...]:
        if len(size) != len(self.shape):
            raise LayerError(
                self,
                f"resizes {len(self.shape)} spatial axes to {self.shape}, but the "
                f"input has {len(size)}, of sizes {size}.",
            )
        pairs = zip(size, self.shape, strict=True)
        return tuple(old if new is None else new for old, new in pairs)
