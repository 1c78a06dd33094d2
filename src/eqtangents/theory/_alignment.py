"""How alike two kernels are, or a kernel and a target."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents.theory._arguments import kernel_matrix


def alignment(
    k1: Float[Array, "n n"], k2: Float[Array, "n n"], *, centred: bool = True
) -> Float[Array, ""]:
    r"""The alignment of two kernels, from 0 to 1.

    $$\frac{\langle K_1, K_2 \rangle_F}{\|K_1\|_F \|K_2\|_F},$$

    by default of $K - \bar{K}_{i \cdot} - \bar{K}_{\cdot j} + \bar{K}$, whose features
    have a mean of zero: known as centred kernel alignment, CKA. It is one for kernels
    that are equal up to a factor, centred up to a constant. With $K_2 = Y Y^T$ it says
    how well a kernel suits targets $Y$.

    **Arguments:**

    - `k1`, `k2`: two kernels of the same inputs.
    - `centred`: whether to subtract means first.

    **Returns:** a number; not a number if either kernel vanishes, as one that is
    constant does when it is centred.

    **Raises:** `ValueError` if the kernels are not square, or not of one size,
    `RuntimeError` if they are not finite or not symmetric.

    **Source:** Cristianini et al. 2001; Cortes et al. 2012, arXiv:1203.0550;
    Kornblith et al. 2019, arXiv:1905.00414.
    """
    one, other = kernel_matrix("k1", k1), kernel_matrix("k2", k2)
    if one.shape != other.shape:
        raise ValueError(
            f"`k1` has shape {one.shape} and `k2` {other.shape}, but two matrices "
            "of one size are needed, kernels of the same inputs."
        )
    return jnp.sum(_direction(one, centred) * _direction(other, centred))


def _direction(kernel: Float[Array, "n n"], centred: bool) -> Float[Array, "n n"]:
    """The kernel, with or without its means, divided by its norm."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(kernel)))
    kernel = kernel / largest  # Squares would overflow, or vanish.
    if centred:
        rows, columns = (kernel.mean(axis, keepdims=True) for axis in (1, 0))
        kernel = kernel - rows - columns + kernel.mean()
    norm = jnp.linalg.norm(kernel)
    rounding = 8 * kernel.shape[0] * jnp.finfo(kernel.dtype).eps
    return kernel / jnp.where(norm > rounding, norm, jnp.nan)
