"""Matrices of kernels as linear operators, wherever their entries come from."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from eqtangents._arguments import checked_integer, described
from eqtangents._gram._gram import checked_pairs
from eqtangents._gram._pairs import AbstractPairs, NetworkPairs
from eqtangents._gram._placement import made_mesh
from eqtangents._gram._stored import StoredGram
from eqtangents._kernel import Kernel, Kind
from eqtangents._parameters import Trainable
from eqtangents._refuse import refuse
from eqtangents._tile_plan import Examples
from eqtangents._trees import Batch
from eqtangents._types import Scalar
from eqtangents.nn import AbstractLayer
from eqtangents.solvers._backing import (
    AbstractBacking,
    ColumnBlock,
    Formed,
    HostBacking,
    HostMatrix,
    Source,
)
from eqtangents.solvers._never_formed import NeverFormed


# The side of a tile of a function, of which it is not known what fits the cache.
FUNCTION_TILE = 512

_BAD_NOISE = (
    "`noise` and `relative_noise` are variances: both must be finite and at least zero."
)


class GramOperator(lx.AbstractLinearOperator):
    r"""A matrix of kernels, with noise on its diagonal, as a linear operator.

    $$v \mapsto (K + \operatorname{diag} \sigma^2)\, v$$

    Its entries are an array of JAX, maybe split over a mesh; or lie on disk and are
    read part by part; or are computed anew in each product and never stored. Solvers
    only multiply with it, and need no more memory than it does.

    ```python
    operator = eqt.GramOperator(net, x_train, noise=1e-2)
    preconditioner = eqt.rp_cholesky(operator, 300, key=key)
    weights = eqt.solve(operator, y_train, eqt.solvers.BlockCG(preconditioner)).value
    mean = eqt.GramOperator(net, x_test, x_train).multiply(weights)
    ```

    It is a `lineax.AbstractLinearOperator`: functions of `lineax` take it. The
    kernels of a batch with itself are symmetric and positive semidefinite.

    **Cost:** of a product, `n1 n2` multiply-adds for each column. What was never formed
    is computed once for all columns, half of it if it is symmetric; what lies on disk
    is read once for all columns.
    """

    backing: AbstractBacking
    noise: Float[Array, " n"] | None  # of a symmetric matrix

    def __init__(
        self,
        kernel: "AbstractLayer | Callable[[Any, Any], Any] | Array | HostMatrix",
        x1: Batch | None = None,
        x2: Batch | None = None,
        *,
        kind: Kind = "ntk",
        trainable: Trainable = None,
        noise: Scalar | Float[Array, " n"] | None = None,
        relative_noise: Scalar = 0.0,
        tile: int | None = None,
        mesh: Mesh | Callable[[], Mesh] | None = None,
    ):
        r"""Hold a matrix, or what computes its entries.

        **Arguments:**

        - `kernel`: a matrix of kernels, as an array of JAX or NumPy; or any object with
            `shape`, `dtype` and slices, an `eqtangents.StoredGram` or a `numpy.memmap`
            say, which is read part by part in each product; or, with `x1`, a network or
            a function of two batches as for `eqtangents.gram`: nothing is stored then.
        - `x1`, `x2`: batches of a network or function. Without `x2` both are `x1`.
        - `kind`, `trainable`: which kernel of a network, and of which parameters, as
            for `eqtangents.gram`.
        - `noise`: variance $\sigma^2$ on the diagonal, one for all or one each row.
            A matrix that comes alone is of one batch if it has noise, be that 0, and
            else of two, which have none.
        - `relative_noise`: more noise, in units of the mean of the diagonal.
        - `tile`: how many examples of either batch a tile of a product has at most; by
            default as for `eqtangents.gram`, and 512 for a function.
        - `mesh`: devices that share the tiles of a product; each has all examples. An
            array that is split over a mesh needs none.

        **Raises:** `TypeError` and `ValueError` as `eqtangents.gram` does, or if the
        arguments do not fit each other. `RuntimeError` if a noise is negative.
        """
        if x1 is None:
            needless = {"x2": x2, "trainable": trainable, "tile": tile, "mesh": mesh}
            self.backing = _backing_of_matrix(kernel, needless)
        else:
            found = checked_pairs(_checked_function(kernel), x1, x2, kind, trainable)
            tile = _checked_tile(tile, *found[:2])
            self.backing = NeverFormed(*found, tile, made_mesh(mesh))
        noisy = noise is not None or not _is_no_noise(relative_noise)
        rows, columns = self.backing.shape
        alone = x2 is None and (x1 is not None or noisy) and rows == columns
        self.noise = _noise(self.backing, noise, relative_noise) if alone else None
        if noisy and not alone:
            raise ValueError(
                "`noise` is on the diagonal of the kernels of a batch with itself, but "
                f"this matrix, of shape {self.backing.shape}, is of two batches."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return self.backing.shape

    @property
    def dtype(self) -> np.dtype:
        """Of entries, and of vectors."""
        return self.backing.dtype

    @property
    def symmetric(self) -> bool:
        """Whether both batches are the same."""
        return self.noise is not None

    def multiply(self, columns: Float[Array, "n2 columns"]) -> ColumnBlock:
        """The product with some columns, at little more cost than with one."""
        product = self.backing.multiply(columns)
        if self.noise is None:
            return product
        return product + self.noise[:, None] * columns

    def mv(self, vector: Float[Array, " n2"]) -> Float[Array, " n1"]:
        """The product with a vector."""
        return self.multiply(vector[:, None])[:, 0]

    def as_matrix(self) -> Float[Array, "n1 n2"]:
        """All entries, with the noise."""
        matrix = self.backing.formed()
        return matrix if self.noise is None else matrix + jnp.diag(self.noise)

    def transpose(self) -> "GramOperator":
        """The operator of the batches exchanged."""
        if self.symmetric:
            return self
        return eqx.tree_at(lambda op: op.backing, self, self.backing.transposed())

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """A number for each column."""
        return jax.ShapeDtypeStruct(self.shape[1:], self.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """A number for each row."""
        return jax.ShapeDtypeStruct(self.shape[:1], self.dtype)


def noise_of(operator: GramOperator) -> Float[Array, " n"]:
    """The noise of an operator that was checked to be symmetric."""
    assert operator.noise is not None, "symmetric operators have noise"
    return operator.noise


def _backing_of_matrix(kernel: Any, needless: dict[str, Any]) -> AbstractBacking:
    """The entries of a matrix, beside which nothing is given."""
    if isinstance(kernel, Kernel):
        raise ValueError(
            "`kernel` is a `Kernel`, both kernels: pass its `.ntk` or `.nngp`."
        )
    if isinstance(kernel, AbstractLayer) or not isinstance(kernel, HostMatrix):
        raise TypeError(
            f"`kernel` is {described(kernel)}, without `x1`: a matrix is needed, or a "
            "network or function together with the examples `x1`."
        )
    for name, value in needless.items():
        if value is not None:
            raise ValueError(
                f"`{name}` is given beside a matrix, whose entries are known: leave it "
                "out."
            )
    if len(kernel.shape) != 2 or not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise ValueError(
            f"`kernel` is {described(kernel)}, but a matrix of a floating dtype is "
            "needed: the kernel of a network that ends in a readout."
        )
    if isinstance(kernel, StoredGram):
        kernel.check_complete()
    in_memory = isinstance(kernel, jax.Array) or type(kernel) is np.ndarray
    return Formed(jnp.asarray(kernel)) if in_memory else HostBacking(Source(kernel))


def _checked_function(kernel: Any) -> Any:
    """What computes entries."""
    if callable(kernel):
        return kernel
    raise TypeError(
        f"`kernel` is {described(kernel)}, with `x1`: a network or a function of two "
        "batches is needed; a matrix comes alone."
    )


def _checked_tile(tile: Any, pairs: AbstractPairs, x1: Examples) -> int:
    """How many examples a tile has on a side at most."""
    if tile is not None:
        return checked_integer("tile", tile, 1)
    return pairs.square_tile(x1) if isinstance(pairs, NetworkPairs) else FUNCTION_TILE


def _is_no_noise(number: Any) -> bool:
    return isinstance(number, int | float) and number == 0


def _noise(
    backing: AbstractBacking,
    noise: Scalar | Float[Array, " n"] | None,
    relative_noise: Scalar,
) -> Float[Array, " n"]:
    """A variance for each row."""
    n, dtype = backing.shape[0], backing.dtype
    each = jnp.asarray(0.0 if noise is None else noise, dtype)
    if each.shape not in ((), (n,)):
        raise ValueError(
            f"`noise` has shape {each.shape}: one number, or one for each of the {n} "
            "rows, is needed."
        )
    total = jnp.broadcast_to(each, (n,))
    relative = jnp.asarray(relative_noise, dtype)
    if not _is_no_noise(relative_noise):
        total = total + relative * jnp.mean(backing.diagonal())
    wrong = ~(jnp.all(jnp.isfinite(total) & (each >= 0)) & (relative >= 0))
    return refuse(total, (wrong, _BAD_NOISE))


def _has_one_entry(operator: GramOperator) -> bool:
    return operator.shape == (1, 1)


@lx.is_symmetric.register(GramOperator)
def _gram_is_symmetric(operator: GramOperator) -> bool:
    return operator.symmetric or _has_one_entry(operator)


@lx.is_positive_semidefinite.register(GramOperator)
def _gram_is_semidefinite(operator: GramOperator) -> bool:
    return operator.symmetric


@lx.is_diagonal.register(GramOperator)
@lx.is_tridiagonal.register(GramOperator)
@lx.is_lower_triangular.register(GramOperator)
@lx.is_upper_triangular.register(GramOperator)
def _gram_is_sparse(operator: GramOperator) -> bool:
    return _has_one_entry(operator)


@lx.has_unit_diagonal.register(GramOperator)
@lx.is_negative_semidefinite.register(GramOperator)
def _gram_is_never(operator: GramOperator) -> bool:
    return False


@lx.conj.register(GramOperator)
@lx.linearise.register(GramOperator)
def _gram_itself(operator: GramOperator) -> GramOperator:
    return operator  # it is real, and linear


@lx.materialise.register(GramOperator)
def _formed_gram(operator: GramOperator) -> lx.MatrixLinearOperator:
    tags = {lx.positive_semidefinite_tag} if operator.symmetric else set()
    return lx.MatrixLinearOperator(operator.as_matrix(), frozenset(tags))


@lx.diagonal.register(GramOperator)
def _gram_diagonal(operator: GramOperator) -> Float[Array, " least"]:
    diagonal = operator.backing.diagonal()
    return diagonal if operator.noise is None else diagonal + operator.noise


@lx.tridiagonal.register(GramOperator)
def _gram_tridiagonal(
    operator: GramOperator,
) -> tuple[Float[Array, " least"], Float[Array, " lower"], Float[Array, " upper"]]:
    matrix = operator.as_matrix()
    return tuple(jnp.diagonal(matrix, offset) for offset in (0, -1, 1))
