"""How a matrix is divided: over which axes of a mesh, and into which tiles."""

import dataclasses

import jax

from eqtangents._gram._pairs import AbstractPairs
from eqtangents._gram._placement import AnyMesh, Placement
from eqtangents._gram._plan import Plan
from eqtangents._tile_plan import Examples, batch_size


# Examples of columns up to this size are whole on every device.
WHOLE_BYTES = 2**30


def plan_over(
    pairs: AbstractPairs,
    x1: Examples,
    x2: Examples | None,
    mesh: AnyMesh | None,
    most: int | None = None,
    ring: bool | None = None,
) -> tuple[Plan, Placement]:
    """The tiles of each device, of at most so many examples on a side, and the axes."""
    n1, n2 = batch_size(x1), batch_size(x1 if x2 is None else x2)
    symmetric = x2 is None and pairs.is_mirrored(x1)
    second = x1 if x2 is None else x2
    placement, split = _placed_on(mesh, second, x2 is None, ring)
    rows, columns = map(placement.count, (placement.row_axes, placement.column_axes))
    plan = Plan(n1, n2, (n1, n2), rows, columns, symmetric, split)
    tile = pairs.tile(x1, plan) if most is None else (most, most)
    return dataclasses.replace(plan, tile=tile), placement


def _placed_on(
    mesh: AnyMesh | None, second: Examples, alone: bool, ring: bool | None
) -> tuple[Placement, bool]:
    """What is split over which axes, and whether examples go round in a ring."""
    if mesh is None:
        return Placement(None), False
    axes = tuple(mesh.axis_names)
    grid = not alone and len(axes) == 2 and not ring
    parts = mesh.shape[axes[1]] if grid else 1
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(second)) // parts
    if ring or (ring is None and size > WHOLE_BYTES):
        return Placement(mesh, axes), True
    return Placement(mesh, *((axes[:1], axes[1:]) if grid else (axes,))), False
