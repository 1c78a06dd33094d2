"""Kernels and targets by their eigenfunctions."""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float

from eqtangents._arguments import checked_choice, checked_integer
from eqtangents._batches import checked_arguments
from eqtangents._kernel import of_each_pair
from eqtangents._products import einsum, matmul
from eqtangents.nn import AbstractLayer


class KernelModes(eqx.Module):
    r"""The eigenvalues of a kernel under a distribution of inputs.

    $\mathbb{E}_{x'} K(x, x') \phi_i(x') = \lambda_i \phi_i(x)$, with $\mathbb{E}\,
    \phi_i \phi_j = \delta_{ij}$.

    **Attributes:**

    - `eigenvalues`: the different ones.
    - `multiplicities`: how many eigenfunctions have each.
    - `tail`: the sum of all eigenvalues that are left out, with multiplicities.
    """

    eigenvalues: Float[Array, " modes"]
    multiplicities: Float[Array, " modes"]
    tail: Float[Array, ""]


def modes_on_sphere(
    net: AbstractLayer,
    dim: int,
    degrees: int,
    *,
    kind: Literal["ntk", "nngp"] = "ntk",
    nodes: int = 400,
) -> KernelModes:
    r"""The modes of a fully-connected network's kernel, uniformly over a sphere.

    Inputs have `dim` components and $|x|^2$ = `dim`. The kernel is a function $K(t)$ of
    the cosine of their angle, its eigenfunctions are spherical harmonics, and

    $$\lambda_k = \frac{\int K(t) P_k(t) w(t)\, dt}{\int w(t)\, dt}, \qquad
    w(t) = (1 - t^2)^{(d-3)/2}, \qquad
    N_k = \binom{d+k-1}{k} - \binom{d+k-3}{k-2},$$

    with the Gegenbauer polynomials $P_k$ of $P_k(1) = 1$. The integral is taken by
    Gauss's rule. All is differentiable in the hyperparameters.

    **Arguments:**

    - `net`: a network whose kernel depends on norms and angles alone, as those of fully
        connected layers do.
    - `dim`: the number of components, at least 2.
    - `degrees`: how many degrees, from 0 on.
    - `kind`: "ntk" or "nngp".
    - `nodes`: of the rule. Errors fall algebraically where the kernel has a kink at
        $t = 1$, as for `Relu`, and else exponentially.

    **Returns:** `KernelModes` of one eigenvalue a degree. Rounding may make those
    negative that are zero, of odd degrees of `Relu`, say.

    **Source:** Bordelon et al. 2020, arXiv:2002.02561; Bietti and Mairal 2019,
    arXiv:1905.12173.
    """
    dim = checked_integer("dim", dim, least=2)
    degrees = checked_integer("degrees", degrees, least=1)
    nodes = checked_integer("nodes", nodes, least=degrees)
    kind = checked_choice("kind", kind, ("ntk", "nngp"))
    # Two components have the same angles and the same mean square.
    cosine, weight = scipy.special.roots_jacobi(nodes, (dim - 3) / 2, (dim - 3) / 2)
    sine = np.sqrt((1 - cosine) * (1 + cosine))
    points = 2**0.5 * np.stack([np.append(cosine, 1.0), np.append(sine, 0.0)], 1)
    first, all_points = jnp.array([[2**0.5, 0.0]]), jnp.asarray(points, float)
    values = of_each_pair(*checked_arguments(net, first, all_points), kind)[0]
    polynomials = _gegenbauer(jnp.asarray(cosine, float), dim, degrees)
    measure = jnp.asarray(weight / weight.sum(), float)
    eigenvalues = matmul(polynomials, measure * values[:-1])
    multiplicities = jnp.asarray(_multiplicities(dim, degrees), float)
    tail = values[-1] - jnp.sum(multiplicities * eigenvalues)
    return KernelModes(eigenvalues, multiplicities, jnp.maximum(tail, 0))


def power_on_sphere(
    modes: KernelModes,
    coefficients: Float[Array, " centres"],
    centres: Float[Array, "centres dim"],
) -> Float[Array, " degrees"]:
    r"""The power in each degree of a target $\sum_j a_j K(\cdot, x_j)$ on a sphere.

    $$\mathbb{E}\, f_k(x)^2 =
    \lambda_k^2 N_k \sum_{jl} a_j a_l P_k(x_j \cdot x_l / d).$$

    **Arguments:**

    - `modes`: of the kernel, by `modes_on_sphere`.
    - `coefficients`: the numbers $a_j$; outputs that are several are batched by `vmap`.
    - `centres`: the points $x_j$, of squared norm `dim`.

    **Returns:** the mean square of the target's part of each degree, which a
    `LearningCurve` takes as `target_power`.
    """
    dim, degrees = centres.shape[1], modes.eigenvalues.shape[0]
    cosine = jnp.clip(matmul(centres, centres.T) / dim, -1, 1)
    squares = einsum(
        "j,kjl,l->k", coefficients, _gegenbauer(cosine, dim, degrees), coefficients
    )
    return modes.eigenvalues**2 * modes.multiplicities * squares


def modes_of_data(
    kernel: Float[Array, "n n"], targets: Float[Array, "n outputs"]
) -> tuple[KernelModes, Float[Array, " n"]]:
    r"""The modes of a kernel and the power of targets, over a sample of inputs.

    The uniform distribution over the $n$ inputs of a large sample stands for that which
    they are drawn from: with $K u_i = \kappa_i u_i$, $\lambda_i = \kappa_i / n$ and the
    power of the targets is $|u_i^T Y|^2 / n$.

    **Arguments:**

    - `kernel`: of the sample with itself; some times as many as the learning curve has.
    - `targets`: of the sample.

    **Returns:** `KernelModes`, largest first, and the power in each, summed over
    outputs.

    **Raises:** `ValueError` if there is not one row of targets for each input.

    **Cost:** an eigendecomposition.

    **Source:** Canatar et al. 2021, arXiv:2006.13198; Simon et al. 2021,
    arXiv:2110.03922.
    """
    n = kernel.shape[0]
    if targets.ndim != 2 or targets.shape[0] != n:
        raise ValueError(
            f"`targets` has shape {targets.shape}, but there are {n} inputs: one row "
            "is needed for each, `targets[:, None]` if there is one output."
        )
    values, vectors = jnp.linalg.eigh(kernel)
    values, vectors = jnp.maximum(values[::-1], 0) / n, vectors[:, ::-1]
    power = jnp.sum(matmul(vectors.T, targets) ** 2, 1) / n
    return KernelModes(values, jnp.ones_like(values), jnp.zeros_like(values[0])), power


def _gegenbauer(
    cosine: Float[Array, "*s"], dim: int, degrees: int
) -> Float[Array, "degrees *s"]:
    """Gegenbauer polynomials of degrees from 0 on, one at 1, by their recursion."""
    polynomials = [jnp.ones_like(cosine), cosine]
    for k in range(1, degrees - 1):
        last, one = polynomials[-2:]
        next_one = ((2 * k + dim - 2) * cosine * one - k * last) / (k + dim - 2)
        polynomials.append(next_one)
    return jnp.stack(polynomials[:degrees])


def _multiplicities(dim: int, degrees: int) -> Float[np.ndarray, " degrees"]:
    """How many spherical harmonics there are of each degree."""
    k = np.arange(degrees)
    fewer = np.where(k < 2, 0, scipy.special.binom(dim + k - 3, np.maximum(k - 2, 0)))
    return scipy.special.binom(dim + k - 1, k) - fewer
