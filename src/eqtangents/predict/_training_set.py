"""What every predictor starts from: a kernel of the training examples, and targets."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from eqtangents._types import Scalar


_NONFINITE = """
`k_train_train` holds a value that is not finite.

(a) If the network is deep, its weight variances probably make the signal grow with
    depth; lower `weight_std` (for `Relu` the stable value is `sqrt(2)`).
(b) If the inputs are large, divide them by their standard deviation: kernels of
    nonlinearities without closed form are not numbers where variances are too large.
""".strip()

_ASYMMETRIC = """
`k_train_train` is not symmetric, so it is not the covariance of the training examples
with themselves. Was a test-train block passed in its place?
""".strip()

_NEGATIVE_NOISE = (
    "`noise` and `relative_noise` are variances: both must be at least zero."
)

_NOT_POSITIVE = """
The {n} x {n} matrix `k_train_train`, with the noise added to its diagonal, is not
positive definite in {dtype}{found}.

(a) If training examples repeat, or are nearly the same, add noise: {mend}.
(b) If the predictions must interpolate the targets, compute the kernel in float64.
""".strip()

_USUAL_NOISE = (
    "a usual start is\n    `relative_noise=1e-4` in float32, `relative_noise=1e-10` in "
    "float64 (outside of\n    `jax.jit`, this message says how much is needed)"
)

# Rounding, in whichever precision the kernel was computed, stays far below this.
_ASYMMETRY_TOLERANCE = 1e-3


class TrainingSet(eqx.Module):
    """A kernel as a matrix, targets as its columns, and the shapes they had.

    Where outputs at several positions are correlated, pairs of an example and a
    position are the rows: all predictors work with matrices, and take and return arrays
    with the axes that users have.
    """

    kernel: Float[Array, "rows rows"]
    targets: Float[Array, "rows columns"]
    noise: Float[Array, "rows groups"]  # one group of outputs, or one for each output
    positions: tuple[int, ...] = eqx.field(static=True)
    outputs: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        k_train_train: Float[Array, "n_train n_train *positions_twice"],
        y_train: Float[Array, " n_train *positions_and_outputs"],
        noise: Scalar | Float[Array, "..."] = 0.0,
        relative_noise: Scalar = 0.0,
    ):
        """Check that they fit; later errors are about values.

        **Raises:** `ValueError` for shapes and dtypes; `RuntimeError` for values.
        """
        check_kernel(k_train_train, y_train.shape)
        if not jnp.issubdtype(y_train.dtype, jnp.floating):
            raise ValueError(
                f"`y_train` is {y_train.dtype}: a floating dtype is needed. For class "
                "labels use `eqtangents.predict.encode_labels(labels, n_classes)`."
            )
        rank, dtype = (k_train_train.ndim - 2) // 2, k_train_train.dtype
        self.positions = y_train.shape[1 : 1 + rank]
        self.outputs = y_train.shape[1 + rank :]
        noise = _noise_columns(jnp.asarray(noise, dtype), y_train.shape, rank)
        relative_noise = jnp.asarray(relative_noise, dtype)
        kernel = _check_values(as_matrix(k_train_train), noise, relative_noise)
        mean_variance = jnp.trace(kernel) / max(kernel.shape[0], 1)
        self.kernel = kernel
        self.noise = noise + relative_noise * mean_variance
        self.targets = self.columns(y_train.astype(dtype))

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
        outputs = jnp.asarray(outputs, self.kernel.dtype)
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
            )
        self._check_dtype(name, k_test_train)
        return as_matrix(k_test_train)

    def test_test(
        self,
        k_test_test: Float[Array, "..."],
        rows: int,
        name: str = "k_test_test",
    ) -> Float[Array, "rows_test rows_test"]:
        """A test-test kernel as a matrix, with as many rows as the test-train one."""
        shape, positions = k_test_test.shape, self.positions
        n_test = rows // max(math.prod(positions), 1)
        if shape != (n_test, n_test, *positions, *positions):
            raise ValueError(
                f"`{name}` has shape {shape}, but `k_test_train` has {n_test} rows, "
                "one a test example: "
                f"{(n_test, n_test, *positions, *positions)} is needed. For the "
                "variances alone, use `variance`."
            )
        self._check_dtype(name, k_test_test)
        return as_matrix(k_test_test)

    def test_diagonal(
        self, k_test_diagonal: Float[Array, "..."], rows: int
    ) -> Float[Array, " rows_test"]:
        """Prior variances of test outputs, as many as rows of the test-train kernel."""
        n_test = rows // max(math.prod(self.positions), 1)
        if k_test_diagonal.shape != (n_test, *self.positions):
            raise ValueError(
                f"`k_test_diagonal` has shape {k_test_diagonal.shape}, but "
                f"`k_test_train` has {n_test} rows, one a test example: "
                f"{(n_test, *self.positions)} is needed. If it is a whole matrix, pass "
                "its `jnp.diagonal`."
            )
        self._check_dtype("k_test_diagonal", k_test_diagonal)
        return k_test_diagonal.reshape(rows)

    def as_kernel(
        self, matrix: Float[Array, "*batch rows1 rows2"]
    ) -> Float[Array, "..."]:
        """Undo `as_matrix`, on the last two axes."""
        *batch, rows1, rows2 = matrix.shape
        p, rank, lead = self.positions, len(self.positions), len(batch)
        n1, n2 = (rows // max(math.prod(p), 1) for rows in (rows1, rows2))
        split = jnp.reshape(matrix, (*batch, n1, *p, n2, *p))
        return jnp.moveaxis(split, lead + 1 + rank, lead + 1)

    def _check_dtype(self, name: str, array: Shaped[Array, "..."]) -> None:
        if array.dtype != self.kernel.dtype:
            raise ValueError(
                f"`{name}` is {array.dtype}, but `k_train_train` was "
                f"{self.kernel.dtype}. Compute both from inputs of one dtype."
            )


def as_matrix(
    kernel: Float[Array, "n1 n2 *positions_twice"],
) -> Float[Array, "rows1 rows2"]:
    """The kernel as a matrix: its rows are the pairs of an example and a position."""
    n1, n2, *positions = kernel.shape
    rank = len(positions) // 2
    p1, p2 = math.prod(positions[:rank]), math.prod(positions[rank:])
    return jnp.reshape(jnp.moveaxis(kernel, 1, 1 + rank), (n1 * p1, n2 * p2))


def refuse_indefinite(
    value: Float[Array, "*shape"],
    failed: Bool[Array, ""],
    matrix: Float[Array, "rows rows"],
) -> Float[Array, "*shape"]:
    """Raise if `failed`: with the smallest eigenvalue, if the values are known now."""
    n, dtype = matrix.shape[0], matrix.dtype
    try:
        known = bool(failed)
    except jax.errors.ConcretizationTypeError:
        message = _NOT_POSITIVE.format(n=n, dtype=dtype, found="", mend=_USUAL_NOISE)
        return eqx.error_if(value, failed, message)
    if known:
        smallest, *_, largest = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
        noise = max(-smallest, 0) * 1.1 + n * float(jnp.finfo(dtype).eps) * abs(largest)
        found = f":\nits smallest eigenvalue is {smallest:.3g}"
        mend = f"`noise={noise:.2g}` more\n    would mend it"
        raise RuntimeError(
            _NOT_POSITIVE.format(n=n, dtype=dtype, found=found, mend=mend)
        )
    return value


def check_kernel(
    k_train_train: Shaped[Array, "..."], targets_shape: tuple[int, ...]
) -> None:
    """Everything that shapes and dtypes can tell."""
    shape = k_train_train.shape
    if len(shape) < 2 or shape[0] != shape[1]:
        raise ValueError(
            f"`k_train_train` has shape {shape}, but it is the covariance of the "
            "training examples with themselves: (n_train, n_train) is needed."
        )
    rank = (len(shape) - 2) // 2
    positions = shape[2 : 2 + rank]
    if shape[2:] != positions * 2:
        raise ValueError(
            f"`k_train_train` has shape {shape}, but where outputs have positions, "
            "those of both examples follow: (n_train, n_train, *positions, *positions) "
            "is needed."
        )
    if targets_shape[:1] != shape[:1]:
        raise ValueError(
            f"`y_train` has shape {targets_shape}, but `k_train_train` has shape "
            f"{shape}: targets for {shape[0]} training examples are needed, along the "
            "first axis."
        )
    if targets_shape[1 : 1 + rank] != positions:
        raise ValueError(
            f"`y_train` has shape {targets_shape}, but `k_train_train` has shape "
            f"{shape}, for outputs at {positions} positions: (n_train, *positions, "
            "*outputs) is needed. For one output an example, end the network with a "
            "readout, such as `nn.Flatten` or `nn.GlobalAvgPool`."
        )
    if not jnp.issubdtype(k_train_train.dtype, jnp.floating):
        raise ValueError(
            f"`k_train_train` is {k_train_train.dtype}: a floating dtype is needed."
        )


def _noise_columns(
    noise: Float[Array, "..."], targets_shape: tuple[int, ...], rank: int
) -> Float[Array, "rows groups"]:
    """A variance for each row, in one column, or in one for each output."""
    n_train, shape = targets_shape[0], noise.shape
    if shape in ((), (n_train,)):
        noise = jnp.reshape(noise, (*shape, *[1] * (len(targets_shape) - len(shape))))
    given = zip(noise.shape, targets_shape, strict=False)
    if noise.ndim != len(targets_shape) or any(a not in (1, b) for a, b in given):
        raise ValueError(
            f"`noise` has shape {shape}: a scalar, one variance for each of the "
            f"{n_train} training examples, or an array that broadcasts to the targets' "
            f"shape {targets_shape}, of the same rank, is needed."
        )
    rows, groups = targets_shape[: 1 + rank], noise.shape[1 + rank :]
    if any(size != 1 for size in groups):
        groups = targets_shape[1 + rank :]
    noise = jnp.broadcast_to(noise, (*rows, *groups))
    return jnp.reshape(noise, (math.prod(rows), math.prod(groups)))


def _check_values(
    kernel: Float[Array, "rows rows"],
    noise: Float[Array, "rows groups"],
    relative_noise: Float[Array, ""],
) -> Float[Array, "rows rows"]:
    """The same matrix, with the checks that need its values attached."""
    nonfinite = ~jnp.all(jnp.isfinite(kernel))
    asymmetry = jnp.max(jnp.abs(kernel - kernel.T), initial=0)
    scale = jnp.max(jnp.abs(kernel), initial=0)
    asymmetric = asymmetry > _ASYMMETRY_TOLERANCE * scale
    negative = jnp.any(noise < 0) | (relative_noise < 0)
    wrong = jnp.stack([nonfinite, asymmetric, negative])
    return eqx.branched_error_if(
        kernel,
        jnp.any(wrong),
        jnp.argmax(wrong),  # of the first that holds
        [_NONFINITE, _ASYMMETRIC, _NEGATIVE_NOISE],
    )
