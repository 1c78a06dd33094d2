"""The layers for functions, which are recognised by identity or by their values."""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from eqtangents import nn
from eqtangents._at_once import computed_at_once
from eqtangents.duals._sampled import SampledFunction
from eqtangents.nn._known import known_activation
from eqtangents.nn._layer import LayerError


# Where functions are compared: near and far from zero, on both sides.
_SIZES = np.geomspace(0.01, 30, 20)
_POINTS = np.concatenate([-_SIZES[::-1], _SIZES])
_TEST_SHAPES = ((8,), (2, 5, 4))
_WITH_POSITIONS = ((2, 20), (2, 5, 4), (2, 5, 2, 2))


def lift_function(fn: Callable) -> nn.AbstractLayer:
    """The layer that a function is.

    A function that is known, by itself or by its values and derivatives, is its layer
    with a closed form; any other that is elementwise has one as far as possible, else a
    Hermite expansion.
    """
    if layer := known_activation(fn):
        return layer
    if fn is jnp.ravel:
        return nn.Flatten()
    if fn is jnp.negative:
        return nn.Scale(-1.0)
    values = [_evaluated(fn, shape) for shape in _TEST_SHAPES]
    if all(
        _close(value, _test_inputs(s).ravel())
        for s, value in zip(_TEST_SHAPES, values, strict=True)
    ):
        return nn.Flatten()
    signature = _signature(fn)
    if signature is None or not all(
        _close(value, np.resize(signature[0], shape))
        for shape, value in zip(_TEST_SHAPES, values, strict=True)
    ):
        return _lift_mean(fn)
    return _lift_elementwise(fn, signature)


def lift_entrywise(fn: Callable) -> nn.AbstractLayer:
    """The layer of a function that is known to map each entry by itself."""
    signature = _signature(fn)
    if signature is None:
        raise LayerError(
            fn,
            f"`{name_of(fn)}` has no derivatives by `jax.jvp`, as functions with a "
            "`jax.custom_vjp` have none. Define the derivative forwards, by "
            "`jax.custom_jvp`, or use the function without one of its own.",
        )
    return _lift_elementwise(fn, signature)


def _lift_elementwise(
    fn: Callable, signature: Float[np.ndarray, "2 points"]
) -> nn.AbstractLayer:
    below, above = signature[1, 0], signature[1, -1]
    slopes = np.where(_POINTS < 0, below, above)
    if _close(signature, np.stack([slopes * _POINTS, slopes])):
        return _line_or_two_slopes(float(below), float(above))
    for layer, known in _known_layers():
        if _close(signature, known):
            return layer
    try:
        return nn.Elementwise(fn)
    except ValueError as error:
        raise LayerError(
            fn,
            f"`{name_of(fn)}` is elementwise, but hard to expand. {error} Such a layer "
            "of `eqtangents.nn` may stand in an `equinox.nn.Sequential` that is read "
            "without an example.",
        ) from None


def _lift_mean(fn: Callable) -> nn.GlobalAvgPool:
    """A function that is not elementwise, as the mean over all positions."""
    for shape in _WITH_POSITIONS:
        value = _evaluated(fn, shape)
        if value is not None and value.shape == shape[:1]:
            # At more positional axes it may be another function.
            if _close(value, _mean_over_positions(_test_inputs(shape))):
                return nn.GlobalAvgPool()
            break
    if isinstance(fn, eqx.Module):
        raise LayerError(
            fn,
            f"`{name_of(fn)}` has a `__call__` of its own, which is read if an example "
            "of the model's input is given, `eqt.from_equinox(model, x[0])`. Without "
            "one, only the layers of `equinox.nn` that `from_equinox` names are, and "
            f"functions that are elementwise. {_INSTEAD}",
        )
    raise LayerError(
        fn,
        f"`{name_of(fn)}` is no layer that has a counterpart, nor a function that "
        "flattens its input, takes the mean over all positions, or is elementwise, "
        f"with derivatives by `jax.jvp`. {_INSTEAD}",
    )


