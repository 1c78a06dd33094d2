"""Windows that move over the positions of an axis."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool


@dataclasses.dataclass(frozen=True)
class Window:
    """Output `q` covers inputs `q * stride + o` for the offsets `o`.

    Inputs out of range are zero, or wrap around where `periodic`.
    """

    offsets: tuple[int, ...]
    stride: int
    size_in: int
    size_out: int
    periodic: bool

    @classmethod
    def of(
        cls,
        size: int,
        *,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        padding: Literal["VALID", "SAME", "CIRCULAR"] | tuple[int, int] = "VALID",
    ) -> "Window":
        """The window of a kernel on an axis; its output may be empty or negative.

        `padding` may be the numbers of zeros before and after the input.
        """
        extent = (kernel - 1) * dilation + 1
        if padding == "VALID":
            padding = (0, 0)
        if not isinstance(padding, str):
            low, high = padding
            size_out = (low + size + high - extent) // stride + 1
        else:
            size_out = -(-size // stride)
            low = max((size_out - 1) * stride + extent - size, 0) // 2
        offsets = tuple(i * dilation - low for i in range(kernel))
        return cls(offsets, stride, size, size_out, padding == "CIRCULAR")

    @property
    def count(self) -> int:
        """The number of inputs that a window covers, in range or not."""
        return len(self.offsets)

    @property
    def overlapping(self) -> bool:
        """Whether an input may be under several windows."""
        return self.offsets[-1] - self.offsets[0] >= self.stride

    def always_meets(self, offset: int) -> bool:
        """Whether every output has an input at an offset."""
        places = np.arange(self.size_out) * self.stride + offset
        inside = (places >= 0) & (places < self.size_in)
        return self.periodic or bool(np.all(inside))

    @property
    def padding(self) -> tuple[int, int]:
        """The number of inputs missing below the first and beyond the last."""
        return self.reach(self.size_in, self.size_out)

    def reach(self, size_in: int, size_out: int) -> tuple[int, int]:
        """The padding needed when input and output are stored on these canvases."""
        last = (size_out - 1) * self.stride + self.offsets[-1]
        return max(0, -self.offsets[0]), max(0, last - (size_in - 1))

    @property
    def transposed(self) -> "Window":
        """The window through which each input is seen by the outputs.

        Outputs are where their inputs are, with zeros between them.
        """
        return Window(
            offsets=tuple(-offset for offset in reversed(self.offsets)),
            stride=1,
            size_in=self.size_out * self.stride,
            size_out=self.size_in,
            periodic=self.periodic,
        )

    def counts(self) -> tuple[int, ...]:
        """The number of inputs in range that each window covers."""
        return tuple(
            len(self.offsets)
            if self.periodic
            else sum(0 <= q * self.stride + o < self.size_in for o in self.offsets)
            for q in range(self.size_out)
        )


def seen_through(
    mask: Bool[Array, "*n_and_size"], windows: Sequence[Window]
) -> Bool[Array, "*n_and_size_out"]:
    """The mask of outputs: an output exists where the centre of its window does.

    Where windows keep the size, the mask stays as it is.
    """
    if all(window.size_in == window.size_out for window in windows):
        return mask
    for axis, window in enumerate(windows, mask.ndim - len(windows)):
        centre = window.offsets[(window.count - 1) // 2]
        at = np.arange(window.size_out) * window.stride + centre
        at = at % window.size_in if window.periodic else at.clip(0, window.size_in - 1)
        mask = jnp.take(mask, at, axis)
    return mask
