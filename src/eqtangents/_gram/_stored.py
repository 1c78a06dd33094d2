"""Matrices of kernels that lie in a store: how they are read."""

import collections
import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Array, Int, Num, Shaped

from eqtangents._arguments import described
from eqtangents._gram._chunks import (
    Location,
    TileNumber,
    checked_location,
    manifest_in,
    opened,
    read_tile,
    region,
    tile_counts,
)
from eqtangents._gram._mirror import mirror


# So many tiles are read ahead of the one that is used.
AHEAD = 2

_HOW_TO_COMPLETE = "Call `eqtangents.gram` as before: it computes what is not stored."
_WHAT_INDICES = (
    "A matrix in a store takes rows and columns, `k[rows, columns]`: each of them an "
    "integer, a slice, or a list of integers or of as many booleans as there are rows."
)


class StoredGram:
    """A matrix of kernels in a store, of which parts are read when they are asked for.

    `k[:100, :]` reads rows, `k[rows][:, columns]` and `k[rows, columns]` any of them by
    slices, integers or lists of integers, and `numpy.asarray(k)` everything, as arrays
    of NumPy. The matrix is symmetric, to the last bit, if it was computed without a
    second batch, although one of two tiles that mirror each other is stored.
    `k @ v` is the product with a vector or several, for which each tile is read once.

    `eqtangents.gram` returns one. A matrix that was computed elsewhere, or long ago, is
    opened without its network and its inputs.

    **Arguments:**

    - `location`: a path, a URL that `fsspec` knows, or a store of `zarr.storage`.
    - `name`: which of several matrices, `"ntk"` or `"nngp"` where both kernels were
        asked for.

    **Raises:** `FileNotFoundError` if nothing is there; `ValueError` if it is no matrix
    of `eqtangents.gram`, or has no such name. Reading raises `ValueError` for a tile
    that is damaged, and for one that is not there yet: `eqtangents.gram` computes both.

    **Cost:** of memory, the result and a few tiles.
    """

    def __init__(self, location: Location, name: str | None = None):
        """Open a store."""
        self._location = checked_location(location)
        if (group := opened(self._location)) is None:
            raise FileNotFoundError(f"There is nothing at {self._location}.")
        arrays = stored_arrays(group)
        chosen = [name] if name is not None else list(arrays)
        if len(chosen) != 1 or chosen[0] not in arrays:
            names = ", ".join(f'"{name}"' for name in arrays)
            raise ValueError(
                f"`name` is {described(name)}, but {self._location} has the matrices "
                f"{names}: choose one by `name`."
            )
        self._name = chosen[0]
        self._array = arrays[self._name]

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredGram, (self._location, self._name)

    def __repr__(self) -> str:
        return (
            f"StoredGram({str(self._location)!r}, {self._name!r}, shape={self.shape}, "
            f"dtype={self.dtype})"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The numbers of examples, and of whatever axes a kernel has beyond these."""
        return self._array.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the entries."""
        return self._array.dtype

    @property
    def symmetric(self) -> bool:
        """Whether one of two tiles that mirror each other is stored."""
        return self._array.attrs["symmetric"]

    @property
    def tile(self) -> tuple[int, int]:
        """How many rows and columns a tile has; the last ones may have fewer."""
        return self._array.chunks[:2]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> Shaped[np.ndarray, "n1 n2 *rest"]:
        if copy is False:
            raise ValueError("A matrix in a store is read into a new array.")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def __getitem__(self, index: Any) -> Shaped[np.ndarray, "..."]:
        chosen = index if isinstance(index, tuple) else (index,)
        if len(chosen) > self.ndim or any(one is ... for one in chosen):
            raise IndexError(_WHAT_INDICES)
        rows, columns, *_ = (*chosen[:2], slice(None), slice(None))
        first = _row_numbers(rows, self.shape[0])
        second = _row_numbers(columns, self.shape[1])
        found = self._gathered(np.atleast_1d(first), np.atleast_1d(second))
        # Numbers, unlike slices and lists, leave no axis.
        found = found.reshape((*np.shape(first), *np.shape(second), *self.shape[2:]))
        more = (slice(None),) * (np.ndim(first) + np.ndim(second))
        return np.asarray(found[(*more, *chosen[2:])])

    def tiles(self) -> Iterator[tuple[slice, slice, Shaped[np.ndarray, "..."]]]:
        """The rows, the columns and the entries of all tiles, each of which is read.

        Of a symmetric matrix they are those on and above the diagonal.
        """
        count1, count2 = tile_counts(self._array)
        tiles = ((i, j) for i in range(count1) for j in range(count2))
        for tile, block in self._read(filter(self._is_stored, tiles)):
            yield *region(self._array, tile), block

    def diagonal(self) -> Shaped[np.ndarray, " n *rest"]:
        """The kernel of each example with itself; of a square matrix."""
        self._check_square()
        blocks = self._read((i, i) for i in range(tile_counts(self._array)[0]))
        own = [np.moveaxis(np.diagonal(block), -1, 0) for _, block in blocks]
        return np.concatenate(own) if own else np.zeros(self.shape[1:], self.dtype)

    def __matmul__(
        self, vectors: Num[np.ndarray | Array, " n2 *columns"]
    ) -> Num[np.ndarray, " n1 *columns"]:
        vectors = np.asarray(vectors)
        n1, n2, *rest = self.shape
        if rest or vectors.ndim not in (1, 2) or vectors.shape[0] != n2:
            raise ValueError(
                f"A matrix of shape {self.shape} cannot be multiplied with an array of "
                f"shape {vectors.shape}: it needs two axes, and {n2} rows there."
            )
        dtype = np.result_type(self.dtype, vectors.dtype)
        # Sums are float64: weights of large kernels cancel, and solvers would see no
        # more than the rounding of float32.
        wide = np.result_type(dtype, np.float64) if dtype.kind == "f" else dtype
        vectors = vectors.astype(wide)
        result = np.zeros((n1, *vectors.shape[1:]), wide)
        for rows, columns, block in self.tiles():
            block = block.astype(wide)
            result[rows] += block @ vectors[columns]
            if self.symmetric and rows != columns:
                result[columns] += block.T @ vectors[rows]
        return result.astype(dtype)

    def check_complete(self) -> None:
        """Raise `ValueError` if a tile is not there, as while a run still goes on.

        Checksums are not compared: that is done whenever a tile is read.
        """
        rows, columns = map(range, tile_counts(self._array))
        count = sum(map(self._is_stored, itertools.product(rows, columns)))
        if (there := self._array.nchunks_initialized) < count:
            raise ValueError(
                f"{count - there} of {count} tiles of {self._location} are not there "
                f"yet. {_HOW_TO_COMPLETE}"
            )

    def _check_square(self) -> None:
        if self.shape[0] != self.shape[1]:
            raise ValueError(
                "The diagonal is that of a matrix of one batch, but this one has the "
                f"shape {self.shape}."
            )

    def _is_stored(self, tile: TileNumber) -> bool:
        return not self.symmetric or tile[0] <= tile[1]

    def _gathered(
        self, rows: Int[np.ndarray, " r"], columns: Int[np.ndarray, " c"]
    ) -> Shaped[np.ndarray, "r c *rest"]:
        """Entries of some rows and columns, each tile read once."""
        result = np.empty((len(rows), len(columns), *self.shape[2:]), self.dtype)
        by_row, by_column = (
            _by_tile(index, size)
            for index, size in zip((rows, columns), self.tile, strict=True)
        )
        places = collections.defaultdict(list)
        for (i, own), (j, other) in itertools.product(
            by_row.items(), by_column.items()
        ):
            stored = (i, j) if self._is_stored((i, j)) else (j, i)
            places[stored].append((stored != (i, j), own, other))
        for tile, block in self._read(iter(places)):
            for is_mirror, own, other in places[tile]:
                whole = mirror(block) if is_mirror else block
                i, j = tile[::-1] if is_mirror else tile
                first, second = i * self.tile[0], j * self.tile[1]
                part = whole[np.ix_(rows[own] - first, columns[other] - second)]
                result[np.ix_(own, other)] = part
        return result

    def _read(
        self, tiles: Iterator[TileNumber]
    ) -> Iterator[tuple[TileNumber, np.ndarray]]:
        """Tiles, the next ones of which are being read already."""
        with ThreadPoolExecutor(AHEAD) as pool:
            coming: collections.deque[tuple[TileNumber, Future]] = collections.deque()
            try:
                for tile in tiles:
                    coming.append((tile, pool.submit(self._block, tile)))
                    if len(coming) > AHEAD:
                        yield coming[0][0], coming.popleft()[1].result()
                while coming:
                    yield coming[0][0], coming.popleft()[1].result()
            finally:
                for _, future in coming:
                    future.cancel()

    def _block(self, tile: TileNumber) -> Shaped[np.ndarray, "t1 t2 *rest"]:
        try:
            block = read_tile(self._array, tile)
        except ValueError as error:
            raise ValueError(f"{error} {_HOW_TO_COMPLETE}") from None
        if block is None:
            raise ValueError(
                f"Tile {tile} of {self._location} is not there yet. {_HOW_TO_COMPLETE}"
            )
        return block


def stored_arrays(group: Any) -> dict[str, Any]:
    """The matrices of a store, by their names.

    Chunks are written whatever is in them: one that is not there reads like another.
    """
    names = manifest_in(group)["names"]
    try:
        arrays = {name: group[name] for name in names}
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{group.store_path} lacks a matrix that it should have: {error!r}. "
            f"{_HOW_TO_COMPLETE}"
        ) from None
    write_all = lambda array: array.with_config({"write_empty_chunks": True})
    return {name: write_all(array) for name, array in arrays.items()}


def _row_numbers(index: Any, n: int) -> Int[np.ndarray, "..."]:
    """The numbers of rows that an index chooses: one, or a list."""
    found = np.asarray(np.arange(n)[index])
    if found.ndim > 1:
        raise IndexError(_WHAT_INDICES)
    return found


def _by_tile(
    index: Int[np.ndarray, " r"], size: int
) -> dict[int, Int[np.ndarray, " p"]]:
    """Where in a list of rows those of each tile are."""
    tiles = index // size
    order = np.argsort(tiles, kind="stable")
    first = np.flatnonzero(np.diff(tiles[order], prepend=-1))
    parts = np.split(order, first[1:]) if len(order) else []
    return {int(tiles[part[0]]): part for part in parts}
