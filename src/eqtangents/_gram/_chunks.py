"""Tiles as chunks of Zarr arrays: where they lie, and how one is read and written.

A chunk is one tile, and holds a checksum. No two tasks write the same one, other than
with the same values, and a chunk of a local store is written aside and then moved, so
that it is there as a whole or not at all. Of other file systems this need not be known:
what was written in part does not have its checksum.
"""

import math
import os
import pathlib
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
        if name not in group:
            group.create_array(
                name,
                shape=self.shape,
                chunks=self.chunks,
                dtype=self.dtype,
                compressors=[zarr("zarr.codecs").Crc32cCodec()],
                fill_value=_unwritten(self.dtype),
                attributes={"symmetric": self.symmetric},
            )
        array = group[name]
        symmetric = array.attrs.get("symmetric")
        found = StoredLayout(array.shape, array.chunks, array.dtype, symmetric)
        if found != self:
            raise ValueError(
                f"{array.store_path} is {found}, but must be {self}: it was changed "
                "since this store was begun. Give another place."
            )


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


def drop_leftovers(location: Location) -> None:
    """Drop what killed processes were writing."""
    if isinstance(location, str) and "://" not in location:
        for path in pathlib.Path(location).rglob("*.partial"):
            path.unlink(missing_ok=True)


def _unwritten(dtype: np.dtype) -> Any:
    """The value of entries that are not there."""
    return dtype.type(np.nan if np.issubdtype(dtype, np.inexact) else 0)
