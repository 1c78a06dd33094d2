"""Variances of weights that differ among the taps of a window."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents._arguments import described
from eqtangents._types import Counts, Rule, ScalarOrBatch, is_concrete, is_real
from eqtangents.covariance._window_sums import TapWeights
from eqtangents.nn._layer import LayerError


def _is_array_like(x: Any) -> bool:
    if isinstance(x, Sequence) and not isinstance(x, str):
        return len({np.shape(one) for one in x}) == 1 and all(map(_is_array_like, x))
    return is_real(x)


def _are_variances(x: Any) -> bool:
    if not np.ndim(x) or not np.size(x):
        return False
    if isinstance(x, jax.Array) and not is_concrete(x):
        return True
    known = np.asarray(x)
    return bool(np.isfinite(known).all() and (known >= 0).all() and known.any())


_TAP_VARIANCES = (
    "be numbers, one for each tap of the window: `(1, 2, 1)` for all axes alike, say, "
    "or as many axes of them as the window has"
)
TapVariances: TypeAlias = Annotated[
    Sequence[Any] | Float[np.ndarray, "..."] | Float[Array, "..."],
    Rule(
        _TAP_VARIANCES,
        lambda x: not isinstance(x, str) and _is_array_like(x),
        f"{_TAP_VARIANCES}; finite, not negative, and not all zero",
        _are_variances,
    ),
]
# As layers keep them: numbers of Python are constants, an array is a leaf.
KeptVariances: TypeAlias = tuple[float | tuple[Any, ...], ...] | Float[Array, "..."]


def kept_variances(
    layer: object, variances: TapVariances | None, kernel_size: Counts
) -> KeptVariances | None:
    """Variances as a layer keeps them.

    **Raises:** `ValueError` if they are of another window.
    """
    if variances is None:
        return None
    shape = np.shape(variances)
    if not _fits(shape, kernel_size):
        another = _of_another_window(variances, kernel_size)
        raise ValueError(
            f"{type(layer).__name__}: {another} Give as many numbers as a window has "
            "taps along each axis."
        )
    if isinstance(variances, jax.Array):
        return variances
    return _as_tuples(np.asarray(variances, float).tolist())


def relative_variances(
    layer: object, variances: KeptVariances | None, kernel: Sequence[int]
) -> TapWeights | None:
    """The variance of each tap over the mean of all; `None` if they are alike.

    **Raises:** `LayerError` if the layer has variances of another window.
    """
    if variances is None:
        return None
    fixed = not isinstance(variances, jax.Array)
    along = taps = np.asarray(variances, float) if fixed else variances
    for _ in kernel[1:] if along.ndim == 1 else ():
        taps = taps[..., None] * along[(None,) * taps.ndim]
    if taps.shape != tuple(kernel):
        raise LayerError(layer, _of_another_window(variances, tuple(kernel)))
    if isinstance(taps, np.ndarray) and np.all(taps == taps.flat[0]):
        return None
    return taps / taps.mean()


def over_weights(taps: ScalarOrBatch, weight: Float[Array, "..."]) -> ScalarOrBatch:
    """A number for all weights, or one for each tap, to be multiplied with them."""
    if not jnp.ndim(taps):
        return taps
    taps = jnp.asarray(taps, weight.dtype)
    rest = weight.ndim - 2 - taps.ndim
    return taps.reshape(1, 1, *taps.shape, *(1,) * rest)


def _fits(shape: tuple[int, ...], kernel_size: Counts) -> bool:
    """Whether a window may have variances of a shape; one axis may stand for all."""
    if isinstance(kernel_size, int):
        return set(shape) == {kernel_size}
    return shape == kernel_size or (len(shape) == 1 and set(kernel_size) == set(shape))


def _of_another_window(variances: Any, kernel_size: Counts) -> str:
    return (
        f"`tap_variances` is {described(variances)}, of shape {np.shape(variances)}, "
        f"but the window has the size {kernel_size}."
    )


def _as_tuples(numbers: Any) -> Any:
    return tuple(map(_as_tuples, numbers)) if isinstance(numbers, list) else numbers
