"""How parameters enter a network, and the rows of its Jacobian in that form."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from eqtangents._jaxpr import jaxpr_and_consts
from eqtangents.empirical._contraction import (
    Plan,
    Rows,
    Side,
    apart,
    contract,
    plan,
)
from eqtangents.empirical._network import Network
from eqtangents.empirical._tapped import Tapped
from eqtangents.empirical._views import (
    Labelling,
    Labels,
    Part,
    Taps,
    Use,
    is_shared,
    varying,
)


class Structure:
    """A network traced for one example, with some parameters kept whole.

    Where all are, what is computed are Jacobians, and the kernel is their contraction.
    """

    def __init__(self, network: Network, example: PyTree, dense: frozenset[int]):
        """Trace it; into `dense` parameters it does not look."""
        self.dense = dense
        leaves = network.leaves
        self.program, shape = jax.make_jaxpr(network, return_shape=True)(
            leaves, example
        )
        self.outputs, self.treedef = jax.tree.flatten(shape)
        self.factors = jax.eval_shape(
            functools.partial(self._run, taps=None), leaves, example
        )[1]

    def _run(
        self, leaves: list[Array], example: PyTree, taps: list[Array] | None
    ) -> tuple[list[Array], list[list[Any]]]:
        """Outputs, and those factors of each use that depend on the example."""
        run = Tapped(Taps(taps), Labelling())
        args = [
            (run.dense if i in self.dense else run.parameter)(i, leaf)
            for i, leaf in enumerate(leaves)
        ]
        args += jax.tree.leaves(example)
        outputs = list(map(run.tapped, run.run(*jaxpr_and_consts(self.program), args)))
        parts = [run.labelling.complete(use.part) for use in run.uses]
        self.labelling, self.taps = run.labelling, run.taps.shapes
        self.uses = [
            Use(_as_shapes(part), use.tap)
            for part, use in zip(parts, run.uses, strict=True)
        ]
        return outputs, list(map(varying, parts))

    def rows(
        self,
        leaves: list[Array],
        example: PyTree,
        output: int,
        seeds: Float[Array, "diagonal traced free *output"],
    ) -> tuple[list[Array], list[list[Any]]]:
        """Cotangents of all taps for `seeds`, those of one output; and factors."""

        def outputs_of(taps: list[Array]) -> tuple[Array, list[list[Array]]]:
            outputs, factors = self._run(leaves, example, taps)
            return outputs[output], factors

        zeros = [jnp.zeros(tap.shape, tap.dtype) for tap in self.taps]
        _, pullback, factors = jax.vjp(outputs_of, zeros, has_aux=True)
        flat = seeds.reshape(math.prod(seeds.shape[:3]), *seeds.shape[3:])
        (cotangents,) = jax.vmap(pullback)(flat)
        shape = seeds.shape[:3]
        return [c.reshape(*shape, *c.shape[1:]) for c in cotangents], factors

    def pairs(self) -> Iterator[tuple[int, int, int, Labels]]:
        """Leaf, both uses, and the labels of the root, of each term of the kernel."""
        for u, use1 in enumerate(self.uses):
            for v, use2 in enumerate(self.uses):
                root = use1.part.root
                if root == use2.part.root and not apart(use1.part, use2.part):
                    labels = self.labelling.roots[root]
                    yield self.labelling.leaf_of[root], u, v, labels

    def side(self, use: int, cotangents: list[Any], factors: list[list[Any]]) -> Side:
        """A use, given what `rows` returned."""
        part, tap = self.uses[use].part, self.uses[use].tap
        given = iter(factors[use])
        arrays = [a if is_shared(a) else next(given) for a, _ in part.factors]
        return Side(part, cotangents[tap], arrays)

    def shapes(self, rows: Rows) -> tuple[list[Any], list[list[Any]]]:
        """What `rows` returns for a batch, as shapes alone."""
        n, *outputs = rows
        struct = jax.ShapeDtypeStruct
        cotangents = [struct((n, *outputs, *tap.shape), tap.dtype) for tap in self.taps]
        factors = [
            [struct((n, *array.shape), array.dtype) for array in use]
            for use in self.factors
        ]
        return cotangents, factors

    def kernels(self, rows1: Any, rows2: Any) -> dict[int, Array]:
        """The contribution of each leaf: axes `i, j, d, f, g`."""
        found: dict[int, Array] = {}
        for leaf, u, v, root in self.pairs():
            term = contract(self.side(u, *rows1), self.side(v, *rows2), root)
            found[leaf] = found[leaf] + term if leaf in found else term
        return found

    def plans(self, rows1: Rows, rows2: Rows) -> dict[int, list[Plan]]:
        """Orders of contraction for the terms of each leaf."""
        shapes1, shapes2 = self.shapes(rows1), self.shapes(rows2)
        found: dict[int, list[Plan]] = {}
        for leaf, u, v, root in self.pairs():
            sides = self.side(u, *shapes1), self.side(v, *shapes2)
            found.setdefault(leaf, []).append(plan(*sides, root))
        return found

    def forming(self, leaf: int) -> float:
        """Operations to form one row of the Jacobian in a leaf, from its uses."""
        flops = 0.0
        for use in self.uses:
            factors = [labels for _, labels in use.part.factors if labels]
            if self.labelling.leaf_of[use.part.root] == leaf and factors:
                labels = {*use.part.labels}.union(*factors)
                flops += 2.0 * math.prod(self.labelling.sizes[l] for l in labels)
        return flops


def _as_shapes(part: Part) -> Part:
    """Without the arrays that depend on the example."""
    factors = tuple(
        (
            a
            if is_shared(a)
            else jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)),
            l,
        )
        for a, l in part.factors
    )
    return dataclasses.replace(part, factors=factors)
