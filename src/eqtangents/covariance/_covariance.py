"""What a covariance is: facts, and a rule that gives blocks of it to whoever asks."""

import abc
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from jaxtyping import Array, Float

from eqtangents.covariance._block import BlockRule
from eqtangents.covariance._outline import Outline


if TYPE_CHECKING:
    from eqtangents.covariance._frame import Frame


# Which entries of what it is computed from a covariance asks for: those that it is
# asked for itself, all displacements for a table, or others.
Asks: TypeAlias = Literal["alike", "everywhere", "otherwise"]


class AbstractCovariance(abc.ABC):
    """Covariances of one layer's outputs, evaluated when a consumer asks for them.

    Branches share what they come from, so that covariances form a graph. They are
    compared by identity and are no pytrees, which would unfold the graph to a tree.
    """

    outline: Outline
    # What it is computed from, and how far apart positions are there which are next to
    # each other here.
    above: tuple["AbstractCovariance", ...] = ()
    stride: tuple[int, ...] = ()
    # What it asks for where positions of a pair differ, and where they coincide.
    asks: Asks = "alike"
    asks_coinciding: Asks = "alike"
    # Whether it computes tables of what it is computed from, whatever it is asked for.
    tabulates: bool = False
    # The values themselves, known for the network's inputs alone; whether no entry is
    # below zero; whether blocks are in buffers, or follow from these in an operation or
    # two; of how many layers it stands for. Rules could pass on facts of an outline by
    # mistake.
    examples: Float[Array, "n channels *size"] | None = None
    nonnegative: bool = False
    in_buffers: bool = False
    layers: int = 1
    # Whether the rule may give more than zero where an example has no position.
    nonzero_where_masked: ClassVar[bool] = False

    @property
    def upstream(self) -> "AbstractCovariance":
        """What it is computed from, the first if there are several."""
        return self.above[0]

    def asks_where(self, *, coinciding: bool) -> Asks:
        """Which entries it asks for where positions coincide, or where they differ."""
        if not any(one.outline.rank for one in (self, *self.above)):
            return "alike"
        return self.asks_coinciding if coinciding else self.asks

    @abc.abstractmethod
    def bind(self, frame: "Frame") -> BlockRule:
        """The rule for the entries of `frame`; called by it once, `Frame.bind`.

        It must hold no arrays that depend on examples, except for those registered with
        the frame: a `Repeat` runs it at every depth.
        """
