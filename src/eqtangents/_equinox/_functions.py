"""Functions, told by their values."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from eqtangents import nn
from eqtangents.nn._layer import LayerError


# Where functions are compared: near and far from zero, on both sides.
_SIZES = np.geomspace(0.01, 30, 20)
_POINTS = np.concatenate([-_SIZES[::-1], _SIZES])
_SHAPES = ((8,), (2, 5, 4))


def lift_function(fn: Callable) -> nn.AbstractLayer:
    """The layer that a function is, told by its values.

    A function that is known, by its values and derivatives, is its layer with a closed
    form; any other that is elementwise has a Hermite expansion.
    """
    if _agree(fn, jnp.ravel):
        return nn.Flatten()
    both = _with_derivative(fn)
    if not _agree(both, _one_by_one(both)):
        raise LayerError(
            fn,
            f"`{_name(fn)}` is no layer that has a counterpart, nor a function that "
            "flattens its input or is elementwise, with derivatives by `jax.jvp`. Put "
            "a layer of `eqtangents.nn` in its place, which may stand in an "
            "`equinox.nn.Sequential`: a `Residual`, say, or `GlobalAvgPool`.",
        )
    signature = _signature(fn)
    below, above = signature[1, 0], signature[1, -1]
    slopes = np.where(_POINTS < 0, below, above)
    if _close(signature, np.stack([slopes * _POINTS, slopes])):
        return _bent(float(below), float(above))
    for layer, known in _known_layers():
        if _close(signature, known):
            return layer
    try:
        return nn.Elementwise(fn)
    except ValueError as error:
        raise LayerError(
            fn,
            f"`{_name(fn)}` is elementwise, but hard to expand. {error} Such an "
            "`eqtangents.nn.Elementwise` may stand in an `equinox.nn.Sequential`.",
        ) from None


def _name(fn: Callable) -> str:
    return getattr(fn, "__name__", repr(fn))


def _bent(below: float, above: float) -> nn.AbstractLayer:
    if below == above == 1:
        return nn.Identity()
    return nn.Relu() if (below, above) == (0, 1) else nn.ABRelu(below, above)


def _agree(fn: Callable, reference: Callable) -> bool:
    """Whether two functions of arrays are the same, on arrays of several shapes."""
    for shape in _SHAPES:
        x = np.resize(_POINTS, shape)
        try:
            value, expected = _evaluated(fn, x), _evaluated(reference, x)
        except Exception:  # whatever a function may raise for shapes it is not for
            return False
        if value.shape != expected.shape or not _close(value, expected):
            return False
    return True


def _with_derivative(fn: Callable) -> Callable:
    """Maps an array to values and derivatives along a new last axis."""
    return lambda x: jnp.stack(jax.jvp(fn, (x,), (jnp.ones_like(x),)), -1)


def _one_by_one(fn: Callable) -> Callable:
    """A function of arrays by what it does to numbers."""
    return lambda x: jax.vmap(fn)(x.ravel()).reshape(*x.shape, -1)


def _signature(fn: Callable) -> Float[np.ndarray, "2 points"]:
    """Values and derivatives of an elementwise function."""
    return _evaluated(_with_derivative(fn), _POINTS).T


@functools.cache
def _known_layers() -> list[tuple[nn.AbstractActivation, np.ndarray]]:
    """Layers for functions without parameters, and their signatures."""
    layers = [
        nn.Gelu(),
        nn.Gelu(approximate=True),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.Silu(),
        nn.Softplus(),
        nn.Elu(),
        nn.Selu(),
        nn.Erf(),
        nn.Sin(),
        nn.Cos(),
        nn.Exp(),
        nn.Sign(),
        nn.Monomial(2),
        nn.Monomial(3),
        nn.RectifiedMonomial(2),
    ]
    return [(layer, _signature(layer.function)) for layer in layers]


def _evaluated(fn: Callable, x: Float[np.ndarray, "..."]) -> np.ndarray:
    with jax.ensure_compile_time_eval():  # also while something else is traced
        return np.asarray(fn(jnp.asarray(x, float)))


def _close(value: np.ndarray, expected: np.ndarray) -> bool:
    """Whether numbers are the same, but for rounding."""
    return np.allclose(value, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