_INSTEAD = (
    "Put a layer of `eqtangents.nn` in its place, which may stand in an "
    "`equinox.nn.Sequential`: a `Residual`, say, or `GlobalAvgPool`. Kernels of the "
    "model as it is: `eqtangents.empirical_ntk`, and `eqtangents.monte_carlo`, the "
    "mean over draws of its parameters."
)


def is_mean(fn: Callable, positional_axes: int) -> bool:
    """Whether a function is the mean over all positions, at so many axes of them."""
    shape = (2, *(3,) * positional_axes)
    return _close(_evaluated(fn, shape), _mean_over_positions(_test_inputs(shape)))


def _mean_over_positions(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, " channels"]:
    return x.mean(tuple(range(1, x.ndim)))


def name_of(fn: Callable | eqx.Module) -> str:
    """What to call a function, in a line."""
    return getattr(fn, "__name__", type(fn).__name__)


def _line_or_two_slopes(below: float, above: float) -> nn.AbstractLayer:
    if below == above:
        return nn.Identity() if above == 1 else nn.Scale(above)
    return nn.Relu() if (below, above) == (0, 1) else nn.ABRelu(below, above)


def _test_inputs(shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    return np.resize(_POINTS, shape)


def _evaluated(fn: Callable, shape: tuple[int, ...]) -> np.ndarray | None:
    """At some points in an array of a shape, unless the function does not take that."""
    compiled = jax.jit(lambda x: fn(x))  # which may be a module of arrays
    try:
        with computed_at_once():  # also while something else is traced
            return np.asarray(compiled(jnp.asarray(_test_inputs(shape), float)), float)
    except Exception:  # whatever a function may raise for shapes it is not for
        return None


def _signature(fn: Callable) -> Float[np.ndarray, "2 points"] | None:
    """Values and derivatives of an elementwise function."""
    try:
        signature = np.stack(SampledFunction(fn)(_POINTS))
    except Exception:  # whatever a function of other arrays may raise
        return None
    return signature


@functools.cache
def _known_layers() -> list[tuple[nn.AbstractLayer, np.ndarray]]:
    """Layers for functions without parameters, and their signatures."""
    # A step so small that the derivative, by the imaginary part, is exact.
    turned = _POINTS + 1e-30j
    layers = [
        (layer, np.stack([np.real(value), np.imag(value) * 1e30]))
        for layer, value in (
            (nn.Gelu(approximate=True), _gelu_of_complex(turned)),
            (nn.Tanh(), np.tanh(turned)),
            (nn.Sigmoid(), 1 / (1 + np.exp(-turned))),
            (nn.Silu(), turned / (1 + np.exp(-turned))),
            (nn.Softplus(), np.log(1 + np.exp(turned))),
            (nn.Elu(), _elu_of_complex(turned)),
            (
                nn.Selu(),
                1.0507009873554805 * _elu_of_complex(turned, 1.6732632423543772),
            ),
            (nn.Sin(), np.sin(turned)),
            (nn.Cos(), np.cos(turned)),
            (nn.Exp(), np.exp(turned)),
            (nn.Sign(), np.sign(_POINTS) + 0j),
            (nn.Monomial(2), turned**2),
            (nn.Monomial(3), turned**3),
            (nn.RectifiedMonomial(2), np.where(_POINTS > 0, turned**2, 0)),
        )
    ]
    erf = np.array([math.erf(x) for x in _POINTS])
    cdf = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in _POINTS])
    density = np.exp(-0.5 * _POINTS**2) / math.sqrt(2 * math.pi)
    bell = np.exp(-(_POINTS**2)) * 2 / math.sqrt(math.pi)
    return [
        *layers,
        (nn.Gelu(), np.stack([_POINTS * cdf, cdf + _POINTS * density])),
        (nn.Erf(), np.stack([erf, bell])),
    ]


def _gelu_of_complex(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _elu_of_complex(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    below = np.minimum(np.real(x), 0) + 1j * np.imag(x)
    return np.where(np.real(x) > 0, x, alpha * (np.exp(below) - 1))


def _close(value: np.ndarray | None, expected: np.ndarray) -> bool:
    """Whether arrays are the same, but for rounding."""
    if value is None or value.shape != expected.shape:
        return False
    return np.allclose(value, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
