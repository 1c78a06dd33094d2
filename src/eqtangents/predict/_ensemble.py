"""The ensemble of all infinitely wide networks, trained for any time."""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from eqtangents._arguments import checked_choice
from eqtangents._kernel import Kernel
from eqtangents._types import Scalar
from eqtangents.predict._arguments import described, is_both, number
from eqtangents.predict._definiteness import refuse_beyond_rounding
from eqtangents.predict._ensemble_moments import TimedMoments, ensemble_moments
from eqtangents.predict._gradient_descent_mse import GradientDescentMSE
from eqtangents.predict._habits import habits_told
from eqtangents.predict._kernel_matrix import checked_kernel
from eqtangents.predict._noisy_kernel import NoisyKernel
from eqtangents.predict._training_rules import FLOW, AbstractRule


@habits_told
class Ensemble(eqx.Module):
    r"""Mean and covariance of networks that differ in their initial parameters.

    Before training, the outputs of infinitely wide networks are Gaussian, with the NNGP
    kernel $K$ as covariance. Training on the squared error for a time $t$ moves them
    linearly, so that they stay Gaussian: with $A_t = \Theta_* w_t$ of
    `GradientDescentMSE`,

    $$f_t^* = f_0^* + A_t (y - f_0), \qquad
    \operatorname{Cov} f_t^* =
    K_{**} + A_t K A_t^\top - A_t K_*^\top - K_* A_t^\top$$

    If all layers are trained, the kernel $\Theta$ of the training is the NTK; if only
    the last one is, it is the NNGP kernel itself.

    ```python
    ensemble = Ensemble(eqt.kernel(net, x_train), y_train)
    k_test_train = eqt.kernel(net, x_test, x_train)
    mean = ensemble.mean(t, k_test_train)
    covariance = ensemble.covariance(t, k_test_train, eqt.nngp(net, x_test))
    ```

    In a compiled function, ask for both by `moments`, which share the work.
    """

    training: GradientDescentMSE
    trained: Literal["all", "last"] = eqx.field(static=True)
    nngp: Float[Array, "rows rows"]
    target_noise: Float[Array, ""]
    diagonal: bool = eqx.field(static=True)  # whether the start is, for eigenvectors

    def __init__(
        self,
        k_train_train: Kernel,
        y_train: Float[Array, " n_train *positions_and_outputs"],
        *,
        trained: Literal["all", "last"] = "all",
        rule: AbstractRule = FLOW,
        noise: Scalar | Float[Array, "..."] = 0.0,
        relative_noise: Scalar = 0.0,
        target_noise: Scalar = 0.0,
    ):
        """Factorise the kernel.

        **Arguments:**

        - `k_train_train`: both kernels of the training examples with each other, of
            infinitely wide networks or of finite ones (traced over the outputs).
        - `y_train`: targets, `(n_train, *positions, *outputs)`.
        - `trained`: the layers that are trained, all or the last one.
        - `rule`: how they are trained: `GradientFlow`, `GradientSteps`, or an
            `AbstractRule` of your own.
        - `noise`, `relative_noise`: on the diagonal of the training's kernel, as for
            `GradientDescentMSE`.
        - `target_noise`: variance of fresh noise that each network's targets have. With
            `trained="last"` and both noises the same, the ensemble that is trained to
            the end is the posterior of the NNGP with that noise.

        **Raises:** as `GradientDescentMSE` does.

        **Cost:** two Cholesky factorisations, $2 n^3 / 3$ multiply-adds; calls may need
        eigenvectors, as for `GradientDescentMSE`.

        **Source:** Lee et al. 2019, arXiv:1902.06720, section 2.3; Matthews et al.
        2017, "Sample-then-optimize posterior sampling for Bayesian linear models".
        """
        trained = checked_choice("trained", trained, ("all", "last"))
        check_both("k_train_train", k_train_train)
        dynamics = k_train_train.ntk if trained == "all" else k_train_train.nngp
        self.trained = trained
        self.training = GradientDescentMSE(
            dynamics, y_train, rule=rule, noise=noise, relative_noise=relative_noise
        )
        data = self.training.data
        target_noise = number("target_noise", target_noise)
        self.target_noise = jnp.asarray(target_noise, data.kernel.dtype)
        name = "k_train_train.nngp"
        nngp = data.test_train(k_train_train.nngp, name)
        nngp = checked_kernel(name, nngp)
        if trained == "all":  # of the last layer, it is what was factorised
            nngp = refuse_beyond_rounding(nngp, name)
        self.nngp = nngp
        self.diagonal = trained == "last" and jnp.ndim(noise) == 0

    def mean(
        self, t: Scalar | Float[Array, "..."], k_test_train: Kernel
    ) -> Float[Array, "..."]:
        """Mean outputs of test examples.

        **Arguments:**

        - `t`: times (numbers of steps), from 0 to infinity, in any order and shape.
        - `k_test_train`: both kernels of the test with the training examples.

        **Returns:** an array `(*t, n_test, *positions, *outputs)`.

        **Raises:** `ValueError` if the shapes do not fit; `RuntimeError` as
        `GradientDescentMSE.train_outputs` does.
        """
        return self.training.test_outputs(t, self._dynamics(k_test_train))

    def covariance(
        self,
        t: Scalar | Float[Array, "..."],
        k_test_train: Kernel,
        nngp_test_test: Float[Array, "n_test n_test *positions_twice"],
    ) -> Float[Array, "..."]:
        """Covariance of the outputs of test examples, the same for each output.

        **Arguments:**

        - `t`: times (numbers of steps), from 0 to infinity, in any order and shape.
        - `k_test_train`: both kernels of the test with the training examples.
        - `nngp_test_test`: the NNGP kernel of the test examples with each other.

        **Returns:** an array `(*t, n_test, n_test, *positions, *positions)`.

        **Raises:** `ValueError` if the shapes do not fit; `RuntimeError` as
        `GradientDescentMSE.train_outputs` does.

        **Cost:** for each time, $n_* n^2 + n_*^2 n$ multiply-adds; half of the first,
        and $2 n^3$ once, where there are many, and none of it if only the last layer is
        trained. At the end of training a solve for each test example, else the
        eigenvectors.
        """
        return self._moments(t, k_test_train, nngp_test_test)[1]

    def moments(
        self,
        t: Scalar | Float[Array, "..."],
        k_test_train: Kernel,
        nngp_test_test: Float[Array, "n_test n_test *positions_twice"],
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """`mean` and `covariance`, with eigenvectors that are computed once.

        Outside of what is compiled, eigenvectors are kept and the two alone are no
        slower.

        **Arguments, errors:** as of `covariance`.

        **Returns:** what `mean` and what `covariance` returns.
        """
        mean, covariance = self._moments(
            t, k_test_train, nngp_test_test, with_means=True
        )
        mean = self.training.data.restored(mean)
        return jnp.reshape(mean, np.shape(t) + mean.shape[1:]), covariance

    def _moments(
        self,
        t: Scalar | Float[Array, "..."],
        k_test_train: Kernel,
        nngp_test_test: Float[Array, "n_test n_test *positions_twice"],
        *,
        with_means: bool = False,
    ) -> tuple[Float[Array, "times rows_test columns"], Float[Array, "..."]]:
        data = self.training.data
        dynamics, nngp = self._test_train(k_test_train)
        prior = data.test_test(nngp_test_test, nngp.shape[0], "nngp_test_test")
        kernels = dynamics, nngp, prior
        covariance, mean = self._moments_at(t, *kernels, with_means=with_means)
        covariance = data.as_kernel(covariance)
        return mean, jnp.reshape(covariance, np.shape(t) + covariance.shape[1:])

    def variance(
        self,
        t: Scalar | Float[Array, "..."],
        k_test_train: Kernel,
        nngp_test_diagonal: Float[Array, " n_test *positions"],
    ) -> Float[Array, "..."]:
        """Variance of each test output: the diagonal of `covariance`, computed alone.

        Rounding cannot make it negative, so its square root is always finite.

        **Arguments:**

        - `t`, `k_test_train`: as for `covariance`.
        - `nngp_test_diagonal`: the diagonal of the test examples' NNGP kernel.

        **Returns:** an array `(*t, n_test, *positions)`.

        **Raises:** `ValueError` if the shapes do not fit; `RuntimeError` as
        `GradientDescentMSE.train_outputs` does.
        """
        data = self.training.data
        dynamics, nngp = self._test_train(k_test_train)
        prior = data.test_diagonal(nngp_test_diagonal, nngp.shape[0])
        variance, _ = self._moments_at(t, dynamics, nngp, prior)
        variance = jnp.maximum(variance, 0)
        return jnp.reshape(variance, np.shape(t) + np.shape(nngp_test_diagonal))

    def train_mean(self, t: Scalar | Float[Array, "..."]) -> Float[Array, "..."]:
        """Mean outputs of the networks for the training examples, without noise."""
        return self.training.train_outputs(t)

    def train_covariance(self, t: Scalar | Float[Array, "..."]) -> Float[Array, "..."]:
        """Covariance of the outputs of the training examples, the same for each output.

        **Returns:** an array `(*t, n_train, n_train, *positions, *positions)`.
        """
        data = self.training.data
        covariance, _ = self._moments_at(t, data.matrix, self.nngp, self.nngp)
        covariance = data.as_kernel(covariance)
        return jnp.reshape(covariance, np.shape(t) + covariance.shape[1:])

    def _test_train(
        self, k_test_train: Kernel
    ) -> tuple[Float[Array, "rows_test rows"], Float[Array, "rows_test rows"]]:
        data = self.training.data
        dynamics = data.test_train(self._dynamics(k_test_train))
        return dynamics, data.test_train(k_test_train.nngp, "k_test_train.nngp")

    def _dynamics(self, k_test_train: Kernel) -> Float[Array, "..."]:
        check_both("k_test_train", k_test_train)
        return k_test_train.ntk if self.trained == "all" else k_test_train.nngp

    def _start_covariance(self) -> Float[Array, "rows rows"]:
        return self.nngp + self.target_noise * jnp.eye(
            self.nngp.shape[0], dtype=self.nngp.dtype
        )

    def _moments_at(
        self,
        t: Scalar | Float[Array, "..."],
        dynamics: Float[Array, "rows_test rows"],
        nngp: Float[Array, "rows_test rows"],
        prior: Float[Array, "*test"],
        *,
        with_means: bool = False,
    ) -> TimedMoments:
        targets = self.training.data.targets
        kernels = (dynamics, nngp, prior, targets if with_means else targets[:, :0])
        return _ensemble_at(self, self.training.times(t), kernels)


def check_both(name: str, kernel: Kernel) -> None:
    """Raise unless both kernels are there."""
    if not is_both(kernel):
        raise ValueError(
            f"`{name}` is {described(kernel)}, but an ensemble needs the NNGP kernel "
            "for how the networks start and the NTK for how they train. Pass both, "
            "`eqtangents.kernel(net, ...)` or `eqtangents.Kernel(nngp, ntk)`. Times "
            "come before kernels."
        )


def _ensemble_at(
    ensemble: Ensemble, times: Float[Array, " times"], kernels: tuple[Array, ...]
) -> TimedMoments:
    training, noisy = ensemble.training, ensemble.training.noisy_kernel
    assert isinstance(noisy, NoisyKernel), "ensembles are made of matrices"
    return ensemble_moments(
        noisy,
        ensemble._start_covariance(),
        training.gain(times),
        kernels,
        lax.stop_gradient(ensemble.target_noise) if ensemble.diagonal else None,
    )
