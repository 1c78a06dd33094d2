"""How fast a kernel can be learned with, and how hard it is to solve with."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.predict._training_set import as_matrix, check_kernel


@eqx.filter_jit
def eigenvalues(
    k_train_train: Float[Array, "n_train n_train *positions_twice"],
) -> Float[Array, " rows"]:
    """Eigenvalues of a kernel, from the smallest to the largest.

    **Raises:** `ValueError` if it is not that of examples with themselves.

    **Cost:** about $4 n^3 / 3$ multiply-adds.
    """
    shape = k_train_train.shape
    check_kernel(k_train_train, (shape[0], *shape[2 : 2 + (len(shape) - 2) // 2]))
    return jnp.linalg.eigvalsh(as_matrix(k_train_train))


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
    - `n_targets`: $N$, which is `y_train.size`; if not given, that of one output.
    - `momentum`, `nesterov`: $\beta$ and its kind, as for `GradientSteps`.

    **Raises:** `ValueError` if the kernel is not that of examples with themselves.

    **Source:** for the momentum, Qian 1999, "On the momentum term in gradient descent
    learning algorithms", equation 12.
    """
    values = eigenvalues(k_train_train)
    size = values.shape[0] if n_targets is None else n_targets
    momentum = jnp.asarray(momentum, values.dtype)
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

    **Raises:** `ValueError` if the kernel is not that of examples with themselves.
    """
    values = eigenvalues(k_train_train)
    noise = jnp.asarray(noise, values.dtype)
    values = (
        values + noise + jnp.asarray(relative_noise, values.dtype) * jnp.mean(values)
    )
    ratio = values[-1] / jnp.where(values[0] > 0, values[0], 1)
    return jnp.where(values[0] > 0, ratio, jnp.inf)
