"""A matrix computed into a store, by the workers of an executor."""

import contextlib
import itertools
import queue
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from eqtangents._arguments import described
from eqtangents._gram._chunks import (
    Location,
    TileNumber,
    checked_location,
    drop_leftovers,
    is_there,
)
from eqtangents._gram._job import Job, settings
from eqtangents._gram._manifest import (
    check_same,
    manifest_of,
    matrices_in,
    stored_manifest,
)
from eqtangents._gram._pairs import AbstractPairs
from eqtangents._gram._plan import Plan
from eqtangents._gram._progress import Progress, Report
from eqtangents._gram._stored import StoredGram
from eqtangents._gram._task import announced, carried_out, drop_jobs
from eqtangents._tile_plan import Examples, batch_size, like_one
from eqtangents._types import is_traced


# Tasks that an executor has at a time, of some hundred bytes each.
IN_FLIGHT = 512
# How often Dask tries a task again whose worker has died, or that has failed.
RETRIES = 3
# A tile is so many times as long as one that fits the cache, and a matrix so many times
# as long as a tile, or more; and no tile takes more memory.
_TILES_OF_CACHE, _TILES_OF_ROWS, _BYTES_OF_A_TILE = 8, 8, 2**26


def gram_in_store(
    store: Location,
    pairs: AbstractPairs,
    x1: Examples,
    x2: Examples | None,
    *,
    mesh: Any,
    tile: int | None,
    executor: Any,
    report: Report | None,
) -> PyTree[StoredGram]:
    """What `eqtangents.gram` returns for a store."""
    location = checked_location(store)
    for name, tree in (("kernel", pairs), ("x1", x1), ("x2", x2)):
        _check_known(name, tree)
    first = jax.tree.map(np.asarray, x1)
    second = first if x2 is None else jax.tree.map(np.asarray, x2)
    one = [like_one(x) for x in (first, second)]
    likes = eqx.filter_eval_shape(pairs, *one, None)
    stored = stored_manifest(location)
    known = (stored or {}).get("tile")
    most = known if isinstance(known, int) else _tile_size(pairs, first, second, likes)
    symmetric = x2 is None and pairs.is_mirrored(x1)
    counts, size = (batch_size(first), batch_size(second)), tile or most
    plan = Plan(*counts, (size, size), symmetric=symmetric)
    job = Job(pairs, first, second, plan, mesh, settings())
    tree = jax.tree_util.tree_map_with_path(lambda path, _: _matrix_name(path), likes)
    manifest = manifest_of(job, names := jax.tree.leaves(tree), x2 is None)
    if stored is not None:
        check_same(location, stored, manifest)
    matrices_in(location, job, manifest, jax.tree.leaves(likes))
    _run(job, location, names, executor, report)
    return jax.tree.map(lambda name: StoredGram(location, name), tree)


def _check_known(name: str, tree: PyTree) -> None:
    """Raise for arrays whose values this process does not have."""
    for leaf in filter(eqx.is_array, jax.tree.leaves(tree)):
        if is_traced(leaf) or not (
            isinstance(leaf, np.ndarray) or leaf.is_fully_addressable
        ):
            raise ValueError(
                f"`{name}` has {described(leaf)} whose values are not known in this "
                "process, but a matrix is computed into a `store` from known ones: "
                "call `eqtangents.gram` outside of `jax.jit` and of gradients, with "
                "arrays of this process."
            )


def _matrix_name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/") or "matrix"


def _tile_size(pairs: AbstractPairs, x1: Examples, x2: Examples, likes: PyTree) -> int:
    """How many examples a tile has on a side unless users say so.

    Shorter ones for kernels that cost more, so that what a kill loses, and what there
    is to deal out, is in proportion.
    """
    longer = max(x1, x2, key=batch_size)
    if not (n := batch_size(longer)):
        return 1
    entry = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(likes))
    most = int((_BYTES_OF_A_TILE // max(entry, 1)) ** 0.5)
    in_cache = pairs.square_tile(longer)
    return max(1, min(_TILES_OF_CACHE * in_cache, most, -(-n // _TILES_OF_ROWS)))


def _run(
    job: Job,
    location: Location,
    names: list[str],
    executor: Any,
    report: Report | None,
) -> None:
    """Have all tiles in the store."""
    tiles = [(i, j) for i, _, j in job.plan.assigned(0)]
    here = executor is None or isinstance(executor, ThreadPoolExecutor)
    kept = done = count = 0
    begun, start = time.time(), time.perf_counter()
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(announced(job, location, elsewhere=not here))
        pool = stack.enter_context(_pool(executor))
        try:
            for tile, is_new in _outcomes(pool, location, name, tiles):
                if not here and count == 0:
                    _check_place(location, names[0], tile)
                count += 1
                done += job.plan.pairs_of(tile)
                kept += 0 if is_new else job.plan.pairs_of(tile)
                if report is not None:
                    seconds = time.perf_counter() - start
                    report(Progress(done, job.plan.pairs, seconds, kept))
        except BaseException as error:
            said = (
                f"{count} of {len(tiles)} tiles are in {location}, if not more, and "
                "stay there: the same call computes the others"
            )
            if isinstance(error, BrokenExecutor):
                raise RuntimeError(
                    f"The executor is broken ({error}). {said}, with a new executor."
                ) from error
            error.add_note(f"{said}.")
            raise
    drop_jobs(location)
    drop_leftovers(location, names, begun)


def _check_place(location: Location, name: str, tile: TileNumber) -> None:
    """Raise unless a worker writes where this process reads."""
    if not is_there(location, name, tile):
        raise RuntimeError(
            f"A worker says that it has tile {tile}, which is not in {location} as "
            "this process sees it. All workers must reach the same "
            "store, by the same path or URL: nothing in the memory of one process "
            "will do."
        )


@contextlib.contextmanager
def _pool(executor: Any) -> Iterator[Executor]:
    """Whatever there is as an executor of Python.

    **Raises:** `TypeError` if it is none.
    """
    if executor is None:
        # One tile is written while another one is computed.
        with ThreadPoolExecutor(2) as pool:
            yield pool
    elif isinstance(executor, Executor):
        yield executor
    elif callable(getattr(executor, "get_executor", None)):  # a client of Dask
        yield executor.get_executor(retries=RETRIES, pure=False)
    else:
        raise TypeError(
            f"`executor` is {described(executor)}, but must be one of "
            "`concurrent.futures`, or a `dask.distributed.Client`."
        )


def _outcomes(
    pool: Executor, location: Location, name: str, tiles: Iterable[TileNumber]
) -> Iterator[tuple[TileNumber, bool]]:
    """What workers say of each tile, with a few tasks waiting at a time."""
    todo, over = iter(tiles), queue.SimpleQueue[Future]()
    waiting: set[Future] = set()
    try:
        while True:
            for tile in itertools.islice(todo, IN_FLIGHT - len(waiting)):
                future = _submitted(pool, location, name, tile)
                waiting.add(future)
                future.add_done_callback(over.put)
            if not waiting:
                return
            future = over.get()
            waiting.discard(future)
            yield future.result()
    finally:
        for future in waiting:
            future.cancel()


def _submitted(
    pool: Executor, location: Location, name: str, tile: TileNumber
) -> Future:
    """The task of a tile.

    **Raises:** `BrokenExecutor` if no tasks are taken any more.
    """
    try:
        return pool.submit(carried_out, location, name, tile)
    except BrokenExecutor:
        raise
    except RuntimeError as error:  # it was shut down
        raise BrokenExecutor(str(error)) from error
