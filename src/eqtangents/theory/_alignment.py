"""How alike two kernels are, or a kernel and a target."""

import jax.numpy as jnp
from jaxtyping import Array, Float


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

    **Returns:** a number; not a number if either kernel vanishes.

    **Raises:** `ValueError` if the kernels are not square, or not of one size.

    **Source:** Cristianini et al. 2001; Cortes et al. 2012, arXiv:1203.0550;
    Kornblith et al. 2019, arXiv:1905.00414.
    """
    if k1.ndim != 2 or k1.shape[0] != k1.shape[1] or k1.shape != k2.shape:
        raise ValueError(
            f"`k1` has shape {k1.shape} and `k2` {k2.shape}, but two square matrices "
            "of one size are needed, kernels of the same inputs."
        )
    one, other = (_without_means(k) if centred else k for k in (k1, k2))
    return jnp.sum(one * other) / (jnp.linalg.norm(one) * jnp.linalg.norm(other))


def _without_means(kernel: Float[Array, "n n"]) -> Float[Array, "n n"]:
    rows, columns = (kernel.mean(axis, keepdims=True) for axis in (1, 0))
    return kernel - rows - columns + kernel.mean()
