"""Linear maps of positions, alike for all channels and examples."""

import numbers
from collections.abc import Sequence
from types import EllipsisType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.image
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eqtangents._arguments import described
from eqtangents._types import Rule, is_concrete, is_integer, is_real, lowered, plain
from eqtangents.covariance import AbstractCovariance, Gathered, Mapped, picked
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import (
    AbstractParameterless,
    Covariances,
    LayerError,
    one_input,
)


ResizeMethod: TypeAlias = Literal[
    "nearest", "linear", "bilinear", "trilinear", "triangle", "cubic", "bicubic",
    "tricubic", "lanczos3", "lanczos5",
]  # fmt: skip
# Sizes of all spatial axes, `None` for those that stay.
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
Constant: TypeAlias = Annotated[
    Float[Array | np.ndarray, "..."] | float,
    Rule(
        "be a constant array of real numbers, or one number",
        lambda x: is_real(np.asarray(x) if isinstance(x, list | tuple) else x),
        "be a constant array, known when the layer is made, which is never trained: "
        "nothing can be differentiated in it, nor traced by `jax.jit`",
        lambda x: isinstance(x, numbers.Real | list | tuple) or is_concrete(x),
    ),
]
AxisIndex: TypeAlias = int | slice | EllipsisType | Sequence[int]


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
        """Set the sizes of the spatial axes, `None` for those that stay."""
        self.shape, self.method = plain(shape), lowered(method)
        self.antialias = antialias

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        """Apply to one example."""
        value, extras = unwrap(x)
        self._size_out(value.shape[1:])
        out = jax.vmap(self._resize)(value)
        return extras.rewrap(out, _reached(extras.mask, self._resize))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Interpolate both positions of each pair."""
        covariance = one_input(self, covariance)
        return _mapped(
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
        """Apply to one example."""
        value, extras = unwrap(x)
        if not self._is_paired(value.ndim - 1):
            found = self._found(value.shape[1:])
            mask = None if extras.mask is None else picked(extras.mask[None], found)[0]
            return extras.rewrap(picked(value, found), mask)
        self._size_out(value.shape[1:])
        return extras.rewrap(
            jax.vmap(self._pick)(value), _reached(extras.mask, self._pick)
        )

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Pick both positions of each pair."""
        covariance = one_input(self, covariance)
        size = covariance.outline.size
        if not self._is_paired(len(size)):
            return Gathered(covariance, self._found(size))
        return _mapped(covariance, self._size_out(size), self._pick)

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
        # A number beside a sequence is one too, and those that slices part come first.
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

    def _found(self, size: tuple[int, ...]) -> list[np.ndarray]:
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


class _Slice:
    """`Slice[1:, ..., 0]` is the index `(slice(1, None), ..., 0)`."""

    def __getitem__(self, index: Any) -> Any:
        return index


Slice = _Slice()


class _Constant(NamedTuple):
    """An array that is part of the program: no leaf, which would be trained."""

    shape: tuple[int, ...]
    dtype: str
    content: bytes

    @classmethod
    def of(cls, array: Constant) -> "_Constant":
        array = np.asarray(array)
        return cls(array.shape, array.dtype.str, array.tobytes())

    @property
    def array(self) -> Float[np.ndarray, "..."]:
        return np.frombuffer(self.content, self.dtype).reshape(self.shape)


class DotGeneral(AbstractParameterless):
    r"""Multiply the positions by a constant array, as `jax.lax.dot_general` does.

    $K' = A K A^T$ and $T'$ alike. The array multiplies what each channel holds,
    `(*spatial)`, from the left or from the right; without one, nothing changes.

    **Cost:** as `ImageResize`.
    """

    lhs: "_Constant | None" = eqx.field(static=True)
    rhs: "_Constant | None" = eqx.field(static=True)
    dimension_numbers: Any = eqx.field(static=True)

    def __init__(
        self,
        *,
        lhs: Constant | None = None,
        rhs: Constant | None = None,
        dimension_numbers: Any = (((), ()), ((), ())),
    ):
        """Set the array, and which axes are contracted and which are batched.

        **Arguments:**

        - `lhs`, `rhs`: the array, on either side. It is a constant, never trained.
        - `dimension_numbers`: as for `jax.lax.dot_general`; the axes of the input are
            counted without that of its channels.
        """
        if lhs is not None and rhs is not None:
            raise ValueError(
                "DotGeneral: both `lhs` and `rhs` are given, but the input is one of "
                "the two. Give the other."
            )
        self.lhs = None if lhs is None else _Constant.of(lhs)
        self.rhs = None if rhs is None else _Constant.of(rhs)
        self.dimension_numbers = plain(dimension_numbers)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        """Apply to one example."""
        value, extras = unwrap(x)
        out = jax.vmap(self._multiply)(value)
        return extras.rewrap(out, _reached(extras.mask, self._multiply))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Multiply both positions of each pair."""
        covariance = one_input(self, covariance)
        values = jax.ShapeDtypeStruct(covariance.outline.size, jnp.zeros(()).dtype)
        shape = jax.eval_shape(self._multiply, values).shape
        return _mapped(covariance, shape, self._multiply)

    def _multiply(self, values: Float[Array, "*size"]) -> Float[Array, "*size_out"]:
        given = self.rhs if self.lhs is None else self.lhs
        if given is None:
            return values
        array = jnp.asarray(given.array, values.dtype)
        pair = (values, array) if self.lhs is None else (array, values)
        try:
            return lax.dot_general(
                *pair, self.dimension_numbers, precision=lax.Precision.HIGHEST
            )
        except TypeError as error:
            raise LayerError(
                self,
                f"cannot multiply values of shape {values.shape}, those of one "
                f"channel, by an array of shape {array.shape}: {error}",
            ) from None


def _mapped(
    covariance: AbstractCovariance, size: tuple[int, ...], move: Any
) -> AbstractCovariance:
    """The covariance of linearly mapped positions."""
    mask = covariance.outline.mask
    if mask is not None:
        mask = jax.vmap(lambda one: _reached(one, move))(mask)
    return Mapped(covariance, size, lambda _, values: move(values), mask=mask)


def _reached(
    mask: Bool[Array, "*size"] | None, move: Any
) -> Bool[Array, "*size_out"] | None:
    """The outputs to which any position there is contributes."""
    if mask is None:
        return None
    units = jnp.eye(mask.size).reshape(mask.size, *mask.shape)
    weights = jax.vmap(move)(units)
    there = mask.reshape(-1, *(1,) * (weights.ndim - 1))
    return jnp.any((weights != 0) & there, 0)
