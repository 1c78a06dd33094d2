"""Which input positions the window of each output position covers, along one axis."""

import dataclasses

from eqtangents._types import Padding


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
        cls, size: int, kernel: int, stride: int, dilation: int, padding: Padding
    ) -> "Window":
        """The window of a kernel on an axis; its output may be empty or negative."""
        extent = (kernel - 1) * dilation + 1
        if padding == "VALID":
            low, size_out = 0, (size - extent) // stride + 1
        else:
            size_out = -(-size // stride)
            low = max((size_out - 1) * stride + extent - size, 0) // 2
        offsets = tuple(i * dilation - low for i in range(kernel))
        return cls(offsets, stride, size, size_out, padding == "CIRCULAR")

    @property
    def count(self) -> int:
        """How many inputs each window covers, in range or not."""
        return len(self.offsets)

    @property
    def padding(self) -> tuple[int, int]:
        """How many inputs the windows reach below the first and beyond the last."""
        return self.reach(self.size_in, self.size_out)

    def reach(self, size_in: int, size_out: int) -> tuple[int, int]:
        """The same on a canvas with other sizes."""
        last = (size_out - 1) * self.stride + self.offsets[-1]
        return max(0, -self.offsets[0]), max(0, last - (size_in - 1))

    def counts(self) -> tuple[int, ...]:
        """How many inputs in range each window covers."""
        return tuple(
            len(self.offsets)
            if self.periodic
            else sum(0 <= q * self.stride + o < self.size_in for o in self.offsets)
            for q in range(self.size_out)
        )
