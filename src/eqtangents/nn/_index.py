"""Picking positions, as NumPy does."""

from collections.abc import Sequence
from types import EllipsisType
from typing import Any, TypeAlias

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from eqtangents._arguments import described
from eqtangents._types import is_concrete, is_integer, plain
from eqtangents.covariance import AbstractCovariance, Gathered, picked
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import (
    AbstractParameterless,
    Covariances,
    LayerError,
    one_input,
)
from eqtangents.nn._positions import map_positions, reached


AxisIndex: TypeAlias = int | slice | EllipsisType | Sequence[int]


class Index(AbstractParameterless):
    r"""Pick positions, as NumPy does, $K'_{qq'} = K_{i(q)\, i(q')}$ and $T'$ alike.

    An index has a number, a slice or a sequence of numbers for each spatial axis, or an
    ellipsis for several; an axis with a single number disappears. `Slice[1:, 0]`
    writes one. Sequences for several axes are paired, as in NumPy: `([0, 2], [1, 3])`
    picks the two positions `(0, 1)` and `(2, 3)`, in one axis. All combinations are
    picked by `numpy.ix_([0, 2], [1, 3])`, or by one layer for each axis.

    **Cost:** none, but for paired sequences: as `ImageResize`.
    """

    index: tuple[AxisIndex, ...] = eqx.field(static=True)

    def __init__(self, index: Any):
        """Set which positions to pick, over the spatial axes of one example."""
        axes = index if isinstance(index, tuple) else (index,)
        self.index = tuple(map(_axis_index, axes))

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        value, extras = unwrap(x)
        if not self._is_paired(value.ndim - 1):
            indices = self._picked_along(value.shape[1:])
            mask = (
                None if extras.mask is None else picked(extras.mask[None], indices)[0]
            )
            return extras.rewrap(picked(value, indices), mask)
        self._size_out(value.shape[1:])
        return extras.rewrap(
            jax.vmap(self._pick)(value), reached(extras.mask, self._pick)
        )

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        size = covariance.outline.size
        if not self._is_paired(len(size)):
            return Gathered(covariance, self._picked_along(size))
        return map_positions(covariance, self._size_out(size), self._pick)

    def _for_each(self, rank: int) -> tuple[AxisIndex, ...]:
        """What is picked along each axis."""
        index = self.index
        given = sum(i is not Ellipsis for i in index)
        if given > rank or len(index) - given > 1:
            raise LayerError(
                self,
                f"has an index {index} for {given} spatial axes, but the input has "
                f"{rank}. Channels and examples are never picked.",
            )
        at = index.index(Ellipsis) if Ellipsis in index else len(index)
        rest = (slice(None),) * (rank - given)
        return (*index[:at], *rest, *index[at + 1 :])

    def _is_paired(self, rank: int) -> bool:
        """Whether axes are picked together, or change their order."""
        index = self._for_each(rank)
        sequences = [i for i in index if isinstance(i, tuple)]
        if not sequences:
            return False
        if len(sequences) > 1 or np.ndim(sequences[0]) != 1:
            return True
        # A number beside a sequence counts as a sequence too. NumPy moves the axes of
        # sequences to the front if slices stand between them.
        sliced = [isinstance(i, slice) for i in index]
        first, last = sliced.index(False), rank - 1 - sliced[::-1].index(False)
        return any(sliced[first:last])

    def _pick(self, values: Any) -> Any:
        """What is picked of an array, of NumPy's or of JAX's."""
        index = self._for_each(values.ndim)
        return values[
            tuple(np.asarray(i) if isinstance(i, tuple) else i for i in index)
        ]

    def _size_out(self, size: tuple[int, ...]) -> tuple[int, ...]:
        try:
            return self._pick(np.empty(size)).shape
        except IndexError as error:
            raise LayerError(self, f"picks what is not there: {error}.") from None

    def _picked_along(self, size: tuple[int, ...]) -> list[np.ndarray]:
        """The positions picked along each axis."""
        try:
            return [
                np.asarray(np.arange(h)[np.asarray(i) if isinstance(i, tuple) else i])
                for h, i in zip(size, self._for_each(len(size)), strict=True)
            ]
        except IndexError as error:
            raise LayerError(self, f"picks what is not there: {error}.") from None


def _axis_index(axis: Any) -> AxisIndex:
    """The index of one axis, hashable."""
    if isinstance(axis, slice | EllipsisType) or is_integer(axis):
        return plain(axis)
    numbers = axis
    if isinstance(axis, np.ndarray) or (is_concrete(axis)):
        numbers = np.asarray(axis).tolist()
    if isinstance(numbers, Sequence) and not isinstance(numbers, str):
        if np.asarray(numbers).dtype.kind in "biu":
            return _nested(numbers)
    raise TypeError(
        f"Index: {described(axis)} picks no positions: give a number, a slice, an "
        "ellipsis or a sequence of numbers for each spatial axis, `nn.Slice[1:, 0]`, "
        "say."
    )


def _nested(numbers: Any) -> Any:
    if isinstance(numbers, Sequence):
        return tuple(map(_nested, numbers))
    return numbers


class _IndexWriter:
    """`Slice[1:, ..., 0]` is the index `(slice(1, None), ..., 0)`."""

    def __getitem__(self, index: Any) -> Any:
        return index


Slice = _IndexWriter()
