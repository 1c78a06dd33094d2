"""Batches of examples, and axes of outputs, as public functions take them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from eqtangents._arguments import described, is_integer, is_typed_key
from eqtangents._parameters import is_network
from eqtangents._trees import Batch, difference


def checked_batches(x1: Batch, x2: Batch | None) -> tuple[Batch, Batch | None]:
    """Both batches as arrays of JAX.

    **Raises:** `TypeError` if they have no arrays, `ValueError` unless they are batches
    of examples of the same shapes and types.
    """
    x1 = _checked_batch("x1", x1)
    if x2 is None:
        return x1, None
    x2 = _checked_batch("x2", x2)
    _check_alike(x1, x2)
    return x1, x2


def _checked_batch(name: str, x: Batch) -> Batch:
    leaves = jax.tree.leaves(x)
    if is_typed_key(x) or not leaves or not all(map(_is_array, leaves)):
        raise TypeError(_not_arrays(name, x, leaves))
    x = jax.tree.map(jnp.asarray, x)
    shapes = [leaf.shape for leaf in jax.tree.leaves(x)]
    sizes = {shape[0] if shape else None for shape in shapes}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            f"`{name}` must be a batch: arrays with one leading axis of examples, of "
            f"the same size. The shapes are: {', '.join(map(str, shapes))}. For one "
            "example, pass `x[None]`."
        )
    return x


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _not_arrays(name: str, x: Any, leaves: list[Any]) -> str:
    """The message about something that came in place of a batch."""
    came = f"`{name}` is {described(x)}, but must be a batch: "
    if is_network(x):
        return came + (
            "arrays with a leading axis of examples. The network is the first argument."
        )
    if leaves and all(
        isinstance(leaf, bool | int | float | complex) for leaf in leaves
    ):
        return came + (
            f"an array with a leading axis of examples. Convert it, by "
            f"`jnp.asarray({name})`."
        )
    wrong = next((leaf for leaf in leaves if not _is_array(leaf)), None)
    found = "" if wrong is None or wrong is x else f", not {described(wrong)}"
    return came + (
        f"an array with a leading axis of examples, or a tree of such arrays{found}."
    )


def size_of(x: PyTree[Array]) -> int:
    """The number of examples of a batch that has been checked."""
    return jax.tree.leaves(x)[0].shape[0]


def example_of(x: PyTree[Array]) -> PyTree[Array]:
    """One example of zeros, of the shape and type of those in a batch."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, shape=leaf.shape[1:]), x)


def _check_alike(x1: PyTree[Array], x2: PyTree[Array]) -> None:
    """Raise unless examples of both batches have the same shapes and types."""
    if unlike := difference(x2, x1):
        raise ValueError(
            f"An example of `x2` {unlike}, compared with one of `x1`, but both must be "
            "what the network takes, with a leading axis of examples. Parameters of a "
            "function are the fourth argument, `params`."
        )
    for a, b in zip(jax.tree.leaves(x1), jax.tree.leaves(x2), strict=True):
        if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
            raise ValueError(
                f"An example of `x1` has shape {a.shape[1:]} and dtype {a.dtype}, one "
                f"of `x2` {b.shape[1:]} and {b.dtype}, but both must be what the "
                "network takes, with a leading axis of examples."
            )


def checked_axes(name: str, axes: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """Axes as a tuple; `None` stays.

    **Raises:** `TypeError` if they are no integers.
    """
    if axes is None:
        return None
    found = (axes,) if is_integer(axes) else axes
    if not isinstance(found, Sequence) or not all(map(is_integer, found)):
        raise TypeError(
            f"`{name}` is {described(axes)}, but must be axes of one example's output, "
            "integers: `(0,)` for the first, `()` for none."
        )
    return tuple(map(int, found))  # pyright: ignore[reportArgumentType]
