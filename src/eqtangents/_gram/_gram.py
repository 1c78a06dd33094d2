"""Kernels over whole data sets: the function that users call."""

from collections.abc import Callable
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from eqtangents._arguments import checked_choice, checked_integer, described
from eqtangents._batches import checked_arguments
from eqtangents._budget import suiting
from eqtangents._gram._chunks import Location
from eqtangents._gram._layout import plan_over
from eqtangents._gram._mesh import Task, all_at_once, one_after_the_other
from eqtangents._gram._pairs import AbstractPairs, FunctionPairs, NetworkPairs
from eqtangents._gram._placement import (
    AnyMesh,
    MeshOrMaker,
    Placement,
    made_mesh,
)
from eqtangents._gram._plan import Plan
from eqtangents._gram._progress import Clock, Line, Report
from eqtangents._gram._run import gram_in_store
from eqtangents._kernel import Kind
from eqtangents._kernel_habits import KERNEL_HABITS
from eqtangents._parameters import Trainable
from eqtangents._rated import with_rates
from eqtangents._signatures import names_checked
from eqtangents._tile_plan import Examples, batch_size
from eqtangents._trees import Batch, Tree
from eqtangents._types import is_traced
from eqtangents.nn import AbstractLayer


# A run that reports its progress does so after each of about so many steps.
STEPS = 200


@names_checked(KERNEL_HABITS)
def gram(
    kernel: AbstractLayer | Callable[[Any, Any], Any],
    x1: Batch,
    x2: Batch | None = None,
    *,
    kind: Kind = "ntk",
    trainable: Trainable = None,
    mesh: MeshOrMaker | None = None,
    tile: int | None = None,
    ring: bool | None = None,
    progress: bool | Report | None = None,
    store: Location | None = None,
    executor: Any = None,
) -> Tree[Any]:
    r"""The kernels of all pairs of two data sets, divided over the devices of a mesh.

    $$G_{ij} = k(x_i, x'_j)$$

    The matrix is computed in tiles, by one program for all of them. Without `x2` only
    those on and above the diagonal are, and every device does as many, up to one. Each
    device has some rows of the result.

    **Arguments:**

    - `kernel`: a network of `eqtangents.nn`; or a function of two batches that returns
        arrays `(n1, n2, ...)`, `eqx.Partial(eqt.empirical_ntk, model)` say. Without
        `x2` it has to be symmetric, as kernels are, and is given two parts of `x1`.
    - `x1`, `x2`: batches, as for `eqtangents.kernel`, or as the function takes them;
        any numbers of examples. Arrays may lie anywhere: in host memory, on one device
        or split over the mesh. With several processes each has all examples, or they
        are global arrays.
    - `kind`: which kernel of a network, `"ntk"`, `"nngp"`, or `"both"` for an
        `eqtangents.Kernel`.
    - `trainable`: which parameters of a network are trained, and how fast, as for
        `eqtangents.kernel`.
    - `mesh`: the devices, of any number of axes of any type. Rows are split over all of
        them; given two axes and `x2`, rows over the first, columns over the second.
        Without a mesh everything is on one device. It may be a function that makes one,
        which the workers of an executor call, each for its own devices.
    - `tile`: how many examples of either batch a tile has at most. By default as many
        as the plain call treats together for a network, and for a function about half
        the rows of a device.
    - `ring`: whether examples of columns, too, are split over the mesh and handed on
        from device to device, so that none ever has more than two shares. By default
        if they take more than 1 GiB; otherwise every device has them all.
    - `progress`: `True` for a line with the rate and the remaining time, on runs that
        take more than a few seconds; or a function of an `eqtangents.Progress`. In a
        program that is traced there is no progress to tell.
    - `store`: a path, a URL that `fsspec` knows, or a store of `zarr.storage`, where
        the tiles are written; of a matrix without `x2`, those on and above the
        diagonal. What an earlier run of the same call has stored is kept, after its
        checksum was compared. It needs the extra `scale`.
    - `executor`: whose workers compute the tiles of a store: any of
        `concurrent.futures`, or a `dask.distributed.Client`. Network and inputs reach
        each of them once, by the store.

    **Returns:** what `eqtangents.ntk`, `nngp` or `kernel` do, or the function: arrays
    `(n1, n2, ...)`, each a global one. Its sharding is `PartitionSpec(mesh.axis_names)`
    where the number of rows is a multiple of the devices, and
    `PartitionSpec(first, second)` for two axes and `x2`; an axis of other length is not
    split, since JAX has no such arrays: every device has all of it. With a `store`, a
    `StoredGram` in the place of each array.

    **Raises:** what `eqtangents.kernel` does; `TypeError` if `kernel`, `mesh` or
    `progress` is of another kind; `ValueError` if batches of a function have no
    common number of examples, and if a store is of another network, other inputs,
    another tile or other versions, naming what differs; `RuntimeError` if an executor
    broke, saying what is stored already.

    **Cost:** as of the plain call over the number of devices. Of the result, a device
    has its rows three times while the two halves of a symmetric matrix are exchanged,
    `O(n1 n2 / devices)` numbers. Differentiation computes each tile again. With a
    store, memory has the examples and a few tiles.
    """
    pairs, x1, x2 = checked_pairs(kernel, x1, x2, kind, trainable)
    most = None if tile is None else checked_integer("tile", tile, 1)
    report = _checked_progress(progress)
    if store is not None:
        _check_stored(mesh, ring)
        return gram_in_store(
            *(store, pairs, x1, x2),
            mesh=mesh,
            tile=most,
            executor=executor,
            report=report,
        )
    if executor is not None:
        raise ValueError(
            f"`executor` is {described(executor)}, whose workers write to a `store`: "
            'name a place for it, `store="gram.zarr"` say.'
        )
    return gram_of_pairs(pairs, x1, x2, made_mesh(mesh), most, ring, report)


