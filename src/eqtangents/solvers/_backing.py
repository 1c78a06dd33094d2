"""Where the entries of a matrix come from: each kind multiplies as it best can."""

import abc
import functools
from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from eqtangents._gram._placement import whole_of
from eqtangents._products import matmul


ColumnBlock: TypeAlias = Float[Array, "rows columns"]
WholeMatrix: TypeAlias = Float[Array, "n1 n2"]

# Of a matrix outside of JAX's memory, rows are read in parts of about this size.
STRIP_BYTES = 2**26
# And the diagonal in blocks of so many rows.
BLOCK_ROWS = 256


class AbstractBacking(eqx.Module):
    """The entries of a matrix, without any noise."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype:
        """Of the entries, and of vectors."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""

    @abc.abstractmethod
    def multiply(self, columns: Float[Array, "n2 columns"]) -> ColumnBlock:
        """The product with some columns."""

    @abc.abstractmethod
    def transposed(self) -> "AbstractBacking":
        """The entries mirrored."""

    @abc.abstractmethod
    def diagonal(self) -> Float[Array, " least"]:
        """Entries whose row is their column."""

    @abc.abstractmethod
    def columns(self, chosen: Int[Array, " columns"]) -> ColumnBlock:
        """Some columns."""

    @abc.abstractmethod
    def formed(self) -> WholeMatrix:
        """All entries."""


class Formed(AbstractBacking):
    """An array of JAX, on one device or split over a mesh."""

    matrix: WholeMatrix

    @property
    def shape(self) -> tuple[int, int]:
        """As of the array."""
        return self.matrix.shape[0], self.matrix.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """As of the array."""
        return np.dtype(self.matrix.dtype)

    def multiply(self, columns: Float[Array, "n2 columns"]) -> ColumnBlock:
        """Devices multiply the rows that they have."""
        return whole_of(matmul, self.matrix, columns)

    def transposed(self) -> "Formed":
        """Another array."""
        return Formed(self.matrix.T)

    def diagonal(self) -> Float[Array, " least"]:
        """As of the array."""
        return whole_of(jnp.diagonal, self.matrix)

    def columns(self, chosen: Int[Array, " columns"]) -> ColumnBlock:
        """As of the array."""
        return whole_of(lambda matrix, chosen: matrix[:, chosen], self.matrix, chosen)

    def formed(self) -> WholeMatrix:
        """The array."""
        return self.matrix


@runtime_checkable
class HostMatrix(Protocol):
    """What lies outside of JAX's memory, on disk say, and is read in parts."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        ...

    @property
    def dtype(self) -> Any:
        """Of the whole."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Some rows and columns: slices, or one slice and a list in rising order."""
        ...


@runtime_checkable
class Multiplies(Protocol):
    """What knows better than by strips how it is multiplied."""

    def __matmul__(self, columns: np.ndarray, /) -> Any:
        """The product with some columns."""
        ...


class Source:
    """A matrix on the host as a constant of compiled programs, the same one or not."""

    def __init__(self, matrix: HostMatrix, mirrored: bool = False):
        """Read nothing yet."""
        self.matrix, self.mirrored = matrix, mirrored
        rows, columns = matrix.shape
        self.shape = (columns, rows) if mirrored else (rows, columns)
        self.dtype = np.dtype(jax.dtypes.canonicalize_dtype(matrix.dtype))

    def strips(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Parts of the stored rows, one after the other."""
        rows, columns = self.matrix.shape
        height = max(1, STRIP_BYTES // max(1, columns * self.dtype.itemsize))
        for start in range(0, rows, height):
            part = slice(start, min(start + height, rows))
            yield part, np.asarray(self.matrix[part, :], self.dtype)

    def multiply(self, columns: np.ndarray | Array) -> np.ndarray:
        """The product, as the matrix has it or while one strip is in memory.

        Axes before the rows are more columns.
        """
        *batch, n, width = columns.shape
        columns = np.moveaxis(np.asarray(columns), -2, 0).reshape(n, -1)
        product = self._product(columns).reshape(-1, *batch, width)
        return np.moveaxis(product, 0, -2)

    def _product(self, columns: np.ndarray) -> np.ndarray:
        if isinstance(self.matrix, Multiplies) and not self.mirrored:
            return np.asarray(self.matrix @ columns, self.dtype)
        product = np.zeros((self.shape[0], columns.shape[1]), self.dtype)
        for part, strip in self.strips():
            if self.mirrored:
                product += strip.T @ columns[part]
            else:
                product[part] = strip @ columns
        return product

    def diagonal(self) -> np.ndarray:
        """Entries whose row is their column."""
        least = min(self.shape)
        parts = (
            slice(i, min(i + BLOCK_ROWS, least)) for i in range(0, least, BLOCK_ROWS)
        )
        blocks = (np.asarray(self.matrix[part, part], self.dtype) for part in parts)
        return np.concatenate([np.zeros(0, self.dtype), *map(np.diagonal, blocks)])

    def columns(self, chosen: np.ndarray | Array) -> np.ndarray:
        """Some columns, each read once."""
        each, place = np.unique(np.asarray(chosen), return_inverse=True)
        if self.mirrored:
            return np.asarray(self.matrix[each, :], self.dtype)[place].T
        return np.asarray(self.matrix[:, each], self.dtype)[:, place]


class HostBacking(AbstractBacking):
    """Entries outside of JAX's memory, of which a strip of rows is read at a time.

    They have no derivatives.
    """

    source: Source = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, int]:
        """As of the source."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        """As of the source, in a precision that JAX has."""
        return self.source.dtype

    def multiply(self, columns: Float[Array, "n2 columns"]) -> ColumnBlock:
        """The whole is read once for all columns."""
        return _product_on_host(self, columns)

    def transposed(self) -> "HostBacking":
        """The same source, read otherwise."""
        return HostBacking(Source(self.source.matrix, not self.source.mirrored))

    def diagonal(self) -> Float[Array, " least"]:
        """Blocks on the diagonal are read."""
        like = jax.ShapeDtypeStruct((min(self.shape),), self.dtype)
        return jax.pure_callback(self.source.diagonal, like)

    def columns(self, chosen: Int[Array, " columns"]) -> ColumnBlock:
        """The whole is read once for all of them."""
        like = jax.ShapeDtypeStruct((self.shape[0], *chosen.shape), self.dtype)
        return jax.pure_callback(
            self.source.columns, like, chosen, vmap_method="sequential"
        )

    def formed(self) -> WholeMatrix:
        """All that there is."""
        every = jnp.arange(self.shape[1], dtype=jnp.int32)
        return self.columns(every)


# JAX cannot look into a callback: its derivative, and the transpose of that, are told.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _product_on_host(
    backing: HostBacking, columns: Float[Array, "n2 columns"]
) -> ColumnBlock:
    like = jax.ShapeDtypeStruct((backing.shape[0], columns.shape[1]), backing.dtype)
    return jax.pure_callback(
        backing.source.multiply, like, columns, vmap_method="broadcast_all"
    )


@_product_on_host.defjvp
def _product_on_host_jvp(
    backing: HostBacking, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[ColumnBlock, ColumnBlock]:
    (columns,), (moved,) = primals, tangents
    change = jax.custom_derivatives.linear_call(
        lambda _, v: _product_on_host(backing, v),
        lambda _, v: _product_on_host(backing.transposed(), v),
        (),
        moved,
    )
    return _product_on_host(backing, columns), change
