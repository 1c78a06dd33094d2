"""How much is computed at a time: a budget for each kind of device.

A CPU runs fastest while what it works on stays in its caches, and starts an operation
in no time. An accelerator takes microseconds for that, during which it could have
computed millions of entries, and a conditional makes it wait for its host.
"""

import contextlib
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import PyTree

from eqtangents._types import is_concrete


class Budget(NamedTuple):
    """What a program may use at a time, whatever the number of examples.

    Of the blocks and tables that are bounded here, a program holds a few at a time.
    """

    # Of the entries that an operation is given: enough to outweigh the cost of starting
    # it and of waiting for all cores; on a CPU not so many that what is alive at a time
    # leaves its caches.
    block_bytes: int
    # Of the entries of a tile that have to be kept, where there are any: a tile has at
    # most so many pairs, and at least one.
    table_bytes: int
    # Of the blocks of all layers together, which a derivative keeps: on a CPU not so
    # many that they leave the caches that its cores share.
    kept_bytes: int
    # Whether a conditional may keep the compiler from repeating what it fuses.
    conditionals: bool
    # How many entries a loop over a row needs to be computed in vectors, and a multiple
    # of half of how many it should have.
    row: int = 1
    # What XLA is told, of programs that are not part of others.
    compiler_options: tuple[tuple[str, int], ...] | None = None


# XLA makes vectors of at most 256 bits, if not told that processors have longer ones.
CPU = Budget(
    3 * 2**19,
    2**28,
    10 * 2**20,
    conditionals=True,
    row=16,
    compiler_options=(("xla_cpu_prefer_vector_width", 512),),
)
ACCELERATOR = Budget(2**25, 2**30, 2**32, conditionals=False)

# The budget of programs that are traced meanwhile; without one, that of their devices.
# Compiled functions are told apart by it.
under = jax.make_user_context(None)


def budget() -> Budget:
    """The budget of the devices that will run what is traced now.

    They are those of the mesh that is in force, if any, or the default device. Of
    arguments that are committed to others only `suiting` knows.
    """
    if under.value is not None:
        return under.value
    mesh = jax.sharding.get_abstract_mesh()
    return _of_kind(_kind_of_mesh(mesh) or _default_kind())


def suiting(places: PyTree) -> contextlib.AbstractContextManager[None]:
    """A context in which programs suit the devices of a mesh, or of some arrays.

    A budget that was chosen already stays in force.
    """
    kind = next(filter(None, map(_device_kind, jax.tree.leaves(places))), None)
    found = None if kind is None else _of_kind(kind)
    if under.value is not None or found in (None, budget()):
        return contextlib.nullcontext()
    return under(found)


def _of_kind(kind: str) -> Budget:
    return CPU if kind == "cpu" else ACCELERATOR


def _device_kind(place: Any) -> str | None:
    """The kind of the devices of a mesh or an array, if it is known."""
    if isinstance(place, Mesh):
        return place.devices.flat[0].device_kind
    if isinstance(place, AbstractMesh):
        return _kind_of_mesh(place)
    if not isinstance(place, jax.Array):
        return None
    if not is_concrete(place):
        return _kind_of_mesh(jax.typeof(place).sharding.mesh)
    # Arrays that are not committed go to where the others are, or the default device.
    device = next(iter(place.sharding.device_set))
    return device.device_kind if place.committed else None


def _kind_of_mesh(mesh: AbstractMesh) -> str | None:
    device = None if mesh.empty else mesh.abstract_device
    return None if device is None else device.device_kind


def _default_kind() -> str:
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.device_kind
