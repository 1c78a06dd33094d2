"""Elementwise functions, evaluated at many points in NumPy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from eqtangents._at_once import computed_at_once


_AT_ONCE = 8192  # points of one evaluation: always as many, so that it compiles once


def slope(fn: Callable) -> Callable:
    """The derivative of an elementwise function."""
    return lambda x: jax.jvp(fn, (x,), (jnp.ones_like(x),))[1]


class SampledFunction:
    """An elementwise function and its slope, from arrays of NumPy to arrays of NumPy.

    They are evaluated in double precision, whatever JAX's default is, if the function
    can be evaluated in double precision at all.
    """

    def __init__(self, fn: Callable):
        """Keep the function; nothing is evaluated yet."""
        self._both = jax.jit(lambda x: jax.jvp(fn, (x,), (jnp.ones_like(x),)))
        self._double = True

    def __call__(
        self, x: Float[np.ndarray, "*s"]
    ) -> tuple[Float[np.ndarray, "*s"], Float[np.ndarray, "*s"]]:
        """Values and slopes.

        **Raises:** `jax.errors.TracerArrayConversionError` if they depend on values
        that are being traced.
        """
        parts = np.array_split(x.ravel(), range(_AT_ONCE, x.size, _AT_ONCE))
        values, slopes = zip(*map(self._evaluated, parts), strict=True)
        return (
            np.concatenate(values).reshape(x.shape),
            np.concatenate(slopes).reshape(x.shape),
        )

    def _evaluated(self, x: Float[np.ndarray, " n"]) -> list[np.ndarray]:
        padded = np.resize(x, _AT_ONCE)
        if self._double:
            try:
                # Arrays in the function may be of single precision.
                with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
                    return self._as_numpy(padded, x.size)
            except jax.errors.TracerArrayConversionError:
                raise
            except Exception:  # arrays of another type in the function may raise any
                self._double = False
        return self._as_numpy(padded, x.size)

    def _as_numpy(self, x: Float[np.ndarray, " n"], size: int) -> list[np.ndarray]:
        with computed_at_once():
            both = self._both(jnp.asarray(x, float))
            return [np.asarray(part, np.float64)[:size] for part in both]
