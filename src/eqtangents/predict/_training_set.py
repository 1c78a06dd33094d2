"""What every predictor starts from: a kernel of the training examples, and targets."""

import math
from typing import TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._products import matmul
from eqtangents._types import Scalar
from eqtangents.predict._arguments import (
    NONFINITE_KERNEL,
    array_argument,
    finite,
    one_number,
    refuse,
)
from eqtangents.predict._kernel_matrix import as_matrix, check_kernel, checked_kernel
from eqtangents.predict._noise import checked_noise, noise_columns
from eqtangents.predict._targets import check_targets
from eqtangents.solvers import GramOperator


NO_MATRIX = (
    "This needs the kernel of the training examples as a matrix, but it was given as a "
    "`GramOperator`. If the matrix fits into memory, pass `operator.backing.formed()` "
    "and the noise."
)

_OPERATOR_WITHOUT_NOISE = (
    "`k_train_train` is a `GramOperator` without noise: give it some, "
    "`GramOperator(kernel, noise=1e-2)` say. Whether a kernel can be inverted without "
    "noise is not told by products with it."
)

_NOISE_TWICE = (
    "`noise` or `relative_noise` is given beside a `GramOperator`, which has its own: "
    "give it to the operator, so that its preconditioner knows of it."
)

TrainOutputs: TypeAlias = Float[Array, " n_train *positions_and_outputs"]


