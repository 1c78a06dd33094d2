"""How covariances are asked for: blocks, frames, and the two stages of a rule.

A consumer asks a covariance for **blocks**: the entries of some pairs of examples at
one displacement of their positions. It does so in two stages. `Frame.bind` runs once,
outside the loop over displacements, and returns a rule; whatever the rule needs from
the variances of single examples is computed there and registered in the frame's
`Registry`. `Registry.blocks` runs once for each batch of displacements: it looks up all
that was registered at these, then lets the rules push the block through the layers.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from eqtangents.covariance._lattice import (
    doubled,
    materialised,
    pad_to,
    rolled,
    where,
)
from eqtangents.duals._elementary import valued
from eqtangents.duals._pair import deviation, measured_gap, rounding


class Block(NamedTuple):
    """Covariances of pairs of examples at one displacement.

    The pairs are `n1 n2` for every example of one batch with every example of the
    other, or `n` for each example with itself. `ntk` is `None` where it is zero or
    not wanted. `gap` is what `nngp` lacks to the product of the standard deviations,
    where that is known (`_pair`); it carries no derivative.
    """

    nngp: Float[Array, "*pairs_and_canvas"]
    ntk: Float[Array, "*pairs_and_canvas"] | None
    gap: Float[Array, "*pairs_and_canvas"] | None = None

    def with_ntk(self) -> "Block":
        """The block with its tangent kernel as an array, zeros where there is none."""
        ntk = jnp.zeros_like(self.nngp) if self.ntk is None else self.ntk
        return self._replace(ntk=ntk)

    def scaled(self, factor: Float[Array, "..."]) -> "Block":
        """The block of outputs times numbers that are not negative."""
        fixed = lax.stop_gradient(factor)
        return Block(
            factor * self.nngp,
            None if self.ntk is None else factor * self.ntk,
            None if self.gap is None else fixed * self.gap,
        )


class Values(NamedTuple):
    """What a registry holds at one displacement."""

    fields: Sequence[Any]
    masks: dict[Hashable, Any]


class Evaluation:
    """One displacement's run through the rules; every rule is run once."""

    def __init__(self, values: Values, carried: Any):
        """Start with nothing computed but the block that a slot stands for."""
        self.fields, self.masks = values
        self.carried = carried
        self._blocks: dict[int, Block] = {}

    def __call__(self, rule: "BlockRule") -> Block:
        """The block of a bound rule."""
        if id(rule) not in self._blocks:
            self._blocks[id(rule)] = rule(self)
        return self._blocks[id(rule)]


BlockRule: TypeAlias = Callable[[Evaluation], Block]
Look: TypeAlias = Callable[[PyTree[Array], Int[Array, " rank"] | None], Any]


class Field(NamedTuple):
    """A quantity of single examples: `look(moving, d)` is its part that moves."""

    fixed: PyTree[Array]
    moving: PyTree[Array]
    look: Look


class Registry:
    """What the rules of one frame need at each displacement, registered as they bind.

    Fields belong to examples (and to one depth of a `Repeat`); masks only to
    positions, so that the plans nested in a `Repeat` share them.
    """

    def __init__(self, masks: dict[Hashable, Look] | None = None):
        """Start empty, or sharing the masks of the registry this one is nested in."""
        self.fields: list[Field] = []
        self.masks: dict[Hashable, Look] = {} if masks is None else masks
        self.rules: dict[Hashable, tuple[Any, Any]] = {}

    def nested(self) -> "Registry":
        """A registry with fields of its own, for the layer inside a `Repeat`."""
        return Registry(self.masks)

    def add_field(self, fixed: PyTree[Array], moving: PyTree[Array], look: Look) -> int:
        """Register a field, `(fixed, look(moving, d))` at the handle returned."""
        self.fields.append(Field(fixed, moving, look))
        return len(self.fields) - 1

    def add_mask(self, key: Hashable, look: Look) -> Hashable:
        """Register `look((), d)`, found as `Evaluation.masks[key]`."""
        self.masks.setdefault(key, look)
        return key

    def _look(self, d: Int[Array, " rank"] | None) -> tuple[list[Any], dict]:
        moved = [field.look(field.moving, d) for field in self.fields]
        return moved, {key: look((), d) for key, look in self.masks.items()}

    def _run(self, rule: BlockRule, moved: tuple[list[Any], dict]) -> Block:
        fields = [
            (field.fixed, part)
            for field, part in zip(self.fields, moved[0], strict=True)
        ]
        return Evaluation(Values(fields, moved[1]), None)(rule)

    def coincident(self) -> "Evaluation":
        """The run where the two positions of each pair coincide, and nothing moves.

        It is not a loop's body, so that more rules may be bound after it began.
        """
        return Evaluation(Values(_Unmoved(self.fields), {}), None)

    def blocks(self, rule: BlockRule, displacements: Int[Array, "n rank"]) -> Block:
        """The blocks at some displacements, along a new leading axis."""
        if displacements.shape[0] == 1:  # A batched slice is a gather: avoid it.
            moved = materialised(lambda: self._look(displacements[0]), displacements)
            return jax.tree.map(lambda leaf: leaf[None], self._run(rule, moved))
        moved = materialised(lambda: jax.vmap(self._look)(displacements), displacements)
        return jax.vmap(lambda one: self._run(rule, one))(moved)


