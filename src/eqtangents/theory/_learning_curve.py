"""How well kernel regression does on average, for each number of examples."""

from functools import partial

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float

from eqtangents._products import matmul
from eqtangents._types import NonNegative, ScalarOrBatch
from eqtangents.theory._modes import KernelModes


class LearningCurve(eqx.Module):
    r"""The mean errors of kernel ridge regression, from the modes of the kernel.

    With eigenvalues $\lambda_i$ under the distribution of inputs, a ridge $\delta$ on
    the diagonal of the kernel of $n$ examples acts as the resolution $\kappa$, of which

    $$\sum_i \frac{\lambda_i}{\lambda_i + \kappa} + \frac{\delta}{\kappa} = n.$$

    A mode is learned in part $L_i = \lambda_i / (\lambda_i + \kappa)$, and $\sum_i L_i
    \le n$, with equality without a ridge: what is learned is conserved. The mean
    squared error on new examples is

    $$\mathcal{E} = \frac{n}{n - \sum_i L_i^2} \Big(\sum_i (1 - L_i)^2 p_i +
    \sigma^2\Big)$$

    for targets with power $p_i$ in the modes and noise of variance $\sigma^2$, which
    new targets have as well. Derived for features that are Gaussian and independent, it
    is close for real data.

    **Source:** Simon et al. 2021, arXiv:2110.03922; Bordelon et al. 2020,
    arXiv:2002.02561; Canatar et al. 2021, arXiv:2006.13198.
    """

    modes: KernelModes
    target_power: Float[Array, " modes"]
    ridge: NonNegative
    noise: NonNegative

    def __init__(
        self,
        modes: KernelModes,
        target_power: Float[Array, " modes"],
        *,
        ridge: NonNegative = 0.0,
        noise: NonNegative = 0.0,
    ):
        r"""Take what is learned, and with what.

        **Arguments:**

        - `modes`: of the kernel. Its tail acts as a ridge.
        - `target_power`: the mean square of the target in each eigenvalue's modes, all
            multiplicities together.
        - `ridge`: added to the diagonal of the kernel, $\delta$.
        - `noise`: variance of the noise on targets, $\sigma^2$.

        **Raises:** `ValueError` if there is not one power for each eigenvalue.
        """
        if target_power.shape != modes.eigenvalues.shape:
            raise ValueError(
                f"`target_power` has shape {target_power.shape}, but there are "
                f"{modes.eigenvalues.shape[0]} eigenvalues: give one number for each."
            )
        self.modes, self.target_power = modes, target_power
        self.ridge, self.noise = ridge, noise

    def kappa(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        r"""The resolution: modes with eigenvalues well above it are learned.

        It falls from infinity to zero, and is zero if there are fewer modes than
        examples and no ridge.

        **Arguments:**

        - `n`: the number of examples, more than zero; an array for several.
        """
        n = jnp.asarray(n, self.modes.eigenvalues.dtype)
        return _resolutions(self.modes, self._ridge, n)

    def learnability(self, n: ScalarOrBatch) -> Float[Array, "*batch modes"]:
        """The part of each mode's coefficient that is learned, from 0 to 1.

        **Arguments:** those of `kappa`.
        """
        values, kappa = jnp.maximum(self.modes.eigenvalues, 0), self.kappa(n)
        values, kappa = jnp.broadcast_arrays(
            jnp.expand_dims(values, range(kappa.ndim)), kappa[..., None]
        )
        total = jnp.where(values > 0, values + kappa, 1)
        return values / total

    def bias(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        """The squared error of the mean prediction over training sets, and the noise.

        **Arguments:** those of `kappa`.
        """
        missed = (1 - self.learnability(n)) ** 2
        return matmul(missed, self.target_power) + self.noise

    def variance(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        """The variance of predictions over training sets.

        **Arguments:** those of `kappa`.
        """
        return self.test_error(n) - self.bias(n)

    def test_error(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        """The mean squared error on new examples with new noise.

        **Arguments:** those of `kappa`.
        """
        return self._overfitting(n) * self.bias(n)

    def test_error_by_mode(self, n: ScalarOrBatch) -> Float[Array, "*batch modes"]:
        """The parts of the error, without the part that is due to noise.

        **Arguments:** those of `kappa`.
        """
        missed = (1 - self.learnability(n)) ** 2
        power = jnp.expand_dims(self.target_power, range(missed.ndim - 1))
        return self._overfitting(n)[..., None] * missed * power

    def train_error(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        r"""The mean squared error on the training examples themselves.

        It is $(\delta / n \kappa)^2$ times that on new ones.

        **Arguments:** those of `kappa`.
        """
        kappa = self.kappa(n)
        ratio = self.ridge / jnp.where(kappa > 0, n * kappa, jnp.inf)
        return ratio**2 * self.test_error(n)

    @property
    def _ridge(self) -> Float[Array, ""]:
        """The ridge with the modes that are left out, none of which is learned."""
        return self.ridge + self.modes.tail

    def _overfitting(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        """By what factor the error exceeds that of the mean prediction."""
        squares = matmul(self.learnability(n) ** 2, self.modes.multiplicities)
        return n / (n - squares)


@eqx.filter_jit
def _resolutions(
    modes: KernelModes, ridge: Float[Array, ""], n: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    return jnp.vectorize(partial(_resolution, modes, ridge))(n)


def _resolution(
    modes: KernelModes, ridge: Float[Array, ""], n: Float[Array, ""]
) -> Float[Array, ""]:
    """The positive root of the sum rule in `LearningCurve`, found by its logarithm."""
    values, counts = jnp.maximum(modes.eigenvalues, 0), modes.multiplicities
    rank = jnp.sum(jnp.where(values > 0, counts, 0))
    exists = (ridge > 0) | (n < rank)

    def excess(log_kappa: Float[Array, ""], args: None) -> Float[Array, ""]:
        kappa = jnp.exp(log_kappa)
        total = jnp.sum(counts * (values / (values + kappa))) + ridge / kappa
        return jnp.where(exists, total / n - 1, -log_kappa)

    largest = jnp.log((jnp.sum(counts * values) + ridge) / n)
    eps = float(jnp.finfo(values.dtype).eps)
    ends = {"lower": largest - 100.0, "upper": largest + 1.0}
    solver = optx.Bisection(rtol=eps, atol=eps, flip=True)
    root = optx.root_find(excess, solver, largest, options=ends, throw=False).value
    return jnp.where(exists, jnp.exp(root), jnp.zeros_like(root))
