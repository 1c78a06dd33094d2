"""What every covariance tells about itself, and how one is evaluated."""

import abc
import dataclasses
import itertools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from eqtangents.covariance._frame import Block, BlockRule, Frame, Registry, Scope
from eqtangents.covariance._lattice import displacements


# Entries of a block: large enough to outweigh the cost of starting an operation, small
# enough that the few blocks alive at a time stay in the second-level caches.
BLOCK_BYTES = 2**18


_names = itertools.count()


def new_source() -> frozenset[int]:
    """A name for weights or inputs that nothing else comes from."""
    return frozenset([next(_names)])


@dataclasses.dataclass(frozen=True, eq=False)
class Outline:
    """The facts of a covariance, passed on from layer to layer.

    `size`: the positions of the layer's output. `canvas`: the smallest canvas it can be
    asked for on; the only one along axes of a `fixed_canvas`, which are periodic.
    `channels`: the finite width.
    `gaussian`: whether channels are independent and identical Gaussians.
    `sources`: the weights and inputs that a channel's values come from, directly or by
    functions of single channels; outputs without common ones are independent.
    `centred`: whether their mean over these weights is zero. `trainable`: whether there
    are any weights, so that blocks have a tangent kernel where one is wanted.
    `exchangeable`: whether channels are infinitely many and alike.
    `has_trained_gains`: whether a normalisation with trained gains acts since the last
    weights. The gradient in a gain is the channel itself, so that the next nonlinearity
    must not treat that part of the tangent kernel as independent of its input.
    `vanishing`: whether some outputs vanish in the limit, as those of a readout in the
    maximal-update parameterisation, so that no nonlinearity or weights may follow.
    `diagonal`: whether different positions are known to be uncorrelated. `mask`: the
    positions that each example has, where not all have all; the others count as zero.
    `graph`: what connects the positions of each example, if anything does.
    """

    size: tuple[int, ...]
    canvas: tuple[int, ...]
    fixed_canvas: tuple[bool, ...]
    channels: int
    gaussian: bool
    sources: frozenset[int]
    centred: bool
    trainable: bool
    exchangeable: bool = False
    has_trained_gains: bool = False
    vanishing: bool = False
    diagonal: bool = False
    mask: Bool[Array, "n *size"] | None = None
    graph: PyTree[Array] = None

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.size)

    def replace(self, **changes: Any) -> "Outline":
        """A copy with some facts changed."""
        return dataclasses.replace(self, **changes)


class AbstractCovariance(abc.ABC):
    """Covariances of one layer's outputs, evaluated when a consumer asks for them.

    Branches share what they come from, so that covariances form a graph. They are
    compared by identity and are no pytrees, which would unfold the graph to a tree.
    """

    outline: Outline
    # Whether the rule may give more than zero where an example has no position.
    nonzero_where_masked: ClassVar[bool] = False

    @abc.abstractmethod
    def bind(self, frame: Frame) -> BlockRule:
        """The rule for the entries of `frame`; called by it once, `Frame.bind`.

        The rule must hold no arrays that depend on examples, except for those it
        registered with the frame: a `Repeat` runs it at every depth.
        """


class Sweep:
    """A loop over displacements of one covariance, on one canvas."""

    def __init__(
        self,
        scope: Scope,
        node: AbstractCovariance,
        canvas: tuple[int, ...],
        *,
        same: bool,
        reach: tuple[int, ...] | None = None,
    ):
        """Bind the rule of `node`, and so compute all that no displacement changes.

        Displacements are those of at most `reach` along each axis, or all of them.
        """
        self.canvas, self.reach = canvas, canvas if reach is None else reach
        self.frame = Frame(
            scope, Registry(), same, canvas, self.reach, (1,) * len(canvas)
        )
        self.rule = self.frame.bind(node)
        self.pairs = scope.pairs(same)

    def batches(self) -> Int[Array, "batches batch rank"]:
        """The displacements, split into equal batches that fill a block."""
        return self._split(jnp.asarray(displacements(self.canvas, self.reach)))

    def _split(
        self, displacements: Int[Array, "n rank"]
    ) -> Int[Array, "batches batch rank"]:
        entries = math.prod((*self.pairs, *self.canvas))
        count, rank = displacements.shape
        itemsize = self.frame.scope.dtype.itemsize
        most = max(1, min(count, BLOCK_BYTES // (entries * itemsize)))
        batch = max(b for b in range(1, most + 1) if count % b == 0)
        return displacements.reshape(-1, batch, rank)

    def batch(self, displacements: Int[Array, "n rank"]) -> Block:
        """The blocks of a batch, recomputed when differentiated."""
        return jax.checkpoint(lambda ds: self.frame.registry.blocks(self.rule, ds))(
            displacements
        )

    def blocks(self, displacements: Int[Array, "n rank"]) -> Block:
        """The blocks at any number of displacements, a batch after the other."""
        batches = self._split(displacements)
        if batches.shape[0] == 1:
            return self.batch(displacements)
        blocks = lax.map(self.batch, batches)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), blocks)


def tabulate(
    scope: Scope, node: AbstractCovariance, canvas: tuple[int, ...], *, same: bool
) -> Block:
    """The blocks at every displacement of a canvas, `(*canvas, *pairs, *canvas)`."""

    def build() -> Block:
        sweep = Sweep(scope, node, canvas, same=same)
        stacked = lax.map(sweep.batch, sweep.batches())
        return jax.tree.map(lambda leaf: leaf.reshape(canvas + leaf.shape[2:]), stacked)

    return scope.once(("table", id(node), canvas, same), node, build)
