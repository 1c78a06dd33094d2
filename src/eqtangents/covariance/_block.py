"""Blocks of a covariance, and the runs of rules that give them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents.covariance._registry import Find, Memo, Registered


class Block(NamedTuple):
    """Covariances of pairs of examples at one displacement.

    The pairs are `n1 n2`, all of one batch with all of the other, or `n`, each with
    itself. `ntk` is `None` where it is zero or not wanted. `gap` is how far `nngp` is
    below the product of the deviations, where known (`_gaps`), and has no derivative.
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


class Evaluation:
    """One displacement's run through the rules; every rule is run once."""

    def __init__(self, registered: Registered, carried: Any = None):
        """Start with nothing computed but what a `Repeat` carries, if anything."""
        self._find, self.masks, self._first = registered[:3]
        self.displacement, self.for_each = registered[3:]
        self.carried = carried
        self._memo, self._latest = Memo(), ()
        self._run = 0  # how many of the first rules

    def __call__(self, rule: "BlockRule") -> Block:
        """The block of a bound rule."""
        waiting, self._run = self._first[self._run :], len(self._first)
        return [self._block(one) for one in (*waiting, rule)][-1]

    def _block(self, rule: "BlockRule") -> Block:
        def run() -> Block:
            self._latest = block = rule(self)
            return block

        return self._memo.once(rule, "block", run)

    def field(self, number: int) -> tuple[Any, Any]:
        """A registered field, looked up after the block that was computed last."""
        find = lambda: self._find(number, self._latest)
        return self._memo.once(self._find, number, find)

    def nested(
        self,
        find: Find,
        carried: Any,
        first: Sequence["BlockRule"],
    ) -> "Evaluation":
        """The run at the same displacement, for one depth of a `Repeat`."""
        there = self.displacement, self.for_each
        return Evaluation(Registered(find, self.masks, first, *there), carried)


Content = TypeVar("Content")
# What a rule registered while it was bound, as a function of the run that needs it.
Lookup: TypeAlias = Callable[[Evaluation], Content]
BlockRule: TypeAlias = Lookup[Block]
