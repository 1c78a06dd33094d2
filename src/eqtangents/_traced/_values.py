"""What the values of a program are to a network of infinite width."""

import dataclasses
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from eqtangents import nn
from eqtangents._traced._expressions import (
    AppliedEquation,
    AppliedFunction,
    Expression,
    Hole,
)
from eqtangents._traced._layout import AxisFactors, Layout
from eqtangents.nn._layer import LayerError
from eqtangents.nn._wiring import WHAT_WORKS


@dataclasses.dataclass(frozen=True, eq=False)
class Parameter:
    """Entries of an array of parameters, in any order, times a number.

    `numbers` says which entry of leaf number `leaf` stands where.
    """

    leaf: int
    numbers: Int[np.ndarray, "..."]
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numbers.shape


@dataclasses.dataclass(eq=False)
class Node:
    """A layer of the network and the nodes that it reads; an input has no layer.

    `holds` are the parameters that it has been given. `apart` is the same layer without
    its last parameters and a node of these, whose sum it is: they stand in its place if
    the network reads the layer without them, too.
    """

    layer: nn.AbstractLayer | None
    reads: tuple["Node", ...]
    shape: tuple[int, ...]
    line: str
    holds: tuple[Parameter, ...] = ()
    apart: tuple["Node", ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class InputFunction:
    """A function of the network's inputs alone."""

    expression: Expression

    @property
    def shape(self) -> tuple[int, ...]:
        return self.expression.shape


@dataclasses.dataclass(frozen=True, eq=False)
class RandomValue:
    """A sum of outputs of layers with factors, as some array shows it.

    Or, with an `expression`, a function of each entry of one output.
    """

    layout: Layout
    terms: Mapping[Node, float]
    expression: AppliedEquation | AppliedFunction | Hole | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @classmethod
    def of(cls, node: Node, layout: Layout) -> "RandomValue":
        """The output of a layer."""
        return cls(layout, types.MappingProxyType({node: 1.0}))


@dataclasses.dataclass(frozen=True, eq=False)
class Statistic:
    """A function of one output that mixes its channels, as their mean does.

    With infinitely many channels it is not random. `layout`: of the array that it was
    last combined with. `gains`: parameters that it has been multiplied by, at their
    common initial value. `as_signal`: what it is if it belongs to no normalisation: a
    sum over channels, or what was made of one; raises `Unreadable` for anything else.
    """

    node: Node
    expression: Expression
    layout: Layout | None
    line: str
    as_signal: Callable[[], RandomValue]
    gains: tuple[tuple[Parameter, float], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.expression.shape


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Products of queries and keys over channels, or what has been computed of them.

    `ends`: the two factors with their positions in a row, and these. `heads`: how many
    axes of heads there are, none or one; `channels`: how many each head sums over.
    """

    ends: Sequence[tuple[Node, AxisFactors]]
    heads: int
    channels: int
    hole: Hole
    expression: Expression
    line: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.expression.shape

    def continued(self, expression: Expression) -> "Scores":
        """A function of the same products."""
        return dataclasses.replace(self, expression=expression)


ReadValue = InputFunction | Parameter | RandomValue | Statistic | Scores


class Unreadable(Exception):
    """A program does what no layer is known for; the walk adds where."""


def refusal(model: Any, what: str, line: str) -> LayerError:
    """The error for a line of a model, with what works all the same."""
    return LayerError(model, f"{what} {WHAT_WORKS}", line)


def with_line(error: LayerError, line: str) -> LayerError:
    """The error of a layer that stands for a line, with what works all the same."""
    told = "empirical_ntk" in error.message
    message = error.message if told else f"{error.message} {WHAT_WORKS}"
    return LayerError(error.layer, message, error.path or line)


def sum_key(terms: Mapping[Node, float]) -> Hashable:
    """The same for equal sums."""
    return "sum", frozenset(terms.items())


def shares_of(terms: Mapping[Node, float]) -> tuple[Hashable, float]:
    """What a sum and its multiples have in common, and how large it is."""
    size = terms[min(terms, key=id)]
    shares = frozenset((n, float(f"{c / size:.12g}")) for n, c in terms.items())
    return ("shares", shares), size


def as_number(value: Any) -> float | None:
    """The one number that all entries of a constant are."""
    try:
        array = np.asarray(value, float)
    except Exception:  # traced, or no number
        return None
    if array.size and (array == array.flat[0]).all():
        return float(array.flat[0])
    return None
