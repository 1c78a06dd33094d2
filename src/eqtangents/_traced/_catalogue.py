"""What functions of JAX compute, and the layers that they are."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eqtangents import nn
from eqtangents._jaxpr import jaxpr_and_consts
from eqtangents._traced._builder import Builder
from eqtangents._traced._expressions import Hole, fingerprint
from eqtangents._traced._layout import Layout
from eqtangents._traced._parameters import Parameters
from eqtangents._traced._values import Node, RandomValue
from eqtangents._traced._walk import Walk
from eqtangents.nn._known import LAYER_OF_FUNCTION


_FURTHER: list[tuple[Callable, nn.AbstractLayer]] = [
    (lambda x: jax.nn.gelu(x, approximate=False), nn.Gelu()),
    (lambda x: jnp.maximum(x, 0), nn.Relu()),
    (lambda x: jnp.maximum(0, x), nn.Relu()),
    (lambda x: x * x, nn.Monomial(2)),
    (lambda x: x**2, nn.Monomial(2)),
    (lambda x: x**3, nn.Monomial(3)),
    (lambda x: x * jax.nn.sigmoid(x), nn.Silu()),
]


def layers_by_fingerprint() -> dict[Any, nn.AbstractLayer]:
    """The layers of functions of JAX, by what these compute in JAX's precision."""
    return _layers_of_functions(jnp.zeros(()).dtype.name)


@functools.cache
def _layers_of_functions(dtype: str) -> dict[Any, nn.AbstractLayer]:
    found: dict[Any, nn.AbstractLayer] = {}
    shape = (2, 3)
    for function, layer in [*LAYER_OF_FUNCTION.items(), *_FURTHER]:
        program = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, dtype))
        parameters = Parameters([], None, None, nn.Standard())
        builder = Builder([Hole(shape)], parameters, {})
        signal = RandomValue.of(Node(None, (), shape, ""), Layout.first(shape))
        (out,) = Walk(builder, function).run(*jaxpr_and_consts(program), [signal])
        found.setdefault(fingerprint(builder.expression(out)), layer)
    return found
