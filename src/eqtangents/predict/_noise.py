"""Noise on the diagonal of a kernel: variances, of one group of outputs or of each."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents.predict._arguments import refuse


_NO_NOISE = (
    "`noise` and `relative_noise` are variances: both must be finite and at least zero."
)


def checked_noise(noise: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same variances, if that is what they are."""
    wrong = ~jnp.all(jnp.isfinite(noise) & (noise >= 0))
    return refuse(noise, (wrong, _NO_NOISE))


def noise_columns(
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
