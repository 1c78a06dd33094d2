"""Rows of a Jacobian, as a recipe has them: cotangents and factors."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from eqtangents.empirical._analyse import Recipe
from eqtangents.empirical._pairing import RowCounts


class JacobianRows(NamedTuple):
    """Rows of a Jacobian, or their shapes; `jax.vmap` puts examples in front.

    Cotangents have one entry for each tap: first axes for diagonal, traced and free
    outputs, then the axes of the value. Factors have one entry for each use, the arrays
    that depend on the example.
    """

    cotangents: list[Any]
    factors: list[list[Any]]


def jacobian_rows(
    recipe: Recipe,
    leaves: list[Array],
    example: PyTree,
    output: int,
    seeds: Float[Array, "diagonal traced free *output"],
) -> JacobianRows:
    """The rows for one example, and for `seeds`, cotangents of one of the outputs."""

    def output_of(taps: list[Array]) -> tuple[Array, list[list[Array]]]:
        outputs, factors = recipe.program(leaves, example, taps)
        return outputs[output], factors

    zeros = [jnp.zeros(tap.shape, tap.dtype) for tap in recipe.taps]
    _, pullback, factors = jax.vjp(output_of, zeros, has_aux=True)
    shape = seeds.shape[:3]
    flat = seeds.reshape(math.prod(shape), *seeds.shape[3:])
    (cotangents,) = jax.vmap(pullback)(flat)
    return JacobianRows([c.reshape(*shape, *c.shape[1:]) for c in cotangents], factors)


def shapes_of_rows(recipe: Recipe, counts: RowCounts) -> JacobianRows:
    """Shapes of the rows for a batch of examples."""
    n, *outputs = counts
    struct = jax.ShapeDtypeStruct
    cotangents = [struct((n, *outputs, *tap.shape), tap.dtype) for tap in recipe.taps]
    factors = [
        [struct((n, *array.shape), array.dtype) for array in use.part.varying()]
        for use in recipe.uses
    ]
    return JacobianRows(cotangents, factors)
