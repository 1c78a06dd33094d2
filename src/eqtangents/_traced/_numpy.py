"""Equations evaluated in NumPy, at once: JAX would compile each for a single use."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from eqtangents._jaxpr import Environment, bind, dtype_of, jaxpr_and_consts
from eqtangents._types import is_concrete


_BY_NAME: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "add_any": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
    "max": np.maximum,
    "min": np.minimum,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "exp": np.exp,
    "log": np.log,
    "sin": np.sin,
    "cos": np.cos,
    "square": np.square,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
    "copy": lambda x: x,
    "copy_p": lambda x: x,
    "stop_gradient": lambda x: x,
}


def _broadcast_array(
    x: np.ndarray,
    *,
    shape: Sequence[Any],
    broadcast_dimensions: Sequence[Any],
    **_: Any,
) -> np.ndarray:
    sizes = [1] * len(shape)
    for axis, place in enumerate(broadcast_dimensions):
        sizes[place] = x.shape[axis]
    return np.broadcast_to(x.reshape(sizes), tuple(shape))


def _sliced_array(
    x: np.ndarray, *, start_indices: Any, limit_indices: Any, strides: Any, **_: Any
) -> np.ndarray:
    strides = strides or (1,) * x.ndim
    return x[tuple(map(slice, start_indices, limit_indices, strides))]


def _float_quotient(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    real = np.issubdtype(np.asarray(x).dtype, np.floating)
    return x / y if real else None


_WITH_OPTIONS: dict[str, Callable[..., Any]] = {
    "transpose": lambda x, *, permutation, **_: x.transpose(permutation),
    "reshape": lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    "squeeze": lambda x, *, dimensions, **_: x.squeeze(tuple(map(int, dimensions))),
    "rev": lambda x, *, dimensions, **_: np.flip(x, tuple(map(int, dimensions))),
    "broadcast_in_dim": _broadcast_array,
    "slice": _sliced_array,
    "reduce_sum": lambda x, *, axes, **_: x.sum(tuple(map(int, axes))),
    "reduce_max": lambda x, *, axes, **_: x.max(tuple(map(int, axes))),
    "integer_pow": lambda x, *, y, **_: np.power(x, y) if y >= 0 else None,
    "div": lambda x, y, **_: _float_quotient(x, y),
    "iota": lambda *, dtype, shape, dimension, **_: _iota(dtype, shape, dimension),
}


def _iota(dtype: Any, shape: Sequence[Any], dimension: int) -> np.ndarray:
    sizes = [1] * len(shape)
    sizes[dimension] = shape[dimension]
    line = np.arange(shape[dimension], dtype=dtype).reshape(sizes)
    return np.broadcast_to(line, tuple(shape))


def in_numpy(eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any] | None:
    """The results of an equation, in the types of its arguments.

    **Returns:** `None` if its primitive is none of the usual ones, or if a value is not
    known.
    """
    name = eqn.primitive.name
    if name == "jit" and all(_is_plain(arg) for arg in args):
        return _program_in_numpy(eqn, args)
    if name not in _BY_NAME and name not in _WITH_OPTIONS:
        if name not in ("convert_element_type", "select_n"):
            return None
    if not all(_is_plain(arg) for arg in args):
        return None
    args = [np.asarray(arg) for arg in args]
    with np.errstate(all="ignore"):
        out = _one_in_numpy(eqn, name, args)
    return None if out is None else [out]


def _one_in_numpy(eqn: core.JaxprEqn, name: str, args: list[np.ndarray]) -> Any:
    if name == "select_n":
        which, *cases = args
        if len(cases) != 2:
            return None
        return np.where(which.astype(bool), cases[1], cases[0])
    if name == "convert_element_type":
        dtype = eqn.params["new_dtype"]
        exact = np.issubdtype(dtype, np.floating) and args[0].dtype == np.float64
        if not isinstance(dtype, np.dtype):
            return None
        return args[0] if exact else args[0].astype(dtype)
    if name in _BY_NAME:
        return _BY_NAME[name](*args)
    return _WITH_OPTIONS[name](*args, **eqn.params)


def _is_plain(value: Any) -> bool:
    """Whether this is known, and no array that JAX holds elsewhere."""
    if isinstance(value, np.ndarray | np.generic | int | float | bool):
        return not isinstance(value, np.ndarray) or value.dtype != object
    kind = getattr(value, "dtype", None)
    return isinstance(kind, np.dtype) and is_concrete(value)


def _program_in_numpy(eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any] | None:
    jaxpr, consts = jaxpr_and_consts(eqn.params["jaxpr"])
    env, literal = Environment(jaxpr, consts, args), lambda value: value
    for inner in jaxpr.eqns:
        found = in_numpy(inner, env.read(inner.invars, literal))
        if found is None:
            return None
        env.write(inner.outvars, found)
    return env.read(jaxpr.outvars, literal)


def result_values(eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """The results of an equation whose arguments are known, or traced elsewhere."""
    found = in_numpy(eqn, args)
    if found is not None:
        types = [dtype_of(atom) for atom in eqn.outvars]
        return [np.asarray(one, dtype) for one, dtype in zip(found, types, strict=True)]
    with jax.ensure_compile_time_eval():
        return bind(eqn, *args)
