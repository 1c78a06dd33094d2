"""Checks of arguments that several predictors have."""

import math
from collections.abc import Callable
from typing import TypeAlias, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents._arguments import described as described
from eqtangents._kernel import Kernel
from eqtangents._refuse import (
    known as known,
    not_finite as not_finite,
    refuse as refuse,
)
from eqtangents._types import Scalar
from eqtangents.nn import AbstractLayer
from eqtangents.solvers import GramOperator


T = TypeVar("T")

# Both kernels, of an infinite or of a finite network.
Times: TypeAlias = Scalar | Float[Array, "..."]

NONFINITE_KERNEL = """
`{name}` holds a value that is not finite.

(a) Most often, NaN or infinity is among the inputs of the kernel: see whether
    `jnp.isfinite(x).all()`.
(b) If the network is deep, its weight variances probably make the signal grow with
    depth; lower `weight_std` (for `Relu` the stable value is `sqrt(2)`).
(c) If the inputs are large, divide them by their standard deviation: kernels of
    nonlinearities without closed form are not numbers where variances are too large.
""".strip()

_NONFINITE = (
    "`{name}` holds NaN or infinity. Leave out, or fill in, the examples that have no "
    "value: one of them spoils all predictions."
)

_NOT_INCREASING = (
    "`t` must be finite and increase, from the time of the state where training "
    "starts on: sort it. For the end of training, use `converged`."
)

_NO_TIME = (
    "`{name}` must be at least zero and not NaN: training starts at time 0, and ends "
    "at `jnp.inf`. The time comes first, the kernel after it."
)


def is_both(kernel: object) -> TypeGuard[Kernel]:
    """Whether this is an NNGP kernel together with an NTK."""
    return isinstance(kernel, Kernel)


def branch_of(
    condition: Bool[Array, ""], yes: Callable[[], T], no: Callable[[], T]
) -> T:
    """What one of the two returns: called now, if it is known which."""
    now = known(condition)
    if now is None:
        return lax.cond(condition, yes, no)
    return yes() if now else no()


def array_argument(
    name: str, value: object, dtype: np.dtype | None = None, *, hint: str = ""
) -> Array:
    """The argument as an array; what has no dtype of JAX's is converted to `dtype`.

    **Raises:** `ValueError` if it is both kernels where one is needed, or an
    operator; `TypeError` if it is no array at all.
    """
    if isinstance(value, jax.Array):
        return value
    if is_both(value):
        raise ValueError(
            f"`{name}` is a `{type(value).__name__}`, both kernels: pass its `.ntk` or "
            f"`.nngp`.{hint}"
        )
    if isinstance(value, GramOperator):
        raise ValueError(
            f"`{name}` is a `GramOperator`, but a matrix is needed here: pass "
            f"`operator.backing.formed()`, if that fits into memory.{hint}"
        )
    if isinstance(value, AbstractLayer):
        raise TypeError(
            f"`{name}` is a network (`{type(value).__name__}`), but an array is "
            "needed. Pass its kernel, `eqtangents.nngp(net, x1, x2)` or "
            "`eqtangents.ntk`, or let `eqtangents.predict.FromNetwork` compute it."
            f"{hint}"
        )
    array = _converted(value, dtype)
    if array is None:
        raise TypeError(
            f"`{name}` is {described(value)}, but an array of numbers is needed.{hint}"
        )
    return array


def _converted(value: object, dtype: np.dtype | None) -> Array | None:
    """An array of numbers, if that can be made of it."""
    listed = isinstance(value, list | tuple | int | float | complex)
    if not listed and not callable(getattr(value, "__array__", None)):
        return None
    try:
        # Of NumPy's or another library's array, by its own conversion; lists may hold
        # arrays of JAX, whose values need not be known.
        return jnp.asarray(value if listed else np.asarray(value), dtype)
    except (TypeError, ValueError):
        return None


def real_array(
    name: str, value: object, dtype: np.dtype | None = None
) -> Float[Array, "..."]:
    """An array of finite numbers, of a floating-point type: the given one, if any.

    **Raises:** `TypeError` if it is no array of real numbers, `RuntimeError` if not all
    are finite.
    """
    array = of_floats(name, value, dtype)
    message = f"`{name}` holds NaN or infinity, but finite numbers are needed."
    return refuse(array, (not_finite(array), message))


def of_floats(name: str, value: object, dtype: np.dtype | None = None) -> Array:
    """An array of a floating-point type, of whatever values."""
    array = array_argument(name, value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array if dtype is None else array.astype(dtype)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"`{name}` is {array.dtype}, but an array of real numbers is needed."
        )
    return array.astype(jnp.result_type(float) if dtype is None else dtype)


def one_number(name: str, value: Scalar) -> Scalar:
    """A hyperparameter, which has no axes.

    **Raises:** `ValueError` if it has, `TypeError` for what is no number.
    """
    if isinstance(value, float | int):  # without JAX: constants are made at import
        return value
    array = array_argument(name, value, hint=" One number is meant here.")
    if array.ndim:
        raise ValueError(
            f"`{name}` has shape {array.shape}, but it is one number: a Python number, "
            "or an array without axes."
        )
    return array


def number(
    name: str, value: Scalar, at_least: float = 0.0, at_most: float = math.inf
) -> Scalar:
    """A hyperparameter: one number, finite and in a range.

    **Raises:** as `one_number`; `RuntimeError` for a value out of range.
    """
    return in_range(name, one_number(name, value), at_least, at_most)


def in_range(
    name: str, value: T, at_least: float = 0.0, at_most: float = math.inf
) -> T:
    """The same numbers, if all are finite and in the range."""
    bounded = math.isfinite(at_most)
    needed = (
        f"from {at_least:g} to {at_most:g}" if bounded else f"at least {at_least:g}"
    )
    if isinstance(value, float | int):
        if not (math.isfinite(value) and at_least <= value <= at_most):
            raise RuntimeError(
                f"`{name}` is {value!r}: it must be finite and {needed}."
            )
        return value
    array = jnp.asarray(value, float)
    wrong = ~jnp.isfinite(array) | (array < at_least) | (array > at_most)
    return refuse(value, (jnp.any(wrong), f"`{name}` must be finite and {needed}."))


def finite(name: str, value: Array, message: str = _NONFINITE) -> Array:
    """The same array, if all of it is finite."""
    return refuse(value, (not_finite(value), message.format(name=name)))


def checked_times(t: Times, dtype: np.dtype, name: str = "t") -> Float[Array, "..."]:
    """Times of training, from 0 to infinity, in the dtype of the kernel."""
    array = array_argument(name, t, dtype, hint=" The time comes first.").astype(dtype)
    return refuse(array, (~jnp.all(array >= 0), _NO_TIME.format(name=name)))


def increasing_times(
    t: Times, dtype: np.dtype, start: Float[Array, ""]
) -> Float[Array, "..."]:
    """Finite times of training that increase from its start on."""
    array = array_argument("t", t, dtype).astype(dtype)
    steps = jnp.diff(jnp.ravel(array), prepend=start[None])
    wrong = ~jnp.all((steps >= 0) & jnp.isfinite(steps))
    return refuse(array, (wrong, _NOT_INCREASING))


def check_function(name: str, value: object, wanted: str) -> None:
    """Raise unless it can be called."""
    if not callable(value) or isinstance(value, AbstractLayer | type):
        raise TypeError(f"`{name}` is {described(value)}, but {wanted} is needed.")
