"""Tiles as chunks of Zarr arrays: where they lie, and how one is read and written.

A chunk is one tile, and holds a checksum. No two tasks write the same one, other than
with the same values, and a chunk of a local store is written aside and then moved, so
that it is there as a whole or not at all. Of other file systems this need not be known:
what was written in part does not have its checksum.
"""

import contextlib
import itertools
import math
import os
import pathlib
import re
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Shaped

from eqtangents._arguments import described
from eqtangents._extras import needed


# The number of a tile among the tiles of its column, and among those of its row.
TileNumber: TypeAlias = tuple[int, int]
# A path, a URL that `fsspec` knows, or a store of Zarr.
Location: TypeAlias = str | os.PathLike | Any

_PURPOSE = "A matrix in a store"
ANOTHER_PLACE = "Give another place, or remove what is there."


def zarr(module: str = "zarr") -> Any:
    """The package, or one of its modules."""
    return needed(module, "scale", _PURPOSE)


def checked_location(location: Any) -> Location:
    """A place that is the same one for workers: paths begin at the root."""
    if isinstance(location, os.PathLike):
        location = os.fspath(location)
    if isinstance(location, str) and location:
        path = location.removeprefix("file://")
        return path if "://" in path else os.path.abspath(path)
    if isinstance(location, zarr("zarr.abc.store").Store):
        return location
    raise TypeError(
        f"`store` is {described(location)}, but must be a path, a URL, "
        '`"s3://bucket/gram.zarr"` say, or a store of `zarr.storage`.'
    )


def opened(location: Location) -> Any | None:
    """The hierarchy of Zarr that is at a place, to be read; `None` if nothing is there.

    **Raises:** `ValueError` if something else is there, or what cannot be read.
    """
    try:
        return zarr().open_group(location, mode="r")
    except FileNotFoundError:
        found = _found_in_folder(location)
    except (ValueError, TypeError, KeyError, OSError) as error:
        found = f"cannot be opened: {error}"
    if found is None:
        return None
    raise ValueError(f"{location} {found}. {ANOTHER_PLACE}")


def is_there(location: Location, name: str, tile: TileNumber) -> bool:
    """Whether a tile is seen from here, of a store opened anew."""
    array = zarr().open_group(location, mode="r")[name]
    return read_tile(array, tile) is not None


def manifest_in(group: Any) -> dict[str, Any]:
    """What a hierarchy of Zarr says that it is a store of.

    **Raises:** `ValueError` if it does not.
    """
    manifest = group.attrs.get("eqtangents")
    names = manifest.get("names") if isinstance(manifest, dict) else None
    if isinstance(names, list) and names and all(isinstance(n, str) for n in names):
        return manifest
    raise ValueError(
        f"{group.store_path} is a hierarchy of Zarr that is no matrix of "
        f"`eqtangents.gram`. {ANOTHER_PLACE}"
    )


def _found_in_folder(location: Location) -> str | None:
    """What is at a place that is none of Zarr; `None` for nothing, or a new folder."""
    path = local_path(location)
    if path is None or not path.exists():
        return None
    if not path.is_dir():
        return "is a file, and a store is a folder"
    others = sorted(one.name for one in path.iterdir() if not _is_leftover(one))
    return f"is a folder that has other files, {others[0]!r} say" if others else None


def local_path(location: Location) -> pathlib.Path | None:
    """The folder, if a place is one of this machine."""
    if isinstance(location, str):
        return None if "://" in location else pathlib.Path(location)
    store: Any = location
    is_local = isinstance(store, zarr("zarr.storage").LocalStore)
    return pathlib.Path(store.root) if is_local else None


