"""How far gradient flow moves the parameters, and what they then know of the data."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._products import einsum, matmul
from eqtangents._types import ScalarOrBatch
from eqtangents.predict import flow_gain
from eqtangents.predict._arguments import checked_times
from eqtangents.predict._spectrum import (
    Factors,
    SpectralFunction,
    Spectrum,
    differentiated_as,
    matrix_function,
)
from eqtangents.theory._arguments import kernel_matrix, spectrum_of, target_columns


class ParameterFlow(eqx.Module):
    r"""Parameters of a linearised network under gradient flow on the squared error.

    The network $f(x) = f_0(x) + \nabla f_0(x) \cdot (\theta - \theta_0)$ descends
    $\frac{1}{2} |f - Y|^2$, summed over examples. With $\Theta u_i = \lambda_i u_i$ its
    NTK on the training set, errors fall as $e^{-\lambda_i t}$ along $u_i$. Each output
    has parameters of its own, as the channels of a readout do.

    **Source:** Shwartz-Ziv and Alemi 2020, arXiv:1911.09189.
    """

    spectrum: Spectrum
    targets: Float[Array, "n outputs"]
    nngp: Float[Array, "n n"] | None

    def __init__(
        self,
        ntk: Float[Array, "n n"],
        targets: Float[Array, "n outputs"],
        nngp: Float[Array, "n n"] | None = None,
    ):
        """Diagonalise the kernel.

        **Arguments:**

        - `ntk`: of the training set.
        - `targets`: of the training set.
        - `nngp`: of the training set: the covariance of the network at initialisation,
            which `None` takes to be zero there.

        **Raises:** `ValueError` if a kernel is not square or there is not one row of
        targets, and of the other kernel, for each example; `RuntimeError` if a kernel
        is not finite or not symmetric, or the NTK has an eigenvalue below zero.

        **Cost:** an eigendecomposition. Derivatives with respect to the kernel take
        some products of matrices for each time.
        """
        matrix = kernel_matrix("ntk", ntk)
        self.targets = target_columns(targets, matrix)
        self.nngp = None if nngp is None else kernel_matrix("nngp", nngp)
        if self.nngp is not None and self.nngp.shape != matrix.shape:
            raise ValueError(
                f"`nngp` has shape {self.nngp.shape}, but `ntk` {matrix.shape}: both "
                "are kernels of the training set."
            )
        self.spectrum = spectrum_of("ntk", matrix)

    def distance(self, t: ScalarOrBatch) -> Float[Array, "*batch"]:
        r"""The mean of $|\theta_t - \theta_0|^2$ over initialisations.

        $$\sum_i \frac{(1 - e^{-\lambda_i t})^2}{\lambda_i} \big((u_i \cdot Y)^2 +
        u_i^T K u_i\big),$$

        summed over outputs, with $K$ the NNGP.

        **Arguments:**

        - `t`: the time, at least zero; an array for several, and infinity for the end.

        **Raises:** `RuntimeError` if a time is negative or not a number.
        """
        squares = matmul(self.targets, self.targets.T)
        if self.nngp is not None:
            outputs = self.targets.shape[1]
            squares += outputs * self.nngp.astype(squares.dtype)
        return self._trace(_SquaredMove, t, squares)

    def information(self, t: ScalarOrBatch) -> Float[Array, "*batch"]:
        r"""What the parameters learned: $\mathrm{KL}(p(\theta_t | D) \| p(\theta_0))$.

        For a standard normal prior of the parameters and a network that is zero at
        initialisation,

        $$\frac{1}{2} \sum_i (e^{-2 \lambda_i t} - 1 + 2 \lambda_i t) + \frac{1}{2}
        \sum_i \frac{(1 - e^{-\lambda_i t})^2}{\lambda_i} (u_i \cdot Y)^2,$$

        in nats: the first sum once for each output. It grows in proportion to time in
        the end, as the parameters come to be known ever more exactly.

        **Arguments:** those of `distance`.

        **Raises:** what `distance` does.
        """
        n, outputs = self.targets.shape
        unit = outputs * jnp.eye(n, dtype=self.targets.dtype)
        squares = matmul(self.targets, self.targets.T)
        return 0.5 * (
            self._trace(_SpreadLost, t, unit) + self._trace(_SquaredMove, t, squares)
        )

    def _trace(
        self, kind: type["_SquaredMove | _SpreadLost"], t: ScalarOrBatch, weight: Array
    ) -> Float[Array, "*batch"]:
        times = checked_times(t, self.targets.dtype)
        spectrum = self.spectrum
        factors = lax.stop_gradient((spectrum.values, spectrum.vectors))
        function = kind(jnp.ravel(times))
        traces = _trace(spectrum.matrix, function, weight, factors)
        return traces.reshape(times.shape)


class _SquaredMove(eqx.Module):
    """By eigenvalue, the squared distance for a unit error."""

    times: Float[Array, " times"]

    def __call__(self, values: Float[Array, " n"]) -> Float[Array, "times n"]:
        gain = jax.vmap(lambda time: flow_gain(values, time))(self.times)
        return values[None] * gain**2


class _SpreadLost(eqx.Module):
    """By eigenvalue, twice what is known for the spread of parameters having shrunk."""

    times: Float[Array, " times"]

    def __call__(self, values: Float[Array, " n"]) -> Float[Array, "times n"]:
        forever = jnp.isinf(self.times)
        times = jnp.where(forever, 0, self.times)
        end = jnp.where(values > 0, jnp.inf, 0)  # What has no rate is never learned.
        shrunk = _second_order_exp(-2 * jnp.outer(times, values))
        return jnp.where(forever[:, None], end[None], shrunk)


def _second_order_exp(z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`exp(z) - 1 - z` for `z <= 0`, by its series where the terms would cancel."""
    small = z > -0.5
    series_at, terms = jnp.where(small, z, 0), 14
    series = jnp.ones_like(z)
    for k in range(terms, 2, -1):
        series = 1 + series_at * series / k
    return jnp.where(small, series_at**2 / 2 * series, jnp.expm1(z) - z)


def _trace_of_function(
    matrix: Float[Array, "n n"],
    function: SpectralFunction,
    weight: Float[Array, "n n"],
    factors: Factors,
) -> Float[Array, " times"]:
    """The trace as a function of the matrix.

    Eigenvectors of repeated eigenvalues have no derivatives, such functions have.
    """
    return einsum("...ii->...", matrix_function(matrix, function, weight, factors))


@eqx.filter_jit
@differentiated_as(_trace_of_function)
def _trace(
    matrix: Float[Array, "n n"],
    function: SpectralFunction,
    weight: Float[Array, "n n"],
    factors: Factors,
) -> Float[Array, " times"]:
    """The trace of a function of the matrix times a weight."""
    del matrix  # here for its tangent: it is `factors`
    values, vectors = factors
    diagonal = jnp.sum(vectors * matmul(weight, vectors), 0)
    return matmul(function(values), diagonal)
