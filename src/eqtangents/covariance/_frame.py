"""How covariances are asked for: blocks, frames, scopes.

A consumer asks a covariance for **blocks**: the entries of some pairs of examples at
one displacement of their positions. It does so in two stages. `Frame.bind` runs once,
outside the loop over displacements, and returns a rule; whatever the rule needs from
the variances of single examples is computed there and registered in the frame's
`Registry`. `Registry.blocks` runs once for each batch of displacements: it looks up all
that was registered at these, then lets the rules push the block through the layers.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from eqtangents._buffers import buffered
from eqtangents.covariance._block import Block, BlockRule, Content, Evaluation, Lookup
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._lattice import (
    doubled,
    ends,
    in_one_row,
    pad_to,
    paired,
    rolled,
    short_rows,
    where,
)
from eqtangents.covariance._order import first_to_last
from eqtangents.covariance._registry import Look, Memo, Registry


_SHORT_CHAIN = 16  # Of so many layers, rules may ask for one another.


class Scope:
    """One tile of examples: its sizes, and the memo of results for it."""

    integrates_gaps: ClassVar[bool] = False  # that duals do not tell; slow

    def __init__(
        self,
        n1: int,
        n2: int,
        zero: Float[Array, ""],
        *,
        wants_ntk: bool,
        identical: Bool[Array, "n1 n2"] | None = None,
        slot_variance: Float[Array, "n *size"] | None = None,
    ):
        """A tile with `n1` examples of one batch and `n2` of the other.

        `zero` has the type of the kernel. Inside of `jax.shard_map` it varies over all
        axes of the mesh that the kernel may vary over, and so do loops that begin with
        it. `identical` says which pairs are one example that passes through the network
        once; by default no pair is. `slot_variance`, at one depth of a `Repeat`, is the
        variance of its input.
        """
        self.n1, self.n2, self.wants_ntk = n1, n2, wants_ntk
        self.zero, self.dtype = zero, zero.dtype
        self.identical, self.slot_variance = identical, slot_variance
        # The frame that the layer of a `Repeat` is asked for in.
        self.asked_in: Frame | None = None
        self.memo = Memo()
        # What stands in for covariances that have been tabulated.
        self.stored: dict[AbstractCovariance, AbstractCovariance] = {}

    def variance(self, node: AbstractCovariance) -> Float[Array, "n *size"]:
        """`K(x, x)` at every position, for the examples of both batches in a row."""
        return self.coincident(node, self_pairs=True).nngp

    def coincident(self, node: AbstractCovariance, *, self_pairs: bool) -> Block:
        """The entries of a covariance whose two positions coincide, `(*pairs, *size)`.

        All such entries of one tile come from one run, so that none is computed twice.
        """

        def begin() -> tuple[Frame, Evaluation]:
            frame = self.frame(self_pairs=self_pairs)
            return frame, Evaluation(frame.registry.coincident())

        frame, at = self.memo.once(self, ("coincident", self_pairs), begin)
        return at(frame.bind_in_order(node))

    def frame(
        self,
        *,
        self_pairs: bool,
        canvas: tuple[int, ...] | None = None,
        reach: tuple[int, ...] = (),
    ) -> "Frame":
        """A frame for the consumer at the end of a chain of covariances."""
        scale = (1,) * len(reach)
        return Frame(self, Registry(), self_pairs, canvas, reach, scale)

    def fresh(self, slot_variance: Float[Array, "n *size"] | None = None) -> "Scope":
        """A scope of the same examples for which nothing else was computed."""
        facts = {"wants_ntk": self.wants_ntk, "identical": self.identical}
        sizes = self.n1, self.n2, self.zero
        return type(self)(*sizes, **facts, slot_variance=slot_variance)

    def pairs(self, self_pairs: bool) -> tuple[int, ...]:
        """The shape of the pairs of examples in a block."""
        return (self.n1 + self.n2,) if self_pairs else (self.n1, self.n2)


@dataclasses.dataclass(frozen=True)
class Frame:
    """Which entries of a covariance a consumer asks for.

    `self_pairs`: examples with themselves, or all of one batch with all of the other.
    `canvas`: how positions are stored, `None` where both coincide; then a block has the
    size of the covariance and no displacement. `reach`: the largest displacement that
    is asked for here, either way. `scale`: the displacement here is `scale` times the
    consumer's at the end of the chain.

    Where a frame is `joined`, its blocks have all positions of the canvas in one row.
    Rules that act on each entry do not notice. Others take them `apart`, and put what
    they give `together` again.
    """

    scope: Scope
    registry: Registry
    self_pairs: bool
    canvas: tuple[int, ...] | None
    reach: tuple[int, ...]
    scale: tuple[int, ...]

    @property
    def wants_ntk(self) -> bool:
        """Whether rules have to track the tangent kernel; variances need none."""
        return self.scope.wants_ntk and not self.self_pairs

    @property
    def pairs(self) -> tuple[int, ...]:
        """The shape of the pairs of examples in a block."""
        return self.scope.pairs(self.self_pairs)

    def bind(self, node: AbstractCovariance) -> BlockRule:
        """The rule of a node in this frame."""
        if self.canvas is not None:
            self.registry.widest = max(self.registry.widest, math.prod(self.canvas))
        node = self.of(node)
        rule = self.once(node, "rule", lambda: node.bind(self))
        mask = node.outline.mask
        if node.nonzero_where_masked and mask is not None:
            return self.once(rule, "masked", lambda: self._masked(rule, mask))
        return rule

    def bind_in_order(self, node: AbstractCovariance) -> BlockRule:
        """The rule of a node, bound and later run after those that it is computed from.

        These ask for one another; of a deep network they would exceed Python's stack.
        """

        def asked(by: tuple[Frame, AbstractCovariance]) -> list[Any]:
            return by[0].unbound(by[1])

        order = first_to_last((self, node), asked)
        for frame, one in order[_SHORT_CHAIN - 1 :: _SHORT_CHAIN]:
            self.registry.first.append(frame.bind(one))
        return self.bind(node)

    def unbound(
        self, node: AbstractCovariance
    ) -> list[tuple["Frame", AbstractCovariance]]:
        """What a node will ask for when it is bound here, and was not bound before."""
        node = self.of(node)
        if node.asks_where(coinciding=self.canvas is None) != "alike":
            return []
        here, bound = self.strided(node.stride), self.registry.memo.has
        entries = here._entries("rule")
        return [(here, o) for o in node.above if not bound(here.of(o), entries)]

    def of(self, node: AbstractCovariance) -> AbstractCovariance:
        """The node, or what stands in for it where it has been tabulated."""
        here = self.canvas is None or self.canvas == node.outline.canvas
        return self.scope.stored.get(node, node) if here else node

    def once(self, owner: Any, key: str, build: Callable[[], Content]) -> Content:
        """`build()` the first time that it is asked for in this frame."""
        return self.registry.memo.once(owner, self._entries(key), build)

    def _entries(self, key: str) -> Hashable:
        return key, self.self_pairs, self.canvas, self.scale

    def _masked(self, rule: BlockRule, mask: Bool[Array, "n *size"]) -> BlockRule:
        """The rule, with zeros for positions that an example does not have."""
        build = lambda: self.per_example(mask, mask.ndim - 1, False)
        exist = self.once(mask, "exist", build)

        def masked(at: Evaluation) -> Block:
            left, right = exist(at)
            return jax.tree.map(lambda leaf: where(left & right, leaf), at(rule))

        return masked

    @property
    def joined(self) -> bool:
        """Whether blocks have all positions of the canvas in one row."""
        return self.canvas is not None and short_rows(self.canvas)

    def together(self, arrays: Content) -> Content:
        """Arrays whose last axes are those of the canvas, or of size one, as blocks."""
        if not self.joined:
            return arrays
        assert self.canvas is not None
        return in_one_row(arrays, len(self.canvas))

    def apart(self, block: Content) -> Content:
        """Blocks with the axes of the canvas."""
        if not self.joined:
            return block
        assert self.canvas is not None
        canvas = self.canvas
        return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-1], *canvas), block)

    def strided(self, stride: tuple[int, ...]) -> "Frame":
        """The frame in which the input of a strided map is asked for."""
        if self.canvas is None or all(s == 1 for s in stride):
            return self
        canvas, reach, scale = (
            tuple(a * s for a, s in zip(sizes, stride, strict=True))
            for sizes in (self.canvas, self.reach, self.scale)
        )
        return dataclasses.replace(self, canvas=canvas, reach=reach, scale=scale)

    def blocks(self, rule: BlockRule, displacements: Int[Array, "n rank"]) -> Block:
        """The blocks of a rule at some displacements, along a new leading axis."""
        return self.registry.blocks(lambda one: Evaluation(one)(rule), displacements)

    def nested(self, scope: Scope) -> "Frame":
        """The same entries, for one depth of a `Repeat`."""
        registry = self.registry.nested()
        scope.asked_in = dataclasses.replace(self, scope=scope, registry=registry)
        return scope.asked_in

    def constant(self, value: Content) -> Lookup[Content]:
        """Register a tree of arrays that is the same at all displacements."""
        number = self.registry.add_field(value, (), lambda moving, d: moving)
        return lambda at: at.field(number)[0]

    def lookup(
        self,
        table: Content,
        look: Callable[[Float[Array, "..."], Int[Array, " rank"]], Array],
    ) -> Lookup[Content]:
        """Register a tree; `look` finds its parts at a displacement, where one is."""
        number = self.registry.add_field((), table, self._leafwise(look))
        return lambda at: self.together(at.field(number)[1])

    def per_example(
        self, arrays: PyTree[Shaped[Array, "..."]], rank: int, fill: float | bool
    ) -> Lookup[tuple[Any, Any]]:
        """Register a quantity of single examples to be seen from both ends of a pair.

        The arrays have the examples of both batches in a row; `fill` extends their last
        `rank` axes to the canvas. Left and right broadcast against blocks.
        """
        left, right = ends(arrays, None if self.self_pairs else self.scope.n1)
        look, canvas = lambda moving, d: moving, self.canvas
        if canvas is not None:
            pad = lambda leaf: pad_to(leaf, canvas, fill)
            left = jax.tree.map(pad, left)
            left = buffered(left) if self.joined else left
            right = jax.tree.map(lambda leaf: doubled(pad(leaf), rank), right)
            look = self._leafwise(rolled)
        number = self.registry.add_field(left, right, look)
        lookup = lambda at: self.together(at.field(number))
        return lookup if self.self_pairs else lambda at: paired(*lookup(at))

    def mask(
        self, key: Hashable, look: Callable[[Int[Array, " rank"]], Content]
    ) -> Lookup[Content]:
        """Register a mask over positions that depends on the displacement here."""
        key = (key, self.canvas, self.scale)
        self.registry.add_mask(key, lambda _, d: look(self._here(d)))
        return lambda at: at.masks[key]

    def _leafwise(self, look: Callable[[Array, Int[Array, " rank"]], Array]) -> Look:
        """Look each leaf of a tree up at the displacement here."""
        at = lambda d: lambda leaf: look(leaf, self._here(d))
        return lambda moving, d: jax.tree.map(at(d), moving)

    def _here(self, d: Int[Array, " rank"] | None) -> Int[Array, " rank"]:
        """The displacement in this frame, given the consumer's."""
        assert d is not None, "only asked for where positions differ"
        return d * jnp.asarray(self.scale, d.dtype)
