"""How fast a kernel can be learned with, and how hard it is to solve with."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.predict._arguments import array_argument, number
from eqtangents.predict._kernel_matrix import as_matrix, check_kernel, checked_kernel


def eigenvalues(
    k_train_train: Float[Array, "n_train n_train *positions_twice"],
) -> Float[Array, " rows"]:
    """Eigenvalues of a kernel, from the smallest to the largest.

    **Raises:** `ValueError` if it is no kernel of examples with themselves,
    `RuntimeError` if it is not finite or not symmetric.

    **Cost:** about $4 n^3 / 3$ multiply-adds.
    """
    kernel = array_argument("k_train_train", k_train_train)
    shape = kernel.shape
    check_kernel(kernel, (*shape[:1], *shape[2 : 2 + (len(shape) - 2) // 2]))
    return _eigenvalues(checked_kernel("k_train_train", as_matrix(kernel)))


@jax.jit
def _eigenvalues(matrix: Float[Array, "rows rows"]) -> Float[Array, " rows"]:
    return jnp.linalg.eigvalsh(matrix)


def max_learning_rate(
    k_train_train: Float[Array, "n_train n_train *positions_twice"],
    *,
    n_targets: int | None = None,
    momentum: Scalar = 0.0,
    nesterov: bool = False,
) -> Float[Array, ""]:
    r"""The learning rate above which gradient descent on the squared error diverges.

    $$\frac{2 (1 + \beta) N}{\lambda_{\max}}$$

    for the loss $\frac{1}{2N} \sum (f - y)^2$ over $N$ target values; divided by
    $1 + 2 \beta$ for Nesterov's momentum.

    **Arguments:**

    - `k_train_train`: the kernel of the training: the NTK, if all layers are trained.
    - `n_targets`: $N$, which is `y_train.size`; if not given, there is one output.
    - `momentum`, `nesterov`: $\beta$ and its kind, as for `GradientSteps`.

    **Raises:** `ValueError` if it is no kernel of examples with themselves.

    **Source:** for the momentum, Qian 1999, "On the momentum term in gradient descent
    learning algorithms", equation 12.
    """
    values = eigenvalues(k_train_train)
    size = values.shape[0] if n_targets is None else n_targets
    if not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(
            f"`n_targets` is {size!r}, but it is the number of target values, "
            "`y_train.size`."
        )
    momentum = jnp.asarray(number("momentum", momentum, at_most=1.0), values.dtype)
    steepest = 2 * (1 + momentum) / ((1 + 2 * momentum) if nesterov else 1)
    return steepest * size / values[-1]


def condition_number(
    k_train_train: Float[Array, "n_train n_train *positions_twice"],
    *,
    noise: Scalar = 0.0,
    relative_noise: Scalar = 0.0,
) -> Float[Array, ""]:
    r"""$(\lambda_{\max} + \sigma^2) / (\lambda_{\min} + \sigma^2)$, with the noise.

    Relative errors of the kernel may grow by that much in a posterior, and gradient
    descent takes about so many steps to learn all of the targets.

    **Arguments:**

    - `k_train_train`: the kernel.
    - `noise`, `relative_noise`: on its diagonal, as for `GaussianProcess`.

    **Returns:** infinity where a kernel without enough noise has eigenvalues that are
    zero or, by rounding, negative.

    **Raises:** `ValueError` if it is no kernel of examples with themselves.
    """
    values = eigenvalues(k_train_train)
    noise = jnp.asarray(number("noise", noise), values.dtype)
    relative = jnp.asarray(number("relative_noise", relative_noise), values.dtype)
    values = values + noise + relative * jnp.mean(values)
    ratio = values[-1] / jnp.where(values[0] > 0, values[0], 1)
    return jnp.where(values[0] > 0, ratio, jnp.inf)
