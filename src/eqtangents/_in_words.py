"""What came as an argument, in words, and checks of what public functions share."""

import inspect
import operator
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np


def in_words(value: Any) -> str:
    """What this is, to whoever passed it: never its contents at length."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class `{value.__name__}`"
    if isinstance(value, bool | int | float | complex | str):
        kind = "string" if isinstance(value, str) else "number"
        return f"the {kind} {value!r}"
    if is_key(value):
        return "a random key" if not value.shape else f"{value.shape} random keys"
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if inspect.isroutine(value):
        return f"the function `{value.__name__}`"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return f"an `{name}`" if name[0].upper() in "AEIOU" else f"a `{name}`"


def is_whole(value: Any) -> bool:
    """Whether this is a whole number whose value is known; truth values are none."""
    if isinstance(value, bool | np.bool_ | float | str) or value is None:
        return False
    try:
        operator.index(value)
    except (TypeError, jax.errors.JAXTypeError):
        return False
    return True


def check_whole(name: str, value: Any, least: int, why: str) -> int:
    """A whole number, at least so large; `why` says what a smaller one would mean.

    **Raises:** `TypeError` if it is no whole number, `ValueError` if it is too small.
    """
    if not is_whole(value):
        raise TypeError(
            f"`{name}` is {in_words(value)}, but must be a whole number whose value is "
            f"known, at least {least}."
        )
    if (number := operator.index(value)) < least:
        raise ValueError(f"`{name}` is {number}, but {why}")
    return number


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise `ValueError` unless this is one of some names."""
    if not (isinstance(value, str) and value in choices):
        names = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"`{name}` is {in_words(value)}, but must be one of {names}.")


def is_key(value: Any) -> bool:
    """Whether this is one random key, or an array of them, of the typed kind."""
    return isinstance(value, jax.Array) and jnp.issubdtype(
        value.dtype, jax.dtypes.prng_key
    )


def check_key(name: str, key: Any) -> None:
    """Raise unless this is one random key of JAX.

    **Raises:** `TypeError` if it is no key, `ValueError` if it is several.
    """
    if is_key(key):
        shape: tuple[int, ...] = key.shape
    elif getattr(key, "dtype", None) == np.uint32 and np.ndim(key):
        shape = np.shape(key)[:-1]  # of the older kind, the last axis is within a key
    else:
        _no_key(name, key)
    if shape:
        raise ValueError(
            f"`{name}` is an array of keys, of shape {shape}, but one key is needed, "
            "from which all others are drawn. Pass one of them."
        )


def _no_key(name: str, key: Any) -> NoReturn:
    seed = key if is_whole(key) else 0
    raise TypeError(
        f"`{name}` is {in_words(key)}, but must be a random key. Write "
        f"`{name}=jax.random.key({seed})`."
    )
