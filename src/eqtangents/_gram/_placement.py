"""Where the parts of arrays lie on a mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
)
from jaxtyping import Array, PyTree, Shaped

from eqtangents._arguments import described
from eqtangents._types import is_traced


# A mesh, or a function that makes one where it is needed.
MeshOrMaker: TypeAlias = Mesh | Callable[[], Mesh]
# Of arrays whose values are not known yet, the devices may not be known either.
AnyMesh: TypeAlias = Mesh | AbstractMesh


class Placement(NamedTuple):
    """The axes of a mesh that rows and columns are split over; no mesh, no axes."""

    mesh: AnyMesh | None
    row_axes: tuple[str, ...] = ()
    column_axes: tuple[str, ...] = ()

    @classmethod
    def of_rows(cls, mesh: AnyMesh | None) -> "Placement":
        """Rows are split over all axes there are."""
        return cls(mesh, () if mesh is None else tuple(mesh.axis_names))

    @property
    def rows(self) -> PartitionSpec:
        """How arrays are split by the examples of their rows."""
        return PartitionSpec(self.row_axes or None)

    @property
    def columns(self) -> PartitionSpec:
        """How arrays are split by the examples of the matrix's columns."""
        return PartitionSpec(self.column_axes or None)

    @property
    def matrix(self) -> PartitionSpec:
        """How a matrix is split."""
        return PartitionSpec(self.row_axes or None, self.column_axes or None)

    def fitting(self, *sizes: int) -> PartitionSpec:
        """How rows, or a matrix, are split whose sizes the devices may not divide."""
        axes = (self.row_axes, self.column_axes)[: len(sizes)]
        fits = [
            bool(names) and size % self.count(names) == 0
            for size, names in zip(sizes, axes, strict=True)
        ]
        return PartitionSpec(
            *(names if fit else None for fit, names in zip(fits, axes, strict=True))
        )

    def cut(self, whole: PyTree[Array], *sizes: int) -> PyTree[Array]:
        """The first so many rows of arrays, and columns of matrices.

        Sizes that are no multiple of the devices cannot be split over them.
        """
        window = tuple(slice(size) for size in sizes)

        def cut_leaf(leaf: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
            if leaf.shape[: len(sizes)] == sizes:
                return leaf
            if self.mesh is not None:
                over = NamedSharding(self.mesh, self.fitting(*sizes))
                explicit = AxisType.Explicit in self.mesh.axis_types
                place = jax.reshard if explicit else lax.with_sharding_constraint
                leaf = place(leaf, over)
            return leaf[window]

        return jax.tree.map(cut_leaf, whole)

    def count(self, axes: tuple[str, ...]) -> int:
        """How many parts these axes make."""
        sizes = {} if self.mesh is None else self.mesh.shape
        return int(np.prod([sizes[name] for name in axes], dtype=int))

    def put(self, tree: PyTree, spec: PartitionSpec) -> PyTree:
        """Arrays, split so over the mesh."""
        if self.mesh is None:
            return tree
        sharding, known = NamedSharding(self.mesh, spec), isinstance(self.mesh, Mesh)
        put = lambda a: (
            self.within(a, spec) if is_traced(a) or not known else _put(a, sharding)
        )
        arrays, rest = eqx.partition(tree, _is_some_array)
        return eqx.combine(jax.tree.map(put, arrays), rest)

    def within(
        self, x: Shaped[Array | np.ndarray, "..."], spec: PartitionSpec
    ) -> Array:
        """The same inside of a program, where only explicit axes have to be told."""
        if self.mesh is None or AxisType.Explicit not in self.mesh.axis_types:
            return jnp.asarray(x)
        return jax.reshard(jnp.asarray(x), NamedSharding(self.mesh, spec))

    def mapped(
        self,
        function: Callable[..., Any],
        in_specs: tuple[PartitionSpec, ...],
        out_specs: PartitionSpec,
    ) -> Callable[..., Any]:
        """A function of what one device has, as one of what all of them have.

        Nothing is checked to vary over the mesh: a function of a user's may well carry
        zeros that do not, and would have its derivatives in what is the same on all
        devices summed over these.
        """
        if self.mesh is None:
            return function
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            check_vma=False,
        )


def whole_of(
    function: Callable[..., Array], x: Shaped[Array, "..."], *more: Any
) -> Array:
    """A function of an array that may be split over a mesh: its result is not.

    Axes that are explicit are left to the compiler meanwhile.
    """
    return _left_to_compiler(jax.typeof(x).sharding.mesh, function, x, *more)


def in_any_mesh(function: Callable[..., Any], *args: Any) -> Any:
    """A function that divides its work over a mesh without axis types.

    In a mesh that is in force, by `jax.set_mesh`, whose axes are explicit, results are
    whole, as all arrays are that are made there.
    """
    arrays, rest = eqx.partition(args, eqx.is_array)
    run = lambda arrays: function(*eqx.combine(arrays, rest))
    return _left_to_compiler(jax.sharding.get_abstract_mesh(), run, arrays)


def explicit_in_force() -> bool:
    """Whether a mesh is in force, by `jax.set_mesh`, that has explicit axes."""
    return AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types


def _left_to_compiler(
    mesh: AbstractMesh, function: Callable[..., Any], *args: Any
) -> Any:
    if AxisType.Explicit not in mesh.axis_types:
        return function(*args)
    whole = NamedSharding(mesh, PartitionSpec())
    gathered: Any = jax.sharding.auto_axes(function, out_sharding=whole)
    return gathered(*args)


def made_mesh(mesh: Any) -> Mesh | None:
    """A mesh, or what a function makes that is given in the place of one."""
    came = "`mesh` is"
    if callable(mesh) and not isinstance(mesh, Mesh):
        came, mesh = "`mesh` made", mesh()
    if mesh is None or isinstance(mesh, Mesh):
        return mesh
    raise TypeError(
        f"{came} {described(mesh)}, but must be a mesh of devices, "
        "`jax.make_mesh((jax.device_count(),), ('rows',))` say, or a function that "
        "makes one."
    )


def mesh_of(mesh: Any, *batches: Any) -> AnyMesh | None:
    """The mesh that was given, or that over whose explicit axes batches are split."""
    if (made := made_mesh(mesh)) is not None:
        return made
    arrays = [x for x in jax.tree.leaves(batches) if isinstance(x, jax.Array)]
    for x in arrays:
        own = jax.typeof(x).sharding
        if any(own.spec) and set(own.mesh.axis_types) <= {
            AxisType.Explicit,
            AxisType.Auto,
        }:
            here = None if is_traced(x) else x.sharding
            return here.mesh if isinstance(here, NamedSharding) else own.mesh
    return None


def without_axis_types(mesh: AnyMesh | None) -> AnyMesh | None:
    """The mesh with axes that arrays do not tell of.

    For results that go where shapes alone are known: into solvers, and other networks.
    """
    if mesh is None or isinstance(mesh, Mesh):
        return None if mesh is None else Mesh(mesh.devices, mesh.axis_names)
    return mesh.update(axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def _is_some_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray)


def _put(x: Shaped[Array | np.ndarray, "..."], sharding: NamedSharding) -> Array:
    here = not isinstance(x, jax.Array) or x.is_fully_addressable
    if here and not sharding.is_fully_addressable:
        # Every process has the whole array, and gives its devices their parts.
        part = lambda index: np.asarray(x[index])
        return jax.make_array_from_callback(x.shape, sharding, part)
    return jax.device_put(x, sharding)
