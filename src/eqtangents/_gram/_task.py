"""Tasks for workers: how they get the job that a tile belongs to.

A task is the place of a store, the name of a job and a tile. Whoever carries it out has
the job, or takes it from the store once: network and inputs travel once to a worker,
whatever the executor, as every worker reaches the store. A job is named by its hash, so
that what anybody else may have put in its place is not taken.
"""

import contextlib
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from eqtangents._extras import needed
from eqtangents._gram._chunks import Location, TileNumber, is_sound, write_tile, zarr
from eqtangents._gram._facts import versions
from eqtangents._gram._job import Job
from eqtangents._gram._stored import stored_arrays


# Where a job lies in a store while it is being done.
_JOBS = "_jobs"
_BYTES_OF_A_PART = 2**26


class _Assignment(NamedTuple):
    """A job, and the matrices in a store that it is of."""

    job: Job
    arrays: tuple[Any, ...]


# Of this process, by the names of jobs: its own, and the latest that it was sent. That
# has a place as well, since the same job may be done for several stores.
_OWN: dict[str, _Assignment] = {}
_SENT: dict[tuple[str, str], _Assignment] = {}
_RECEIVING = threading.Lock()
# Processes that are copies of one that had this module, and with it JAX.
_FORKED: set[int] = set()


def _forget() -> None:
    _OWN.clear()
    _FORKED.add(os.getpid())


if os.name == "posix":
    os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def announced(job: Job, location: Location, elsewhere: bool) -> Iterator[str]:
    """The name by which tasks find a job, in this process or `elsewhere`."""
    name = _sent(job, location) if elsewhere else uuid.uuid4().hex
    _OWN[name] = _Assignment(job, _arrays(location))
    try:
        yield name
    finally:
        del _OWN[name]


def _sent(job: Job, location: Location) -> str:
    """Put a job into the store, and return the hash of it."""
    if isinstance(job.mesh, Mesh):
        raise TypeError(
            "`mesh` is one of devices of this process, which the workers of an "
            "executor do not have. Give a function that makes one, and that each "
            "worker calls: `lambda: jax.make_mesh((jax.device_count(),), ('rows',))`."
        )
    try:
        pickled = needed("cloudpickle", "scale", "A store with an executor").dumps(job)
    except (TypeError, AttributeError) as error:
        raise TypeError(
            f"The kernel cannot be sent to the workers of an executor: {error}."
        ) from error
    name = hashlib.sha256(pickled).hexdigest()
    group = zarr().open_group(location, mode="r+").require_group(_JOBS)
    values = np.frombuffer(pickled, np.uint8)
    size = min(len(values), _BYTES_OF_A_PART)
    # What a killed process may have left of it is not trusted.
    group.create_array(
        name, data=values, chunks=(size,), compressors=None, overwrite=True
    )
    return name


def drop_jobs(location: Location) -> None:
    """Drop what was sent to workers."""
    group = zarr().open_group(location, mode="r+")
    if _JOBS in group:
        del group[_JOBS]


def carried_out(
    location: Location, name: str, tile: TileNumber
) -> tuple[TileNumber, bool]:
    """Have a tile in the store: the task of a worker.

    **Returns:** the tile, and whether it had to be computed. It may be done any number
    of times.
    """
    work = _OWN.get(name) or _received(location, name)
    if all(is_sound(array, tile) for array in work.arrays):
        return tile, False
    for array, block in zip(work.arrays, work.job.blocks(tile), strict=True):
        write_tile(array, tile, block)
    return tile, True


def _received(location: Location, name: str) -> _Assignment:
    """What was sent, taken from the store by the first task that needs it."""
    if os.getpid() in _FORKED:
        raise RuntimeError(
            "This worker is a fork of a process that uses JAX, whose threads it lacks: "
            "it would wait for ever. Start workers anew, by `ProcessPoolExecutor("
            "mp_context=multiprocessing.get_context('spawn'))` say."
        )
    with _RECEIVING:
        if (sent := (str(location), name)) not in _SENT:
            found = _taken(location, name)
            _SENT.clear()
            _SENT[sent] = found
        return _SENT[sent]


def _taken(location: Location, name: str) -> _Assignment:
    try:
        group = zarr().open_group(location, mode="r+")
        sent = group[_JOBS][name]
    except (FileNotFoundError, KeyError):
        raise RuntimeError(
            f"This worker does not find what it is to compute in {location}. All "
            "workers must reach the store, by the same path or URL: nothing in the "
            "memory of one process will do. Another run in the same place may also "
            "have ended and dropped it: then call `eqtangents.gram` again."
        ) from None
    there = group.attrs["eqtangents"]["versions"]
    if there != versions():
        raise RuntimeError(
            f"This worker has {versions()}, but the store was begun with {there}, and "
            "rounds differently. Install the same versions on all workers."
        )
    pickled = sent[:].tobytes()
    if hashlib.sha256(pickled).hexdigest() != name:
        raise RuntimeError(
            f"What {location} has for workers is not what this run has put there. Call "
            "`eqtangents.gram` again."
        )
    job = needed("cloudpickle", "scale", "A store with an executor").loads(pickled)
    return _Assignment(job, _arrays(location))


def _arrays(location: Location) -> tuple[Any, ...]:
    return tuple(stored_arrays(zarr().open_group(location, mode="r+")).values())
