"""What a store is of: a manifest that only the same call may go on with."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from eqtangents._gram._chunks import (
    Location,
    StoredLayout,
    manifest_in,
    opened,
    zarr,
)
from eqtangents._gram._facts import facts, versions
from eqtangents._gram._job import Job


# Of what is written below `eqtangents` in the attributes of a store.
FORMAT = 1
_SHOWN_DIFFERENCES = 5


def manifest_of(job: Job, names: list[str], alone: bool) -> dict[str, Any]:
    """All that the numbers of a store depend on.

    - `alone`: whether the second batch is the first.
    """
    return {
        "format": FORMAT,
        "names": names,
        "shape": [job.plan.n1, job.plan.n2],
        "tile": job.plan.tile[0],  # as many of either batch
        "kernel": facts("kernel", job.pairs),
        "x1": facts("x1", job.x1),
        "x2": None if alone else facts("x2", job.x2),
        "settings": job.settings,
        "versions": versions(),
    }


def stored_manifest(location: Location) -> dict[str, Any] | None:
    """The manifest of a store; `None` if there is no store.

    **Raises:** `ValueError` if something else is there.
    """
    group = opened(location)
    return None if group is None else manifest_in(group)


def check_same(
    location: Location, stored: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """Raise `ValueError` for a store of something else, naming what differs."""
    there, here = dict(_facts_within("", stored)), dict(_facts_within("", wanted))
    names = sorted({*there, *here}, key=lambda name: (name.count("."), name))
    differ = [name for name in names if there.get(name) != here.get(name)]
    if not differ:
        return
    told = lambda facts, name: facts.get(name, "missing")
    shown = [
        f"`{name}` is {told(here, name)}, and {told(there, name)} in the store"
        for name in differ[:_SHOWN_DIFFERENCES]
    ]
    more = len(differ) - len(shown)
    raise ValueError(
        f"The store {location} is of another call: {'; '.join(shown)}"
        + (f"; and {more} more differ" if more else "")
        + ". Give another place, or what the store was begun with; to read what is "
        "there, use `eqtangents.StoredGram`."
    )


def _facts_within(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a manifest: the facts of a value begin with its name already."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, part in value.items():
        within = key.startswith(name) or not name
        yield from _facts_within(key if within else f"{name}.{key}", part)


def matrices_in(
    location: Location, job: Job, manifest: dict[str, Any], likes: list[Any]
) -> None:
    """Make a store what a manifest says, with all that is missing.

    - `likes`: what each matrix has for one pair of examples.

    **Raises:** `ValueError` if a matrix is there that is another one.
    """
    group = zarr().open_group(location, mode="a", attributes={"eqtangents": manifest})
    plan, least = job.plan, [max(1, size) for size in job.plan.sizes]
    for name, like in zip(manifest["names"], likes, strict=True):
        shape, chunks = ((*two, *like.shape[2:]) for two in ((plan.n1, plan.n2), least))
        dtype = np.dtype(like.dtype)
        StoredLayout(shape, chunks, dtype, plan.symmetric).laid_out(group, name)
