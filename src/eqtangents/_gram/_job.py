"""What there is to compute of a stored matrix, and how a tile of it is computed."""

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, PyTree, Shaped

from eqtangents._gram._chunks import TileNumber
from eqtangents._gram._mirror import upper_mirrored
from eqtangents._gram._pairs import AbstractPairs
from eqtangents._gram._placement import Placement, made_mesh
from eqtangents._gram._plan import Plan
from eqtangents._programs import whole_program
from eqtangents._tile_plan import Examples, batch_size


# What of JAX's configuration changes the numbers, and sets it for a while.
_SETTINGS = {
    "jax_enable_x64": jax.enable_x64,
    "jax_default_matmul_precision": jax.default_matmul_precision,
}
# The devices of a process compute one tile at a time, while others are read or written.
_COMPUTING = threading.Lock()


def settings() -> dict[str, Any]:
    """The configuration of this process, which others may not have."""
    return {name: getattr(jax.config, name) for name in _SETTINGS}


@dataclasses.dataclass(frozen=True)
class Job:
    """Kernels, both batches in host memory, and how they are divided into tiles."""

    pairs: AbstractPairs
    x1: Examples
    x2: Examples
    plan: Plan
    mesh: Mesh | Callable[[], Mesh] | None
    settings: dict[str, Any]

    @functools.cached_property
    def placement(self) -> Placement:
        """The devices of this process, which compute a tile together."""
        mesh = made_mesh(self.mesh)
        return Placement(mesh, () if mesh is None else tuple(mesh.axis_names))

    def blocks(self, tile: TileNumber) -> list[Shaped[np.ndarray, "t1 t2 *rest"]]:
        """The entries of a tile, of each matrix."""
        (i, j), plan = tile, self.plan
        start1, start2 = (k * size for k, size in zip(tile, plan.sizes, strict=True))
        with contextlib.ExitStack() as stack:
            stack.enter_context(_COMPUTING)
            for name, value in self.settings.items():
                stack.enter_context(_SETTINGS[name](value))
            found = jax.tree.leaves(self._kernels(start1, start2))
            found = [np.asarray(leaf) for leaf in found]
        rows, columns = min(plan.sizes[0], plan.n1 - start1), plan.n2 - start2
        found = [leaf[:rows, :columns] for leaf in found]
        return list(map(upper_mirrored, found)) if plan.symmetric and i == j else found

    def _kernels(self, start1: int, start2: int) -> PyTree[Array]:
        (size1, size2), place = self.plan.sizes, self.placement
        devices = place.count(place.row_axes)
        part1 = _some_examples(self.x1, start1, -(-size1 // devices) * devices)
        part2 = _some_examples(self.x2, start2, size2)
        shift = jnp.asarray(start1 - start2, jnp.int32)
        first_row = shift if self.plan.symmetric else None
        whole = self.pairs, part2, first_row
        pairs, part2, first_row = place.put(whole, PartitionSpec())
        part1 = place.put(part1, place.rows)
        return _kernels_of_parts(pairs, part1, part2, first_row, place)


def _some_examples(x: Examples, start: int, size: int) -> Examples:
    """Some examples, the last one over and over where there are no more."""
    index = np.minimum(np.arange(start, start + size), batch_size(x) - 1)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), x)


@whole_program
def _kernels_of_parts(
    pairs: AbstractPairs,
    x1: Examples,
    x2: Examples,
    first_row: Int[Array, ""] | None,
    place: Placement,
) -> PyTree[Array]:
    """The kernels of two parts, by one program for all tiles.

    Each device of a mesh has some of the rows.
    """
    arrays, rest = eqx.partition(pairs, eqx.is_array)

    def of_device(
        arrays: PyTree, x1: Examples, x2: Examples, first: Int[Array, ""] | None
    ) -> PyTree[Array]:
        if first is not None and place.row_axes:
            first = first + lax.axis_index(place.row_axes) * batch_size(x1)
        return eqx.combine(arrays, rest)(x1, x2, first)

    whole = PartitionSpec()
    run = place.mapped(of_device, (whole, place.rows, whole, whole), place.rows)
    return run(arrays, x1, x2, first_row)
