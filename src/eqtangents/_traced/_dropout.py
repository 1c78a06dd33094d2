"""Dropout, which is marked in the program that a model is traced to."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from jax.extend import core
from jaxtyping import Array, PRNGKeyArray

from eqtangents import nn
from eqtangents._traced._builder import Builder
from eqtangents._traced._rules import reading
from eqtangents._traced._values import RandomValue, Scores, Unreadable, as_number


def eqtangents_dropout(x: Array, p: Any) -> Array:
    """A program with a name: what it computes is never run."""
    return x * p


_mark = jax.jit(eqtangents_dropout)


class MarkedDropout(eqx.nn.Dropout):
    """Dropout that is seen while a model is traced, and needs no key."""

    def __call__(
        self,
        x: Array,
        *,
        key: PRNGKeyArray | None = None,
        inference: bool | None = None,
        deterministic: bool | None = None,
    ) -> Array:
        """Mark the input, unless nothing is dropped."""
        off = self.inference if inference is None else inference
        if off or not self.p:
            return x
        return _mark(x, self.p)


def with_marked_dropout(model: Any) -> Any:
    """The model with its dropout marked."""
    is_dropout = lambda node: type(node) is eqx.nn.Dropout
    swap = lambda node: (
        MarkedDropout(node.p, node.inference) if is_dropout(node) else node
    )
    return jax.tree.map(swap, model, is_leaf=is_dropout)


@reading("eqtangents_dropout")
def _dropped(builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    signal, p = args
    rate = as_number(p)
    assert rate is not None, "a rate is a number of Python"
    if not rate:
        return [signal]
    if isinstance(signal, Scores):
        raise Unreadable(
            "drops weights of attention, which are then random. Drop what layers give."
        )
    if not isinstance(signal, RandomValue):
        raise Unreadable("drops values of the network's input. Drop them later.")
    signal = builder.settled(signal)
    node = builder.node(signal)
    made = builder.add(nn.Dropout(round(rate, 7)), [node], node.shape)
    return [RandomValue.of(made, signal.layout)]