class TrainingSet(eqx.Module):
    """A kernel as a matrix, targets as its columns, and the shapes they had.

    Where outputs at several positions are correlated, pairs of an example and a
    position are the rows: all predictors work with matrices, and take and return arrays
    with the axes that users have.
    """

    kernel: Float[Array, "rows rows"] | GramOperator  # the latter with its noise
    targets: Float[Array, "rows columns"]
    noise: Float[Array, "rows groups"]  # one group of outputs, or one for each output
    noise_each: Float[Array, "positions groups"] | None  # if the same for all examples
    positions: tuple[int, ...] = eqx.field(static=True)
    outputs: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        k_train_train: Float[Array, "n_train n_train *positions_twice"] | GramOperator,
        y_train: TrainOutputs,
        noise: Scalar | Float[Array, "..."] = 0.0,
        relative_noise: Scalar = 0.0,
    ):
        """Check that they fit; later errors are about values.

        **Raises:** `ValueError` for shapes and dtypes; `RuntimeError` for values.
        """
        if not isinstance(k_train_train, GramOperator):
            k_train_train = array_argument("k_train_train", k_train_train)
        dtype = k_train_train.dtype
        # Not in the kernel's dtype, so that labels are told from targets.
        y_train = array_argument("y_train", y_train)
        check_kernel(k_train_train, y_train.shape)
        check_targets("y_train", y_train)
        rank = (len(k_train_train.shape) - 2) // 2
        self.positions = y_train.shape[1 : 1 + rank]
        self.outputs = y_train.shape[1 + rank :]
        y = finite("y_train", y_train.astype(dtype))
        if isinstance(k_train_train, GramOperator):
            self.kernel, self.noise_each = k_train_train, None
            self.noise = _noise_of_operator(k_train_train, noise, relative_noise)
            self.targets = self.columns(y)
            return
        kernel = checked_kernel("k_train_train", as_matrix(k_train_train))
        relative = one_number("relative_noise", relative_noise)
        relative = checked_noise(jnp.asarray(relative, dtype))
        relative = relative * jnp.sum(jnp.diagonal(kernel)) / max(kernel.shape[0], 1)
        noise = checked_noise(array_argument("noise", noise, dtype).astype(dtype))
        own = noise.ndim < 1 or (noise.ndim == y_train.ndim and noise.shape[0] == 1)
        self.noise = noise_columns(noise, y_train.shape, rank) + relative
        rows = math.prod(self.positions)
        self.noise_each = self.noise[:rows] if own else None
        self.kernel = kernel
        self.targets = self.columns(y)

    @property
    def matrix(self) -> Float[Array, "rows rows"]:
        """The kernel.

        **Raises:** `ValueError` if it was given as an operator.
        """
        if isinstance(self.kernel, GramOperator):
            raise ValueError(NO_MATRIX)
        return self.kernel

    def extended(
        self,
        k_new_train: Float[Array, "n_new n_train *positions_twice"],
        k_new_new: Float[Array, "n_new n_new *positions_twice"],
        y_new: Float[Array, " n_new *positions_and_outputs"],
        noise: Scalar | Float[Array, "..."] | None,
    ) -> "TrainingSet":
        """With more examples after those that there are."""
        old = self.matrix
        cross = self.test_train(k_new_train, "k_new_train")
        new = self.test_test(k_new_new, cross.shape[0], "k_new_new")
        new = checked_kernel("k_new_new", new)
        y = array_argument("y_new", y_new, self.kernel.dtype)
        check_targets("y_new", y)
        examples = cross.shape[0] // max(math.prod(self.positions), 1)
        shape = (examples, *self.positions, *self.outputs)
        if y.shape != shape:
            raise ValueError(
                f"`y_new` has shape {y.shape}, but `k_new_train` has {examples} rows, "
                f"one a new example: {shape} is needed."
            )
        columns = self.columns(finite("y_new", y.astype(self.kernel.dtype)))
        own = self._noise_of(shape, noise)
        groups = max(own.shape[1], self.noise.shape[1])
        noises = [jnp.broadcast_to(n, (n.shape[0], groups)) for n in (self.noise, own)]
        parts = (
            jnp.block([[old, cross.T], [cross, new]]),
            jnp.concatenate([self.targets, columns]),
            jnp.concatenate(noises),
        )
        return eqx.tree_at(lambda d: (d.kernel, d.targets, d.noise), self, parts)

    def _noise_of(
        self, shape: tuple[int, ...], noise: Scalar | Float[Array, "..."] | None
    ) -> Float[Array, "rows groups"]:
        """The noise of new examples with targets of this shape, in columns."""
        if noise is not None:
            dtype, rank = self.kernel.dtype, len(self.positions)
            noise = checked_noise(array_argument("noise", noise, dtype).astype(dtype))
            return noise_columns(noise, shape, rank)
        if self.noise_each is None:
            raise ValueError(
                "`noise` has to be given: the earlier examples had different noise."
            )
        return jnp.tile(self.noise_each, (shape[0], 1))

    @property
    def size(self) -> int:
        """Number of target values."""
        return self.targets.size

    def columns(self, outputs: Float[Array, "..."]) -> Float[Array, "rows columns"]:
        """Outputs of examples, a row for each pair of an example and a position."""
        rows = outputs.shape[0] * math.prod(self.positions)
        return jnp.reshape(outputs, (rows, math.prod(self.outputs)))

    def restored(
        self, columns: Float[Array, "*times rows columns"]
    ) -> Float[Array, "..."]:
        """The inverse of `columns`, on the last two axes."""
        *times, rows, _ = columns.shape
        examples = rows // max(math.prod(self.positions), 1)
        shape = (*times, examples, *self.positions, *self.outputs)
        return jnp.reshape(columns, shape)

    def start(
        self, name: str, outputs: Scalar | Float[Array, "..."], rows: int
    ) -> Float[Array, "rows columns"]:
        """Initial outputs as columns; one number is that for all."""
        examples = rows // max(math.prod(self.positions), 1)
        shape = (examples, *self.positions, *self.outputs)
        dtype = self.kernel.dtype
        outputs = finite(name, array_argument(name, outputs, dtype).astype(dtype))
        if outputs.shape not in ((), shape):
            raise ValueError(
                f"`{name}` has shape {outputs.shape}, but the outputs have shape "
                f"{shape}: that, or one number for all, is needed."
            )
        return self.columns(jnp.broadcast_to(outputs, shape))

    def test_train(
        self, k_test_train: Float[Array, "..."], name: str = "k_test_train"
    ) -> Float[Array, "rows_test rows"]:
        """A test-train kernel as a matrix."""
        k_test_train = array_argument(name, k_test_train, self.kernel.dtype)
        shape, positions = k_test_train.shape, self.positions
        n_train = self.kernel.shape[0] // max(math.prod(positions), 1)
        if len(shape) < 2 or shape[1:] != (n_train, *positions, *positions):
            needed = ", ".join(
                map(str, ("(n_test", n_train, *positions, *positions))
            )  # n_test is unknown here
            swapped = len(shape) == 2 and shape[0] == n_train and not positions
            raise ValueError(
                f"`{name}` has shape {shape}, but there are {n_train} training "
                f"examples: {needed}) is needed."
                + (" It looks transposed." if swapped else "")
                + (" The time comes before the kernel." if len(shape) < 1 else "")
            )
        return self._checked(name, as_matrix(k_test_train))

    def test_times(
        self,
        k_test_train: Float[Array, "..."] | GramOperator,
        columns: Float[Array, "rows columns"],
    ) -> Float[Array, "rows_test columns"]:
        """A test-train kernel, which may be an operator, times columns."""
        if not isinstance(k_test_train, GramOperator):
            return matmul(self.test_train(k_test_train), columns)
        if k_test_train.shape[1] != columns.shape[0]:
            raise ValueError(
                f"`k_test_train` is an operator of shape {k_test_train.shape}, but "
                f"there are {columns.shape[0]} training examples: one column for each "
                "is needed."
            )
        return k_test_train.multiply(columns)

    def test_test(
        self,
        k_test_test: Float[Array, "..."],
        rows: int,
        name: str = "k_test_test",
    ) -> Float[Array, "rows_test rows_test"]:
        """A test-test kernel as a matrix, with as many rows as the test-train one."""
        k_test_test = array_argument(name, k_test_test, self.kernel.dtype)
        shape, positions = k_test_test.shape, self.positions
        n_test = rows // max(math.prod(positions), 1)
        if shape != (n_test, n_test, *positions, *positions):
            raise ValueError(
                f"`{name}` has shape {shape}, but `k_test_train` has {n_test} rows, "
                "one a test example: "
                f"{(n_test, n_test, *positions, *positions)} is needed. For the "
                "variances alone, use `variance`."
            )
        return self._checked(name, as_matrix(k_test_test))

    def test_diagonal(
        self, k_test_diagonal: Float[Array, "..."], rows: int
    ) -> Float[Array, " rows_test"]:
        """Prior variances of test outputs, as many as rows of the test-train kernel."""
        k_test_diagonal = array_argument(
            "k_test_diagonal", k_test_diagonal, self.kernel.dtype
        )
        n_test = rows // max(math.prod(self.positions), 1)
        if k_test_diagonal.shape != (n_test, *self.positions):
            raise ValueError(
                f"`k_test_diagonal` has shape {k_test_diagonal.shape}, but "
                f"`k_test_train` has {n_test} rows, one a test example: "
                f"{(n_test, *self.positions)} is needed. If it is a whole matrix, pass "
                "its `jnp.diagonal`."
            )
        return self._checked("k_test_diagonal", k_test_diagonal.reshape(rows))

    def as_kernel(
        self, matrix: Float[Array, "*batch rows1 rows2"]
    ) -> Float[Array, "..."]:
        """Undo `as_matrix`, on the last two axes."""
        *batch, rows1, rows2 = matrix.shape
        p, rank, lead = self.positions, len(self.positions), len(batch)
        n1, n2 = (rows // max(math.prod(p), 1) for rows in (rows1, rows2))
        split = jnp.reshape(matrix, (*batch, n1, *p, n2, *p))
        return jnp.moveaxis(split, lead + 1 + rank, lead + 1)

    def _checked(self, name: str, array: Array) -> Array:
        if array.dtype != self.kernel.dtype:
            raise ValueError(
                f"`{name}` is {array.dtype}, but `k_train_train` was "
                f"{self.kernel.dtype}. Compute both from inputs of one dtype."
            )
        return finite(name, array, NONFINITE_KERNEL)


def _noise_of_operator(
    operator: GramOperator,
    noise: Scalar | Float[Array, "..."],
    relative_noise: Scalar,
) -> Float[Array, "rows 1"]:
    """Its own, which is all that there is."""
    if not all(isinstance(n, float | int) and n == 0 for n in (noise, relative_noise)):
        raise ValueError(_NOISE_TWICE)
    if operator.noise is None:
        raise ValueError(_OPERATOR_WITHOUT_NOISE)
    own = refuse(
        operator.noise, (~jnp.all(operator.noise > 0), _OPERATOR_WITHOUT_NOISE)
    )
    return own[:, None]