class _Unmoved(Sequence):
    """The fields of a registry where nothing moves, also those that are yet to come."""

    def __init__(self, fields: list[Field]):
        self._fields = fields

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, handle: Any) -> Any:
        field = self._fields[handle]
        return field.fixed, field.look(field.moving, None)


class Scope:
    """One tile of examples: batch sizes, and what was already computed for them."""

    def __init__(
        self,
        n1: int,
        n2: int,
        zero: Float[Array, ""],
        *,
        wants_ntk: bool,
        identical: Bool[Array, "n1 n2"] | None = None,
    ):
        """A tile with `n1` examples of one batch and `n2` of the other.

        `zero` is one of the type of the kernel. Inside of `jax.shard_map` it varies
        over all axes of the mesh that the kernel may vary over, and whatever a loop
        starts with is made to do so by it. `identical` says which pairs are one
        example, and pass through the network together; by default there are none.
        """
        self.n1, self.n2, self.wants_ntk = n1, n2, wants_ntk
        self.zero, self.dtype = zero, zero.dtype
        self.identical = identical
        self.asked_in: Frame | None = (
            None  # of a `Repeat`: where its layer is asked for
        )
        self.memo: dict[Hashable, tuple[Any, Any]] = {}

    def once(self, key: Hashable, owner: Any, build: Callable[[], Any]) -> Any:
        """`build()` the first time that `key` is asked for, then its result."""
        if key not in self.memo:  # The owner is kept, or its `id` might be reused.
            self.memo[key] = (owner, build())
        return self.memo[key][1]

    def variance(self, node: Any) -> Float[Array, "n *size"]:
        """`K(x, x)` at every position, for the examples of both batches in a row."""
        return self.coincident(node, same=True).nngp

    def coincident(self, node: Any, *, same: bool) -> Block:
        """The entries of a covariance whose two positions coincide, `(*pairs, *size)`.

        All such entries of one tile come from one run, so that none is computed twice.
        """

        def begin() -> tuple[Frame, Evaluation]:
            registry = Registry()
            return Frame(self, registry, same, None, (), ()), registry.coincident()

        frame, at = self.once(("coincident", same), None, begin)
        return at(frame.bind(node))

    def nested(self, slot: Any, variance: Float[Array, "n *size"]) -> "Scope":
        """A scope for one depth of a `Repeat`, where the slot's variance is known."""
        scope = self.fresh()
        scope.memo["slot"] = (slot, variance)
        return scope

    def fresh(self) -> "Scope":
        """A scope of the same examples for which nothing was computed."""
        return Scope(
            self.n1,
            self.n2,
            self.zero,
            wants_ntk=self.wants_ntk,
            identical=self.identical,
        )

    def pairs(self, same: bool) -> tuple[int, ...]:
        """The shape of the pairs of examples in a block."""
        return (self.n1 + self.n2,) if same else (self.n1, self.n2)


