"""What layers are given when they are initialised and applied, checked and made plain.

Each layer has its own `init` and `__call__`; these checks are put around all of them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqtangents._arguments import check_key, described, is_key
from eqtangents._types import is_integer
from eqtangents.nn._inputs import Graph, Masked


def checked_init(init: Callable) -> Callable:
    """An `init` that is given a shape, and a key or none."""

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        name = type(self).__name__
        if args and is_key(args[0]):
            raise TypeError(
                f"{name}: `init` was given a random key first, but takes the shape of "
                "one example, then the key by name: `net.init(x.shape[1:], key=key)`."
            )
        if len(args) > 1:
            raise TypeError(
                f"{name}: `init` was given {described(args[1])} after the shape, but "
                "takes the key by name: `net.init(x.shape[1:], key=key)`."
            )
        if unknown := kwargs.keys() - {"input_shape", "key"}:
            raise TypeError(
                f"{name}: `init` takes no `{min(unknown)}`. It takes the shape of one "
                "example, and a random key by name: `net.init(x.shape[1:], key=key)`."
            )
        if not args and "input_shape" not in kwargs:
            raise TypeError(
                f"{name}: `init` needs the shape of one example: "
                "`net.init(x.shape[1:], key=key)`."
            )
        _check_key_of(name, "init", kwargs.get("key"))
        shape = args[0] if args else kwargs["input_shape"]
        return init(self, _as_shape(name, shape), key=kwargs.get("key"))

    return checked


def _as_shape(name: str, shape: Any) -> Any:
    """The shape of one example in numbers of Python, or a tuple of shapes."""
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        instead = "`(channels, *spatial)`"
        if is_integer(shape):
            instead = f"`({shape},)`"
        elif isinstance(shape, jax.Array | np.ndarray | Masked | Graph):
            instead = "`x.shape[1:]`, of a batch of values `x`"
        raise TypeError(
            f"{name}: `init` was given {described(shape)}, but needs the shape of one "
            f"example: {instead}."
        )
    if not all(map(is_integer, shape)) or not shape:
        if shape and not any(is_integer(size) or size is None for size in shape):
            return tuple(_as_shape(name, one) for one in shape)
        raise ValueError(
            f"{name}: `init` was given {described(shape)}, but needs the shape of one "
            "example, `(channels, *spatial)`, in integers and without a batch axis; "
            "for several inputs, a tuple of shapes."
        )
    if min(shape) < 1:
        raise ValueError(
            f"{name}: `init` was given the shape {tuple(shape)}, but sizes are at "
            "least 1. Leave out the axis of examples: `(channels, *spatial)`."
        )
    return tuple(map(int, shape))


def _check_key_of(name: str, method: str, key: Any) -> None:
    if key is not None:
        check_key(f"{name}: `key` of `{method}`", key)


def checked_call(call: Callable) -> Callable:
    """A `__call__` that is given one example, and a key or none."""

    @functools.wraps(call)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], jax.Array) and not kwargs:
            return call(self, *args)
        name = type(self).__name__
        if len(args) > 1:
            raise TypeError(
                f"{name}: was given {len(args)} arguments by position, the second "
                f"{described(args[1])}, but takes one example: `model(x)`, with "
                "parameters inside the model, or `model(x, key=key)`."
            )
        _check_key_of(name, "__call__", kwargs.get("key"))
        return call(self, *(_as_example(name, x) for x in args), **kwargs)

    return checked


def _as_example(name: str, x: Any) -> Any:
    """One example in arrays of JAX."""
    if isinstance(x, jax.Array | Masked | Graph):
        return x
    if isinstance(x, tuple | list) and not _is_numbers(x):
        return tuple(_as_example(name, one) for one in x)
    if isinstance(x, np.ndarray) and x.dtype != object:
        return jnp.asarray(x)
    raise TypeError(
        f"{name}: was given {described(x)}, but takes one example, an array "
        "`(channels, *spatial)`: convert it by `jnp.asarray(x)`, say. Kernels of "
        "batches are `eqt.kernel(net, x)`."
    )


def _is_numbers(x: Any) -> bool:
    """Whether this is a list of numbers, however nested; or of nothing."""
    if isinstance(x, tuple | list):
        return all(map(_is_numbers, x))
    return isinstance(x, int | float | np.number)
