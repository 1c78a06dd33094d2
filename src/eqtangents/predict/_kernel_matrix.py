"""A kernel of the training examples with themselves, as a symmetric matrix."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from eqtangents.predict._arguments import NONFINITE_KERNEL, not_finite, refuse
from eqtangents.solvers import GramOperator


_ASYMMETRIC = """
`{name}` is not symmetric, so it is not the covariance of the training examples
with themselves. Was a test-train block passed in its place, or were the inputs? Their
kernel is `eqtangents.nngp(net, x_train)` or `eqtangents.ntk(net, x_train)`.
""".strip()

_SWAPPED = "It and `y_train` seem to be swapped: the kernel comes first."
_KERNEL_OF_INPUTS = (
    "For inputs `x_train` that is `eqtangents.nngp(net, x_train)` or "
    "`eqtangents.ntk(net, x_train)`; `eqtangents.predict.FromNetwork` computes it."
)

# Rounding, in whichever precision the kernel was computed, stays far below this.
_ASYMMETRY_TOLERANCE = 1e-3


def as_matrix(
    kernel: Float[Array, "n1 n2 *positions_twice"],
) -> Float[Array, "rows1 rows2"]:
    """The kernel as a matrix: its rows are the pairs of an example and a position."""
    n1, n2, *positions = kernel.shape
    rank = len(positions) // 2
    p1, p2 = math.prod(positions[:rank]), math.prod(positions[rank:])
    return jnp.reshape(jnp.moveaxis(kernel, 1, 1 + rank), (n1 * p1, n2 * p2))


def check_kernel(
    k_train_train: Shaped[Array, "..."] | GramOperator, targets_shape: tuple[int, ...]
) -> None:
    """Everything that shapes and dtypes can tell."""
    shape = k_train_train.shape
    if len(shape) < 2 or shape[0] != shape[1]:
        swapped = len(targets_shape) > 1 and targets_shape[:2] == shape[:1] * 2
        raise ValueError(
            f"`k_train_train` has shape {shape}, but it is the covariance of the "
            "training examples with themselves: (n_train, n_train) is needed. "
            + (_SWAPPED if swapped else _KERNEL_OF_INPUTS)
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


def checked_kernel(
    name: str, matrix: Float[Array, "rows rows"]
) -> Float[Array, "rows rows"]:
    """The same matrix, if it is finite and symmetric."""
    return refuse(
        matrix,
        (not_finite(matrix), NONFINITE_KERNEL.format(name=name)),
        (_is_asymmetric(matrix), _ASYMMETRIC.format(name=name)),
    )


@jax.jit
def _is_asymmetric(matrix: Float[Array, "rows rows"]) -> Bool[Array, ""]:
    asymmetry = jnp.max(jnp.abs(matrix - matrix.T), initial=0)
    # No entry of a kernel is larger than those on its diagonal.
    largest = jnp.max(jnp.abs(jnp.diagonal(matrix)), initial=0)
    return asymmetry > _ASYMMETRY_TOLERANCE * largest