def gram_of_pairs(
    pairs: AbstractPairs,
    x1: Examples,
    x2: Examples | None,
    mesh: AnyMesh | None,
    most: int | None = None,
    ring: bool | None = None,
    report: Report | None = None,
) -> PyTree[Array]:
    """The matrix in tiles of at most so many examples on a side, over a mesh."""
    with suiting((x1, x2, pairs) if mesh is None else mesh):
        return _divided(pairs, x1, x2, mesh, most, ring, report)


def _divided(
    pairs: AbstractPairs,
    x1: Examples,
    x2: Examples | None,
    mesh: AnyMesh | None,
    most: int | None,
    ring: bool | None,
    report: Report | None,
) -> PyTree[Array]:
    devices = 1 if mesh is None else mesh.size
    n1, n2 = batch_size(x1), batch_size(x1 if x2 is None else x2)
    if (devices == 1 and most is None and report is None) or not (n1 and n2):
        # What one call computes, in tiles of its own.
        pairs, x1, x2 = Placement(mesh).put((pairs, x1, x2), PartitionSpec())
        return pairs(x1, x2, None)
    second = x1 if x2 is None else x2
    plan, placement = plan_over(pairs, x1, x2, mesh, most, ring)
    task = _laid_on_mesh(pairs, x1, second, plan, placement)
    if report is None or any(map(is_traced, jax.tree.leaves(task))):
        return all_at_once(task)
    return _reported(task, Clock(plan.pairs, report))


def checked_pairs(
    kernel: Any, x1: Any, x2: Any, kind: Any, trainable: Trainable
) -> tuple[AbstractPairs, Examples, Examples | None]:
    """A kernel and its batches, of arrays that lie where they did or on the host."""
    kind = cast(Kind, checked_choice("kind", kind, get_args(Kind)))
    is_network = isinstance(kernel, AbstractLayer)
    if is_network or not callable(kernel) or isinstance(kernel, type):
        with _on_host():
            net, x1, x2 = checked_arguments(kernel, x1, x2)
            return NetworkPairs(with_rates(net, x1, trainable), kind), x1, x2
    if trainable is not None:
        raise ValueError(
            "`trainable` was given, but chooses among the parameters of a network of "
            "`eqtangents.nn`. A function of two batches, "
            "`eqx.Partial(eqt.empirical_ntk, model, trainable=...)` say, chooses "
            "itself."
        )
    if kind != "ntk":
        raise ValueError(
            f'`kind` is "{kind}", but chooses among the kernels of a network of '
            "`eqtangents.nn`; a function of two batches has the one that it returns."
        )
    for name, x in (("x1", x1), ("x2", x2)):
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
        if x is not None and (len(sizes) != 1 or () in sizes):
            raise ValueError(
                f"`{name}` is {described(x)}, but must be a batch: arrays with one "
                "leading axis of examples, of the same size."
            )
    return FunctionPairs(kernel), x1, x2


def _on_host() -> Any:
    """New arrays are made in host memory: they may not fit one device."""
    host = jax.local_devices(backend="cpu")[0]
    return jax.default_device(host)


def _check_stored(mesh: Any, ring: Any) -> None:
    """Raise unless these are what tiles of a store can be computed with."""
    if ring is not None:
        raise ValueError(
            "`ring` splits the columns of a whole matrix over a mesh; with a `store` "
            "the devices have those of one tile. Leave it out."
        )
    if not callable(mesh):
        made_mesh(mesh)  # functions are called where tiles are computed
    if isinstance(mesh, Mesh) and mesh.is_multi_process:
        raise ValueError(
            "`mesh` has devices of several processes, but each tile of a `store` is "
            "computed by one: give the processes as an `executor`, and a function that "
            "makes a mesh of the devices of each."
        )


def _checked_progress(progress: Any) -> Report | None:
    if progress is None or isinstance(progress, bool):
        return Line() if progress and jax.process_index() == 0 else None
    if not callable(progress):
        raise TypeError(
            f"`progress` is {described(progress)}, but must be `True` or a function of "
            "an `eqtangents.Progress`, `print` say."
        )
    return progress


def _laid_on_mesh(
    pairs: AbstractPairs, x1: Examples, x2: Examples, plan: Plan, placement: Placement
) -> Task:
    """The task with its arrays on the mesh."""
    with _on_host():
        first, second = (
            jax.tree.map(lambda a, n=n: lengthened(a, n), x)
            for x, n in zip((x1, x2), plan.padded, strict=True)
        )
    rows = placement.put(first, placement.rows)
    shared = x1 is x2 and plan.ring
    columns = placement.rows if plan.ring else placement.columns
    columns = rows if shared else placement.put(second, columns)
    return Task(placement.put(pairs, PartitionSpec()), rows, columns, plan, placement)


def lengthened(
    leaf: Shaped[Array | np.ndarray, "n *rest"], size: int
) -> Shaped[Array | np.ndarray, "size *rest"]:
    """So many examples, the last one over and over: values of no new kind."""
    if leaf.shape[0] == size:
        return leaf
    library = np if isinstance(leaf, np.ndarray) else jnp
    return library.take(leaf, np.minimum(np.arange(size), leaf.shape[0] - 1), 0)


def _reported(task: Task, clock: Clock) -> PyTree[Array]:
    rows = None
    for share, rows in one_after_the_other(task, STEPS):
        jax.block_until_ready(rows)
        clock.tell(share)
    return rows
