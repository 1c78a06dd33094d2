"""How the outputs of two examples are compared: diagonally, traced, or in full."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact


class RowCounts(NamedTuple):
    """The number of rows of a Jacobian: examples, and outputs of each.

    Outputs count by how they are paired with outputs of the other side: a kernel is
    diagonal in `diagonal` ones, traced over `traced`, and full in `free` ones.
    """

    examples: int
    diagonal: int
    traced: int
    free: int

    @property
    def outputs(self) -> int:
        """The outputs of one example."""
        return self.diagonal * self.traced * self.free


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Which axes of one output are diagonal, traced, or neither."""

    shape: tuple[int, ...]
    diagonal: tuple[int, ...]
    traced: tuple[int, ...]

    @property
    def free(self) -> tuple[int, ...]:
        """Axes that the kernel has twice."""
        paired = {*self.diagonal, *self.traced}
        return tuple(axis for axis in range(len(self.shape)) if axis not in paired)

    def _size(self, axes: Sequence[int]) -> int:
        return math.prod(self.shape[axis] for axis in axes)

    def counts(self, examples: int) -> RowCounts:
        """The rows of the Jacobian for so many examples."""
        sizes = map(self._size, (self.diagonal, self.traced, self.free))
        return RowCounts(examples, *sizes)

    def grouped(
        self, outputs: Inexact[Array, "n *output"]
    ) -> Inexact[Array, "n diagonal traced free"]:
        """Outputs in the order of rows."""
        order = (*self.diagonal, *self.traced, *self.free)
        moved = jnp.transpose(outputs, (0, *(1 + axis for axis in order)))
        return moved.reshape(self.counts(outputs.shape[0]))

    def seeds(self, dtype: jnp.dtype) -> Float[Array, "diagonal traced free *output"]:
        """The cotangents of rows: one output each."""
        size = math.prod(self.shape)
        eye = jnp.eye(size, dtype=dtype).reshape(size, *self.shape)
        grouped = jnp.moveaxis(self.grouped(eye), 0, -1)
        return grouped.reshape(*grouped.shape[:-1], *self.shape)

    def assembled(
        self, kernel: Inexact[Array, "n1 n2 diagonal free1 free2"]
    ) -> Inexact[Array, "n1 n2 *axes"]:
        """The kernel with its axes, averaged over traced ones."""
        sizes = [[self.shape[i] for i in axes] for axes in (self.diagonal, self.free)]
        shape = (*kernel.shape[:2], *sizes[0], *sizes[1], *sizes[1])
        return kernel.reshape(shape) / max(self._size(self.traced), 1)


def pairing(
    shape: tuple[int, ...],
    trace_axes: Sequence[int] | None,
    diagonal_axes: Sequence[int],
) -> Pairing:
    """Read axes of one example's output, counted from either end.

    Without `trace_axes`, it is the first one, unless it is diagonal.

    **Raises:** `ValueError` if there is no such axis, or one is named twice.
    """
    if trace_axes is None:
        first = bool(shape) and not {0, -len(shape)}.intersection(diagonal_axes)
        trace_axes = (0,) if first else ()
    for name, axes in (("trace_axes", trace_axes), ("diagonal_axes", diagonal_axes)):
        for axis in axes:
            if not -len(shape) <= axis < len(shape):
                raise ValueError(
                    f"`{name}` names axis {axis}, but the output for one example has "
                    f"shape {shape}. Axes are those of one example: the batch is not "
                    "among them."
                )
    traced, diagonal = (
        tuple(axis % len(shape) for axis in axes)
        for axes in (trace_axes, diagonal_axes)
    )
    if len({*traced, *diagonal}) != len(traced) + len(diagonal):
        raise ValueError(
            f"`trace_axes` {tuple(trace_axes)} and `diagonal_axes` "
            f"{tuple(diagonal_axes)} name an axis of the output, of shape {shape}, "
            "twice. Each axis is traced, diagonal, or neither."
        )
    return Pairing(shape, diagonal, traced)
