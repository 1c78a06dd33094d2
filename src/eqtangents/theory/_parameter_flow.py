"""How far gradient flow moves the parameters, and what they then know of the data."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._products import matmul
from eqtangents._types import ScalarOrBatch
from eqtangents.predict import flow_gain


class ParameterFlow(eqx.Module):
    r"""Parameters of a linearised network under gradient flow on the squared error.

    The network $f(x) = f_0(x) + \nabla f_0(x) \cdot (\theta - \theta_0)$ descends
    $\frac{1}{2} |f - Y|^2$, summed over examples. With $\Theta u_i = \lambda_i u_i$ its
    NTK on the training set, errors fall as $e^{-\lambda_i t}$ along $u_i$. Each output
    has parameters of its own, as the channels of a readout do.

    **Source:** Shwartz-Ziv and Alemi 2020, arXiv:1911.09189.
    """

    eigenvalues: Float[Array, " n"]
    targets: Float[Array, "n outputs"]
    initial: Float[Array, "n n"] | None

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

        **Raises:** `ValueError` if there is not one row of targets for each example.

        **Cost:** an eigendecomposition.
        """
        if targets.ndim != 2 or targets.shape[0] != ntk.shape[0]:
            raise ValueError(
                f"`targets` has shape {targets.shape}, but `ntk` {ntk.shape}: one row "
                "is needed for each example, `targets[:, None]` for a single output."
            )
        values, vectors = jnp.linalg.eigh(ntk)
        self.eigenvalues = jnp.maximum(values, 0)
        self.targets = matmul(vectors.T, targets)
        self.initial = (
            None if nngp is None else matmul(matmul(vectors.T, nngp), vectors)
        )

    def distance(self, t: ScalarOrBatch) -> Float[Array, "*batch"]:
        r"""The mean of $|\theta_t - \theta_0|^2$ over initialisations.

        $$\sum_i \frac{(1 - e^{-\lambda_i t})^2}{\lambda_i} \big((u_i \cdot Y)^2 +
        u_i^T K u_i\big),$$

        summed over outputs, with $K$ the NNGP.

        **Arguments:**

        - `t`: the time, at least zero; an array for several, and infinity for the end.
        """
        squares = self._squares()
        if self.initial is not None:
            squares += self.targets.shape[1] * jnp.diagonal(self.initial)
        return matmul(self._moved(t), squares)

    def information(self, t: ScalarOrBatch) -> Float[Array, "*batch"]:
        r"""What the parameters learned: $\mathrm{KL}(p(\theta_t | D) \| p(\theta_0))$.

        For a standard normal prior of the parameters and a network that is zero at
        initialisation,

        $$\frac{1}{2} \sum_i (e^{-2 \lambda_i t} - 1 + 2 \lambda_i t) + \frac{1}{2}
        \sum_i \frac{(1 - e^{-\lambda_i t})^2}{\lambda_i} (u_i \cdot Y)^2,$$

        in nats: the first sum once for each output. It grows in proportion to time in
        the end, as the parameters come to be known ever more exactly.

        **Arguments:** those of `distance`.
        """
        values = self.eigenvalues
        rates = jnp.where(values > 0, values, 1)
        time = jnp.multiply.outer(jnp.asarray(t, values.dtype), rates)
        time = jnp.where(values > 0, time, 0)  # Nothing is learned there, ever.
        # Two terms cancel at small times.
        shrunk = jnp.sum(jnp.expm1(-2 * time) + 2 * time, -1)
        return 0.5 * (
            self.targets.shape[1] * shrunk + matmul(self._moved(t), self._squares())
        )

    def _squares(self) -> Float[Array, " n"]:
        return jnp.sum(self.targets**2, 1)

    def _moved(self, t: ScalarOrBatch) -> Float[Array, "*batch n"]:
        """By mode, the squared distance for a unit error; zero where nothing moves."""
        values = self.eigenvalues
        of_one_time = lambda time: values * flow_gain(values, time) ** 2
        times = jnp.asarray(t, values.dtype)
        return jnp.vectorize(of_one_time, signature="()->(n)")(times)
