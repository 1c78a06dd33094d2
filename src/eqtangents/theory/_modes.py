"""Kernels and targets by their eigenfunctions."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special
from jax import lax
from jaxtyping import Array, Float

from eqtangents._arguments import checked_choice, checked_integer, described
from eqtangents._batches import checked_arguments
from eqtangents._kernel import of_each_pair
from eqtangents._products import einsum, matmul
from eqtangents._types import NonNegative
from eqtangents.nn import AbstractLayer
from eqtangents.predict._arguments import in_range, number, real_array, refuse
from eqtangents.theory._arguments import (
    kernel_matrix,
    spectrum_of,
    target_columns,
)


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

    def __init__(
        self,
        eigenvalues: Float[Array, " modes"],
        multiplicities: Float[Array, " modes"],
        tail: NonNegative,
    ):
        """Take the modes as they are known.

        **Arguments:** the attributes.

        **Raises:** `ValueError` if there is not one multiplicity for each eigenvalue,
        `RuntimeError` if they, or the tail, are negative, or anything is not finite.
        """
        self.eigenvalues = real_array("eigenvalues", eigenvalues)
        dtype, shape = self.eigenvalues.dtype, self.eigenvalues.shape
        counts = real_array("multiplicities", multiplicities, dtype)
        if len(shape) != 1 or counts.shape != shape:
            raise ValueError(
                f"`eigenvalues` has shape {shape} and `multiplicities` {counts.shape}, "
                "but two arrays with one number for each eigenvalue are needed."
            )
        self.multiplicities = in_range("multiplicities", counts)
        self.tail = jnp.asarray(number("tail", tail), dtype)


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

    **Returns:** `KernelModes` of one eigenvalue a degree. Errors of the rule may make
    those negative that are zero, of odd degrees of `Relu`, say. Rounding is about
    $\epsilon K(1) / \sqrt{N_k}$: eigenvalues of which it leaves nothing, those of high
    degrees in many dimensions, are zero and count among the tail.

    **Raises:** `ValueError` if the network has several outputs, `RuntimeError` if its
    kernel does not depend on norms and angles alone.

    **Source:** Bordelon et al. 2020, arXiv:2002.02561; Bietti and Mairal 2019,
    arXiv:1905.12173.
    """
    dim = checked_integer("dim", dim, least=2)
    degrees = checked_integer("degrees", degrees, least=1)
    nodes = checked_integer("nodes", nodes, least=degrees)
    kind = checked_choice("kind", kind, ("ntk", "nngp"))
    cosine, weight = _gauss_rule(dim, nodes)
    values = _of_cosines(net, kind, cosine)
    measure = jnp.asarray(weight, float)
    polynomials = _gegenbauer(jnp.asarray(cosine, float), dim, degrees)
    eigenvalues = matmul(polynomials, measure * values[:-1])
    counts = _multiplicities(dim, degrees)
    eps = jnp.finfo(eigenvalues.dtype).eps
    rounding = jnp.asarray(16 * eps / np.sqrt(counts), float) * values[-1]
    eigenvalues = jnp.where(jnp.abs(eigenvalues) > rounding, eigenvalues, 0)
    multiplicities = jnp.asarray(counts, float)
    tail = values[-1] - jnp.sum(multiplicities * eigenvalues)
    return KernelModes(eigenvalues, multiplicities, jnp.maximum(tail, 0))


def _of_cosines(
    net: AbstractLayer,
    kind: Literal["ntk", "nngp"],
    cosine: Float[np.ndarray, " nodes"],
) -> Float[Array, " nodes_and_one"]:
    """The kernel of inputs of unit mean square, for angles of these cosines and zero.

    **Raises:** `ValueError` if there are several, `RuntimeError` if it is no function
    of the angle.
    """
    # Two components have the same angles and the same mean square.
    at = lambda angle: 2**0.5 * np.stack([np.cos(angle), np.sin(angle)], -1)
    sine = np.sqrt((1 - cosine) * (1 + cosine))
    points = np.concatenate([2**0.5 * np.stack([cosine, sine], 1), at(np.arange(3.0))])
    first = jnp.asarray(at(np.arange(2.0)), float)
    arguments = checked_arguments(net, first, jnp.asarray(points, float))
    values = of_each_pair(*arguments, kind)
    if not isinstance(values, jax.Array):
        raise ValueError(
            f"`net` has {len(values)} outputs, but one kernel is needed: join them, by "
            "`nn.FanInSum()` say, or take the part of the network for one of them."
        )
    largest = jnp.max(jnp.abs(values))
    turned = jnp.max(jnp.abs(values[0, -3:-1] - values[1, -2:]))
    values = refuse(values, (turned > 1e-3 * largest, _NOT_OF_ANGLES))
    return values[0, :-2]