class StoredLayout(NamedTuple):
    """What an array of Zarr is, beside its chunks."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    symmetric: bool

    def laid_out(self, group: Any, name: str) -> None:
        """Have such an array, with the chunks that it may have already.

        Chunks have a checksum, and are not compressed, as digits of kernels are random.

        **Raises:** `ValueError` if an array of this name is another one.
        """
        if not _has(group, name):
            group.create_array(
                name,
                shape=self.shape,
                chunks=self.chunks,
                dtype=self.dtype,
                compressors=[zarr("zarr.codecs").Crc32cCodec()],
                fill_value=_unwritten(self.dtype),
                attributes={"symmetric": self.symmetric},
            )
        found = _layout_of(group, name)
        if found != self:
            raise ValueError(
                f"{group.store_path}/{name} is {found}, but must be {self}: it was "
                f"changed since this store was begun. {ANOTHER_PLACE}"
            )


def _has(group: Any, name: str) -> bool:
    try:
        return name in group
    except ValueError:  # it cannot be read
        return True


def _layout_of(group: Any, name: str) -> StoredLayout | str:
    """What an array is, or what is wrong with it."""
    try:
        array = group[name]
        symmetric = array.attrs.get("symmetric")
        return StoredLayout(array.shape, array.chunks, array.dtype, symmetric)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"no array of Zarr ({error!r})"


def tile_counts(array: Any) -> tuple[int, int]:
    """How many tiles a column and a row of a matrix have."""
    n1, n2 = (
        math.ceil(n / size)
        for n, size in zip(array.shape[:2], array.chunks[:2], strict=True)
    )
    return n1, n2


def region(array: Any, tile: TileNumber) -> tuple[slice, slice]:
    """The rows and the columns of a tile; the last ones may be fewer."""
    rows, columns = (
        slice(i * size, min((i + 1) * size, n))
        for i, size, n in zip(tile, array.chunks[:2], array.shape[:2], strict=True)
    )
    return rows, columns


def read_tile(array: Any, tile: TileNumber) -> Shaped[np.ndarray, "t1 t2 *rest"] | None:
    """A tile; `None` if there is none.

    **Raises:** `ValueError` if it is damaged.
    """
    try:
        block = array[region(array, tile)]
    except ValueError as error:  # the checksum is wrong
        raise ValueError(
            f"Tile {tile} of {array.store_path} is damaged: {error}"
        ) from None
    first = block.reshape(-1)[:1]
    # What is not there reads as this.
    if not np.array_equal(first, [_unwritten(block.dtype)], equal_nan=True):
        return block
    key = "/".join(["c", *map(str, tile), *["0"] * (array.ndim - 2)])
    run = zarr("zarr.core.sync").sync
    return block if run(array.store.exists(f"{array.path}/{key}")) else None


def is_sound(array: Any, tile: TileNumber) -> bool:
    """Whether a tile is there, and undamaged."""
    try:
        return read_tile(array, tile) is not None
    except ValueError:
        return False


def write_tile(
    array: Any, tile: TileNumber, block: Shaped[np.ndarray, "t1 t2 *rest"]
) -> None:
    """Put a tile in its place, whether or not something is there."""
    array[region(array, tile)] = block


def drop_leftovers(location: Location, names: list[str], since: float) -> None:
    """Drop what killed processes were writing, before this time.

    What is newer may be of another run, which goes on.
    """
    if (path := local_path(location)) is None:
        return
    of_arrays = ((path / name).rglob("*") for name in names)
    for one in itertools.chain(path.iterdir(), *of_arrays):
        with contextlib.suppress(FileNotFoundError):  # was dropped, or moved, meanwhile
            if _is_leftover(one) and one.stat().st_mtime < since:
                one.unlink()


def _is_leftover(path: pathlib.Path) -> bool:
    """Whether a store on disk calls files so while it writes them."""
    return re.search(r"\.[0-9a-f]{32}\.partial$", path.name) is not None


def _unwritten(dtype: np.dtype) -> Any:
    """The value of entries that are not there."""
    return dtype.type(np.nan if np.issubdtype(dtype, np.inexact) else 0)
