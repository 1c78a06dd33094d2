"""How parameters enter a network: a program is analysed once, into a recipe."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
from jaxtyping import Array, PyTree

from eqtangents._jaxpr import Program, jaxpr_and_consts, staged
from eqtangents.empirical._tapped import Noted, TappedRun, zeros_of
from eqtangents.empirical._views import Part, Root, Use
from eqtangents.empirical._work import Work, work


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to compute rows of a Jacobian for one example, and the structure they have.

    The program maps `(leaves, example, taps)` to the outputs, and to those factors of
    each use that depend on the example. Zeros are given for the taps: derivatives in
    them are the cotangents.

    Above the waist of a network, there is a recipe for what is below, and the value of
    the waist is the last of the leaves.
    """

    program: Program
    dense: frozenset[int]  # parameters that are kept whole
    outputs: tuple[jax.ShapeDtypeStruct, ...]
    taps: tuple[jax.ShapeDtypeStruct, ...]
    uses: tuple[Use, ...]
    work: Work  # of one evaluation of the network
    formed: float = 0.0  # operations to form a row of the Jacobian in dense parameters
    waist: int | None = None  # the leaf that is the value of the waist
    below: "Recipe | None" = None

    def pairs(self) -> Iterator[tuple[Root, int, int]]:
        """The root, and both uses, of each term of the kernel."""
        for u, use1 in enumerate(self.uses):
            for v, use2 in enumerate(self.uses):
                root = use1.part.root
                if root.leaf == self.waist:
                    continue
                if root is use2.part.root and not _disjoint(use1.part, use2.part):
                    yield root, u, v

    def forming(self, leaf: int) -> float:
        """Operations to form one row of the Jacobian in a leaf, from its uses."""
        flops = 0.0
        for use in self.uses:
            factors = [factor.labels for factor in use.part.factors if factor.labels]
            if use.part.root.leaf == leaf and factors:
                labels = {*use.part.labels}.union(*factors)
                flops += 2.0 * math.prod(label.size for label in labels)
        return flops

    @property
    def waist_tap(self) -> int:
        """The tap that gives the derivative of the outputs in the waist."""
        (tap,) = (use.tap for use in self.uses if use.part.root.leaf == self.waist)
        return tap


def analyse(
    network: Program, leaves: list[Array], example: PyTree, dense: frozenset[int]
) -> Recipe:
    """Find where parameters enter a network, and stage a program that computes rows.

    **Arguments:**

    - `network`: the traced network, a function of `leaves` and `example`.
    - `leaves`, `example`: the parameters, and one example; shapes suffice.
    - `dense`: which of the leaves to keep whole. If all of them are, the cotangents are
        the rows of the Jacobian.
    """
    jaxpr, consts = jaxpr_and_consts(network.closed)

    def tapped(
        leaves: list[Array], example: PyTree, taps: list[Array] | None
    ) -> tuple[tuple[list[Array], list[list[Any]]], Noted]:
        run = TappedRun(taps, leaves[0])
        views = [
            (run.dense if i in dense else run.parameter)(i, leaf)
            for i, leaf in enumerate(leaves)
        ]
        results = run.run(jaxpr, consts, [*views, *jax.tree.leaves(example)])
        outputs = list(map(run.tapped, results))
        factors, noted = run.noted()
        return (outputs, factors), noted

    # A first pass finds out which taps are needed.
    _, (_, taps) = staged(tapped, leaves, example, None)
    program, (uses, taps) = staged(tapped, leaves, example, zeros_of(taps, leaves[0]))
    uses = tuple(Use(use.part.completed(), use.tap) for use in uses)
    outputs = tuple(jax.tree.leaves(network.outputs))
    return Recipe(program, dense, outputs, taps, uses, work(network.closed))


def _disjoint(part1: Part, part2: Part) -> bool:
    """Whether two uses read different rows of the parameter."""
    return any(
        one.label is other.label
        and (one.stop <= other.start or other.stop <= one.start)
        for one in part1.ranges
        for other in part2.ranges
    )
