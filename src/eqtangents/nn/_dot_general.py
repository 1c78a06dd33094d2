"""Products of the positions with a constant array."""

import numbers
from typing import Annotated, Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import Rule, is_concrete, is_real, plain
from eqtangents.covariance import AbstractCovariance
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import (
    AbstractParameterless,
    Covariances,
    LayerError,
    one_input,
)
from eqtangents.nn._positions import map_positions, reached


FixedArray: TypeAlias = Annotated[
    Float[Array | np.ndarray, "..."] | float,
    Rule(
        "be a constant array of real numbers, or one number",
        lambda x: is_real(np.asarray(x) if isinstance(x, list | tuple) else x),
        "be a constant array, known when the layer is made, which is never trained: "
        "nothing can be differentiated in it, nor traced by `jax.jit`",
        lambda x: isinstance(x, numbers.Real | list | tuple) or is_concrete(x),
    ),
]


class FrozenArray(NamedTuple):
    """An array that is part of the program: no leaf, which would be trained."""

    shape: tuple[int, ...]
    dtype: str
    content: bytes

    @classmethod
    def of(cls, array: FixedArray) -> "FrozenArray":
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

    lhs: "FrozenArray | None" = eqx.field(static=True)
    rhs: "FrozenArray | None" = eqx.field(static=True)
    dimension_numbers: Any = eqx.field(static=True)

    def __init__(
        self,
        *,
        lhs: FixedArray | None = None,
        rhs: FixedArray | None = None,
        dimension_numbers: Any = (((), ()), ((), ())),
    ):
        """Set the array, and which axes are contracted and which are batched.

        **Arguments:**

        - `lhs`, `rhs`: the array, on either side. It is a constant, never trained.
        - `dimension_numbers`: as for `jax.lax.dot_general`; the axes of the input are
            counted without the axis of its channels.
        """
        if lhs is not None and rhs is not None:
            raise ValueError(
                "DotGeneral: both `lhs` and `rhs` are given, but the input is one of "
                "the two. Give the other."
            )
        self.lhs = None if lhs is None else FrozenArray.of(lhs)
        self.rhs = None if rhs is None else FrozenArray.of(rhs)
        self.dimension_numbers = plain(dimension_numbers)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        value, extras = unwrap(x)
        out = jax.vmap(self._multiply)(value)
        return extras.rewrap(out, reached(extras.mask, self._multiply))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        values = jax.ShapeDtypeStruct(covariance.outline.size, jnp.zeros(()).dtype)
        shape = jax.eval_shape(self._multiply, values).shape
        return map_positions(covariance, shape, self._multiply)

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