_NOT_OF_ANGLES = (
    "The kernel of `net` changes if both inputs are turned, so that it is no function "
    "of their angle. Begin with weights, which mix all components of the inputs: "
    "`nn.Sequential([nn.Linear(1), net])`."
)


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

    **Raises:** `ValueError` if there is not one coefficient for each centre;
    `RuntimeError` if the centres are not on the sphere, or the modes are of another.
    """
    if not isinstance(modes, KernelModes):
        raise TypeError(
            f"`modes` is {described(modes)}, but must be a `KernelModes`, as "
            "`modes_on_sphere` returns."
        )
    dtype = modes.eigenvalues.dtype
    coefficients = real_array("coefficients", coefficients, dtype)
    centres = real_array("centres", centres, dtype)
    if centres.ndim != 2 or coefficients.shape != centres.shape[:1]:
        raise ValueError(
            f"`coefficients` has shape {coefficients.shape} and `centres` "
            f"{centres.shape}, but `(centres,)` and `(centres, dim)` are needed."
        )
    dim, degrees = centres.shape[1], modes.eigenvalues.shape[0]
    off = jnp.max(jnp.abs(jnp.sum(centres**2, 1) / dim - 1), initial=0)
    counts = jnp.asarray(_multiplicities(dim, degrees), dtype)
    other = ~jnp.allclose(modes.multiplicities, counts)
    centres = refuse(centres, (off > 1e-3, _OFF_SPHERE), (other, _OTHER_SPHERE))
    cosine = jnp.clip(matmul(centres, centres.T) / dim, -1, 1)
    squares = einsum(
        "j,kjl,l->k", coefficients, _gegenbauer(cosine, dim, degrees), coefficients
    )
    return modes.eigenvalues**2 * modes.multiplicities * squares


_OFF_SPHERE = (
    "`centres` must have squared norms of `dim`, their number of components: "
    "`centres *= jnp.sqrt(dim) / jnp.linalg.norm(centres, axis=1, keepdims=True)`."
)
_OTHER_SPHERE = (
    "`modes` are not of the sphere of `centres`: their multiplicities are those of "
    "another dimension. Compute them by `modes_on_sphere(net, centres.shape[1], ...)`."
)


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
    outputs. Eigenvalues within rounding are zero where they can be told from the
    others, as those of a kernel of low rank. Where eigenvalues repeat, powers depend on
    the choice of eigenvectors, and have no derivatives with respect to the kernel.

    **Raises:** `ValueError` if there is not one row of targets for each input;
    `RuntimeError` if the kernel is not finite or not symmetric, or has an eigenvalue
    below zero.

    **Cost:** an eigendecomposition.

    **Source:** Canatar et al. 2021, arXiv:2006.13198; Simon et al. 2021,
    arXiv:2110.03922.
    """
    matrix = kernel_matrix("kernel", kernel)
    columns, n = target_columns(targets, matrix), matrix.shape[0]
    factors = jnp.linalg.eigh(matrix)
    known = spectrum_of("kernel", matrix, lax.stop_gradient(factors)).values > 0
    values, vectors = jnp.where(known, factors[0], 0)[::-1] / n, factors[1][:, ::-1]
    power = jnp.sum(matmul(vectors.T, columns) ** 2, 1) / n
    return KernelModes(values, jnp.ones_like(values), jnp.zeros_like(values[0])), power


def _gauss_rule(
    dim: int, nodes: int
) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """Gauss's rule for the mean over the cosine of the angle of two uniform points.

    Nodes are the eigenvalues of the Jacobi matrix (Golub and Welsch 1969), weights one
    over the sum of squares of the orthonormal polynomials: to all digits also where
    they are tiny, in many dimensions. Of 700 or more, the rule of SciPy is no number.
    """
    k = np.arange(2.0, nodes)
    later = k * (k + dim - 3) / ((2 * k + dim - 2) * (2 * k + dim - 4))
    steps = np.sqrt(np.concatenate([[1 / dim], later])[: nodes - 1])
    cosine = scipy.linalg.eigvalsh_tridiagonal(np.zeros(nodes), steps)
    last, one, before = np.zeros(nodes), np.ones(nodes), 0.0
    squares = one.copy()
    with np.errstate(over="ignore"):  # where the weight is zero
        for step in steps:
            last, one = one, (cosine * one - before * last) / step
            squares, before = squares + one**2, step
    return np.clip(cosine, -1, 1), 1 / squares


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
