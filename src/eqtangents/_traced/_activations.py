"""Which layer a function of each entry is."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents import nn
from eqtangents._equinox._functions import lift_entrywise
from eqtangents._jaxpr import bind_as
from eqtangents._traced._expressions import (
    AppliedEquation,
    Expression,
    Hole,
    fingerprint,
    reads,
    value_of_expression,
)


def activation(
    expression: Expression, known: Mapping[Any, nn.AbstractLayer]
) -> nn.AbstractLayer:
    """The layer of an expression that maps each entry of an array by itself.

    `known`: layers, by the fingerprints of what they compute.
    """
    mark = fingerprint(expression)
    if mark in known:
        return known[mark]
    (hole,) = reads(expression)
    return _layer_of(FunctionOfEntries(expression, hole))


@functools.lru_cache(256)
def _layer_of(function: "FunctionOfEntries") -> nn.AbstractLayer:
    return lift_entrywise(function)


class FunctionOfEntries:
    """An expression for arrays of one shape, as a function of arrays of any shape."""

    def __init__(self, expression: Expression, hole: Hole):
        """Keep the expression."""
        self._expression, self._hole = expression, hole
        self._mark = fingerprint(expression)
        self.__name__ = "function"

    def __eq__(self, other: object) -> bool:
        """Whether both are the same function."""
        return isinstance(other, FunctionOfEntries) and self._mark == other._mark

    def __hash__(self) -> int:
        """By what it computes."""
        return hash(self._mark)

    def __repr__(self) -> str:
        """The primitives that it applies."""
        return f"<{' '.join(primitives_of(self._expression))}>"

    def __call__(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Evaluate, in as many arrays of the known shape as are needed.

        It is as precise as its argument, whatever it was traced for.
        """
        shape = self._hole.shape
        apply = lambda eqn, args: bind_as(x.dtype, eqn, *args)
        whole = lambda x: value_of_expression(self._expression, {self._hole: x}, apply)
        if x.size == math.prod(shape):
            return whole(x.reshape(shape)).reshape(x.shape)
        size = math.prod(shape)
        count = -(-x.size // size)
        flat = jnp.pad(x.reshape(-1), (0, count * size - x.size), constant_values=0.5)
        out = jax.vmap(whole)(flat.reshape(count, *shape))
        return out.reshape(-1)[: x.size].reshape(x.shape)


def primitives_of(expression: Any) -> list[str]:
    """The names of the primitives of an expression, in the order they are applied."""
    names: list[str] = []
    seen: set[int] = set()

    def visit(node: Any) -> None:
        if not isinstance(node, Expression) or isinstance(node, Hole):
            return
        if id(node) in seen:
            return
        seen.add(id(node))
        for arg in node.args:
            visit(arg)
        applied = isinstance(node, AppliedEquation)
        names.append(node.eqn.primitive.name if applied else str(node.name[0]))

    visit(expression)
    return names
