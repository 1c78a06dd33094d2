"""Rows of a Jacobian, as a recipe has them: cotangents and factors."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from eqtangents.empirical._analyse import Recipe
from eqtangents.empirical._pairing import RowCounts, pairing
from eqtangents.empirical._tapped import zeros_of


class JacobianRows(NamedTuple):
    """Rows of a Jacobian, or their shapes; `jax.vmap` puts examples in front.

    Cotangents have one entry for each tap: first axes for diagonal, traced and free
    outputs, then the axes of the value. Factors have one entry for each use, the arrays
    that depend on the example. There are rows below the waist if there is one.
    """

    cotangents: list[Any]
    factors: list[list[Any]]
    below: "JacobianRows | None" = None


def jacobian_rows(
    recipe: Recipe,
    leaves: list[Array],
    example: PyTree,
    output: int,
    seeds: Float[Array, "diagonal traced free *output"],
) -> JacobianRows:
    """The rows for one example, and for `seeds`, cotangents of one of the outputs."""
    return _output_and_rows(recipe, leaves, example, output, seeds)[1]


def _output_and_rows(
    recipe: Recipe,
    leaves: list[Array],
    example: PyTree,
    output: int,
    seeds: Float[Array, "diagonal traced free *output"],
) -> tuple[Array, JacobianRows]:
    """One of the outputs as well."""
    below = None
    if recipe.below is not None:
        (waist,) = recipe.below.outputs
        units = pairing(waist.shape, (), ()).seeds(waist.dtype)
        value, below = _output_and_rows(recipe.below, leaves, example, 0, units)
        leaves = [*leaves, value]

    def output_of(taps: list[Array]) -> tuple[Array, list[list[Array]]]:
        outputs, factors = recipe.program(leaves, example, taps)
        return outputs[output], factors

    zeros = zeros_of(recipe.taps, leaves[0])
    found, pullback, factors = jax.vjp(output_of, zeros, has_aux=True)
    shape = seeds.shape[:3]
    flat = seeds.reshape(math.prod(shape), *seeds.shape[3:])
    flat = flat + jnp.zeros_like(leaves[0], flat.dtype, ())  # varies as outputs do
    (cotangents,) = jax.vmap(pullback)(flat)
    cotangents = [c.reshape(*shape, *c.shape[1:]) for c in cotangents]
    return found, JacobianRows(cotangents, factors, below)


def counts_below(recipe: Recipe, counts: RowCounts) -> RowCounts:
    """The rows of the Jacobian below the waist."""
    assert recipe.below is not None
    (waist,) = recipe.below.outputs
    return pairing(waist.shape, (), ()).counts(counts.examples)


def shapes_of_rows(recipe: Recipe, counts: RowCounts) -> JacobianRows:
    """Shapes of the rows for a batch of examples."""
    n, *outputs = counts
    struct = jax.ShapeDtypeStruct
    cotangents = [struct((n, *outputs, *tap.shape), tap.dtype) for tap in recipe.taps]
    factors = [
        [struct((n, *array.shape), array.dtype) for array in use.part.varying()]
        for use in recipe.uses
    ]
    below = recipe.below and shapes_of_rows(recipe.below, counts_below(recipe, counts))
    return JacobianRows(cotangents, factors, below)