@dataclasses.dataclass(frozen=True)
class Frame:
    """Which entries of a covariance a consumer asks for.

    `same`: each example with itself, or those of one batch with those of the other.
    `canvas`: how positions are stored, `None` where both positions coincide; then a
    block has the size of the covariance and there is no displacement. `reach`: the
    largest displacement that is asked for here, either way. `scale`: the displacement
    here is `scale` times that of the consumer at the end of the chain.
    """

    scope: Scope
    registry: Registry
    same: bool
    canvas: tuple[int, ...] | None
    reach: tuple[int, ...]
    scale: tuple[int, ...]

    @property
    def wants_ntk(self) -> bool:
        """Whether rules have to track the tangent kernel; variances need none."""
        return self.scope.wants_ntk and not self.same

    def tracks_gaps(self, node: Any) -> bool:
        """Whether blocks of a node tell their gaps: where there are no positions.

        Sums over positions would have to subtract, and gain nothing.
        """
        return self.canvas is None and not self.same and not node.outline.rank

    def bind(self, node: Any) -> BlockRule:
        """The rule of a node in this frame."""
        rule = self._once(node, lambda: node.bind(self))
        if node.nonzero_where_masked and node.outline.mask is not None:
            return self._once(rule, lambda: self._masked(rule, node.outline))
        return rule

    def _once(self, owner: Any, build: Callable[[], Any], *what: Hashable) -> Any:
        """`build()` the first time that it is asked for in this frame.

        `what`: which of several things that belong to one owner.
        """
        key = (id(owner), self.same, self.canvas, self.scale, *what)
        if (
            key not in self.registry.rules
        ):  # The owner is kept, or its `id` might recur.
            self.registry.rules[key] = (owner, build())
        return self.registry.rules[key][1]

    def _masked(self, rule: BlockRule, outline: Any) -> BlockRule:
        """The rule, with zeros for positions that an example does not have."""
        mask = outline.mask
        handle = self._once(mask, lambda: self.per_example(mask, outline.rank, False))

        def masked(at: Evaluation) -> Block:
            left, right = at.fields[handle]
            return jax.tree.map(lambda leaf: where(left & right, leaf), at(rule))

        return masked

    def strided(self, stride: tuple[int, ...]) -> "Frame":
        """The frame in which the input of a strided map is asked for."""
        if self.canvas is None or all(s == 1 for s in stride):
            return self
        canvas, reach, scale = (
            tuple(a * s for a, s in zip(sizes, stride, strict=True))
            for sizes in (self.canvas, self.reach, self.scale)
        )
        return dataclasses.replace(self, canvas=canvas, reach=reach, scale=scale)

    def nested(self, scope: Scope) -> "Frame":
        """The same entries, for one depth of a `Repeat`."""
        registry = self.registry.nested()
        scope.asked_in = dataclasses.replace(self, scope=scope, registry=registry)
        return scope.asked_in

    def here(self, d: Int[Array, " rank"] | None) -> Int[Array, " rank"]:
        """The displacement in this frame, from that of the consumer."""
        assert d is not None, "only asked for where positions differ"
        return d * jnp.asarray(self.scale, d.dtype)

    def per_example(
        self, field: PyTree[Shaped[Array, "n ..."]], rank: int, fill: float | bool
    ) -> int:
        """Register a quantity of single examples to be seen from both ends of a pair.

        The arrays have the examples of both batches along their first axis and
        positions along the last `rank`. At the handle that is returned, an evaluation
        has `(left, right)`, which broadcast against the blocks of this frame.
        """
        left, right = self.split(field)
        if self.canvas is None:
            return self.registry.add_field(left, right, lambda moving, d: moving)
        canvas = self.canvas
        left = jax.tree.map(lambda f: pad_to(f, canvas, fill), left)
        right = jax.tree.map(lambda f: doubled(pad_to(f, canvas, fill), rank), right)

        def look(moving: PyTree[Array], d: Int[Array, " rank"] | None) -> PyTree[Array]:
            return jax.tree.map(lambda f: rolled(f, self.here(d)), moving)

        return self.registry.add_field(left, right, look)

    def deviations(self, node: Any) -> int:
        """Register a node's standard deviations, where positions play no part."""
        build = lambda: self.per_example(
            deviation(self.scope.variance(node)).std, 0, 1.0
        )
        return self._once(node, build, "deviations")

    def with_gaps(self, node: Any) -> Callable[[Evaluation, Block], Block]:
        """Complete blocks of a node by their gaps, measured where they are not known.

        The covariance becomes what follows from the gap, so that it stays within its
        bounds, and chains of layers need not keep both.
        """
        deviations, tolerance = self.deviations(node), self.tolerance(0)

        def complete(at: Evaluation, block: Block) -> Block:
            left, right = at.fields[deviations]
            gap = block.gap
            if gap is None:
                gap = measured_gap(block.nngp, left, right, tolerance(at))
            nngp = valued(lax.stop_gradient(left * right - gap), block.nngp)
            return Block(nngp, block.ntk, gap)

        return complete

    def tolerance(self, rank: int) -> Callable[[Evaluation], Array | None]:
        """Find how small `1 - |correlation|` may be and still be rounding (`Pair`).

        One example at one position is one Gaussian, whatever the rounding.
        """
        identical = np.ones(1, bool) if self.same else self.scope.identical
        if identical is None:
            return lambda at: None

        def limit(coincide: Bool[Array, ""] | bool) -> Float[Array, "..."]:
            one = identical.reshape(*identical.shape, *(1,) * rank) & coincide
            return jnp.where(one, jnp.inf, rounding(self.scope.dtype))

        if self.canvas is None:
            return lambda at: limit(True)
        key = ("tolerance", self.same, rank)
        key = self.mask(key, lambda here: limit(jnp.all(here == 0)))
        return lambda at: at.masks[key]

    def split(self, field: PyTree[Array]) -> tuple[PyTree[Array], PyTree[Array]]:
        """The field of the first and of the second example of each pair."""
        if self.same:
            return field, field
        n1 = self.scope.n1
        return (
            jax.tree.map(lambda f: f[:n1, None], field),
            jax.tree.map(lambda f: f[None, n1:], field),
        )

    def mask(
        self, key: Hashable, look: Callable[[Int[Array, " rank"]], Shaped[Array, "..."]]
    ) -> Hashable:
        """Register a mask over positions that depends on the displacement here."""
        key = (key, self.canvas, self.scale)
        return self.registry.add_mask(key, lambda _, d: look(self.here(d)))
