"""The posterior of a Gaussian process whose covariances are given as matrices."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._products import matmul
from eqtangents._types import Scalar
from eqtangents.predict._habits import habits_told
from eqtangents.predict._inverse import AbstractInverse, CholeskyInverse, inverse_of
from eqtangents.predict._posterior import draws, extended_cholesky
from eqtangents.predict._training_set import NO_MATRIX, TrainingSet, TrainOutputs
from eqtangents.solvers import BlockCG, GramOperator


@habits_told
class GaussianProcess(eqx.Module):
    r"""Posterior of a zero-mean Gaussian process after seeing training targets.

    Which posterior depends on the kernel it is given:

    - **NNGP**: the exact Bayesian posterior of the infinitely wide network. It is also
      what an ensemble gives in which only the last layer is trained.
    - **NTK**: `mean` and `ensemble_covariance` describe an ensemble of infinitely wide
      networks, trained by gradient descent on the squared error for an infinite time.
      `covariance` belongs to the Gaussian process *with the NTK as prior*.

    The matrix is factorised when the object is made; each method only solves. Outputs
    are independent and share the kernel. Everything is differentiable and works under
    `jax.jit` and `jax.vmap`.

    Of an `eqtangents.GramOperator` all answers are iterative, to the `rtol` of the
    `solver`: the mean by one solve, covariances by one for each test example, and the
    likelihood as an estimate from fixed random signs; `eqtangents.solvers` has the
    latter two with errors. `condition` and leaving one out need a matrix.

    ```python
    posterior = GaussianProcess(eqt.nngp(net, x_train), y_train, relative_noise=1e-4)
    mean = posterior.mean(eqt.nngp(net, x_test, x_train))
    ```

    Where outputs at several positions are correlated, kernels have the axes
    `(n1, n2, *positions, *positions)`, targets and outputs `(n, *positions, *outputs)`.
    """

    data: TrainingSet
    inverse: AbstractInverse
    solution: Float[Array, "rows columns"]

    def __init__(
        self,
        k_train_train: Float[Array, "n_train n_train *positions_twice"] | GramOperator,
        y_train: TrainOutputs,
        *,
        noise: Scalar | Float[Array, "..."] = 0.0,
        relative_noise: Scalar = 0.0,
        solver: BlockCG | None = None,
    ):
        r"""Condition on the training targets, by a Cholesky factorisation.

        $$K + \bigl(\sigma^2 + r \, \tfrac1n \operatorname{tr} K\bigr) I = L L^\top$$

        **Arguments:**

        - `k_train_train`: covariance $K$ of the training examples, or an
            `eqtangents.GramOperator` with noise of its own.
        - `y_train`: their targets; subtract the mean of the targets first, since the
            prior has none. They are converted to the dtype of the kernel.
        - `noise`: variance $\sigma^2$ of the observations: one for all, one each
            example, or an array that broadcasts to the targets, `(1, n_outputs)` for
            one each output.
        - `relative_noise`: $r$, more noise in units of the mean variance of training
            examples, for kernels of any scale: for rounding, not for what data say.
        - `solver`: how to solve with an operator.

        **Raises:** `ValueError` if the shapes do not fit or a dtype is not floating,
        `TypeError` for what is no array. `RuntimeError` if the kernel or the targets
        are not finite, if the kernel is not symmetric, or with the noise not positive
        definite beyond its rounding, or if a noise is negative.

        **Cost:** $n^3 / 3$ multiply-adds, and three arrays of the size of $K$; if the
        noise differs between outputs, for each of them.

        **Source:** Rasmussen & Williams 2006, algorithm 2.1, for the posterior; Lee et
        al. 2019, arXiv:1902.06720, corollary 1, for the NTK's mean.
        """
        self.data = TrainingSet(k_train_train, y_train, noise, relative_noise)
        self.inverse = inverse_of(self.data, solver)
        self.solution = self.inverse.times(self.data.targets)

    def condition(
        self,
        k_new_train: Float[Array, "n_new n_train *positions_twice"],
        k_new_new: Float[Array, "n_new n_new *positions_twice"],
        y_new: Float[Array, " n_new *positions_and_outputs"],
        *,
        noise: Scalar | Float[Array, "..."] | None = None,
    ) -> "GaussianProcess":
        r"""The posterior after more observations, which extend the factorisation.

        $$\begin{pmatrix} K + \sigma^2 I & K_+^\top \\ K_+ & K_{++} + \sigma^2 I
        \end{pmatrix} = L L^\top, \qquad
        L = \begin{pmatrix} L_0 & 0 \\ K_+ L_0^{-\top} & L_+ \end{pmatrix}$$

        It is the posterior given all observations at once, in the order in which they
        came: kernels of test examples have columns for the old, then for the new.

        **Arguments:**

        - `k_new_train`: covariance $K_+$ of the new with all earlier examples.
        - `k_new_new`: covariance $K_{++}$ of the new examples with each other.
        - `y_new`: their targets.
        - `noise`: variance of the new observations, as for the constructor; if not
            given, the variance of the first ones, where `relative_noise` counts as what
            it came to then.

        **Raises:** as the constructor does; `ValueError` if the noise differed between
        examples and is not given.

        **Cost:** $n^2 m$ multiply-adds for $m$ new among $n$ examples.
        """
        if not isinstance(self.inverse, CholeskyInverse):
            raise ValueError(NO_MATRIX)
        data = self.data.extended(k_new_train, k_new_new, y_new, noise)
        old = self.inverse.cholesky
        inverse = CholeskyInverse(extended_cholesky(old, data.matrix, data.noise))
        parts = (data, inverse, inverse.times(data.targets))
        return eqx.tree_at(lambda gp: (gp.data, gp.inverse, gp.solution), self, parts)

    @property
    def weights(self) -> TrainOutputs:
        r"""$(K + \sigma^2 I)^{-1} y$: how much each target moves any output."""
        return self.data.restored(self.solution)

    def mean(
        self,
        k_test_train: Float[Array, "n_test n_train *positions_twice"] | GramOperator,
    ) -> Float[Array, " n_test *positions_and_outputs"]:
        r"""Expected output of each test example, $K_* (K + \sigma^2 I)^{-1} y$.

        **Arguments:**

        - `k_test_train`: covariance $K_*$ of the test with the training examples, as a
            matrix or an operator.

        **Raises:** `ValueError` if its columns are not the training examples.
        """
        return self.data.restored(self.data.test_times(k_test_train, self.solution))

    def covariance(
        self,
        k_test_train: Float[Array, "n_test n_train *positions_twice"],
        k_test_test: Float[Array, "n_test n_test *positions_twice"],
    ) -> Float[Array, "..."]:
        r"""Covariance of the test outputs.

        $$K_{**} - K_* (K + \sigma^2 I)^{-1} K_*^\top$$

        It is the same for every output, unless the noise differs between them: then
        there are leading axes for outputs. It describes the function itself: add the
        noise's variance to its diagonal for new noisy observations.

        **Arguments:**

        - `k_test_train`: covariance $K_*$ of the test with the training examples.
        - `k_test_test`: covariance $K_{**}$ of the test examples with each other.

        **Raises:** `ValueError` if the shapes do not fit.
        """
        blocks = self._test_blocks(k_test_train, k_test_test)
        covariance = self.inverse.covariance(*blocks)
        return self._first_or_outputs(self.data.as_kernel(covariance))

    def variance(
        self,
        k_test_train: Float[Array, "n_test n_train *positions_twice"],
        k_test_diagonal: Float[Array, " n_test *positions"],
    ) -> Float[Array, "..."]:
        """Variance of each test output: the diagonal of `covariance`, never negative.

        **Arguments:**

        - `k_test_train`: covariance of the test with the training examples.
        - `k_test_diagonal`: prior variance of each test example.

        **Raises:** `ValueError` if the shapes do not fit.
        """
        k_test_train = self.data.test_train(k_test_train)
        rows = k_test_train.shape[0]
        prior = self.data.test_diagonal(k_test_diagonal, rows)
        variance = self.inverse.variance(k_test_train, prior)
        shape = variance.shape[:1] + np.shape(k_test_diagonal)
        return self._first_or_outputs(jnp.reshape(variance, shape))

    def sample(
        self,
        k_test_train: Float[Array, "n_test n_train *positions_twice"],
        k_test_test: Float[Array, "n_test n_test *positions_twice"],
        shape: tuple[int, ...] = (),
        *,
        key: PRNGKeyArray,
    ) -> Float[Array, "..."]:
        """Functions drawn from the posterior, at the test examples.

        **Arguments:**

        - `k_test_train`, `k_test_test`: covariances as for `covariance`.
        - `shape`: of how many samples; no axes for a single one.
        - `key`: a random key.

        **Returns:** an array `(*shape, n_test, *positions, *outputs)`.

        **Raises:** `ValueError` if the shapes do not fit. `RuntimeError` if the
        covariance is not positive semi-definite beyond rounding.

        **Cost:** an eigendecomposition of the covariance.
        """
        k_test_train, k_test_test = self._test_blocks(k_test_train, k_test_test)
        mean = matmul(k_test_train, self.solution)
        covariance = self.inverse.covariance(k_test_train, k_test_test)
        scale = jnp.max(jnp.abs(k_test_test), initial=0)
        return self.data.restored(draws(mean, covariance, scale, shape, key))

    def ensemble_covariance(
        self,
        nngp_train_train: Float[Array, "n_train n_train *positions_twice"],
        nngp_test_train: Float[Array, "n_test n_train *positions_twice"],
        nngp_test_test: Float[Array, "n_test n_test *positions_twice"],
        ntk_test_train: Float[Array, "n_test n_train *positions_twice"],
    ) -> Float[Array, "..."]:
        r"""Covariance of an ensemble trained to the end, where this has the NTK.

        Training takes the initial outputs $f_0$, of covariance $K$ (the NNGP), to
        $f_0^* + A (y - f_0)$ with $A = \Theta_* (\Theta + \sigma^2 I)^{-1}$, so it is

        $$K_{**} + A K A^\top - A K_*^\top - K_* A^\top$$

        `Ensemble` gives it at any time, at the cost of an eigendecomposition.

        **Raises:** `ValueError` if the shapes do not fit.

        **Source:** Lee et al. 2019, arXiv:1902.06720, corollary 1.
        """
        ntk = self.data.test_train(ntk_test_train, "ntk_test_train")
        nngp = self.data.test_train(nngp_test_train, "nngp_test_train")
        train = self.data.test_train(nngp_train_train, "nngp_train_train")
        test = self.data.test_test(nngp_test_test, ntk.shape[0], "nngp_test_test")
        covariance = self.inverse.trained_covariance(ntk, train, nngp, test)
        return self._first_or_outputs(self.data.as_kernel(covariance))

    def log_marginal_likelihood(self) -> Float[Array, ""]:
        r"""Log density of the training targets, summed over outputs.

        $$-\tfrac12 y^\top (K + \sigma^2 I)^{-1} y - \tfrac12 \log\det(K + \sigma^2 I)
        - \tfrac n2 \log 2\pi$$

        Its gradient, by `eqx.filter_grad` through the kernel, learns hyperparameters.

        **Source:** Rasmussen & Williams 2006, equation 2.30.
        """
        return self.inverse.log_density(self.data.targets, self.solution)

    def leave_one_out(self) -> tuple[TrainOutputs, TrainOutputs]:
        r"""Mean and variance of each training target, given all other examples.

        The target is the noisy one. Where outputs have positions, one position of one
        example is left out.

        **Cost:** one inverse, not `n_train` posteriors.

        **Source:** Rasmussen & Williams 2006, equations 5.10 to 5.12.
        """
        mean, variance = self.inverse.left_out(self.data.targets, self.solution)
        return self.data.restored(mean), self.data.restored(variance)

    def leave_one_out_log_density(self) -> Float[Array, ""]:
        """Log density of each training target given all others, summed over them.

        A criterion for hyperparameters that trusts the prior less than
        `log_marginal_likelihood`.

        **Source:** Rasmussen & Williams 2006, equation 5.11.
        """
        return self.inverse.left_out_log_density(self.data.targets, self.solution)

    def _test_blocks(
        self,
        k_test_train: Float[Array, "n_test n_train *positions_twice"],
        k_test_test: Float[Array, "n_test n_test *positions_twice"],
    ) -> tuple[Float[Array, "rows_test rows"], Float[Array, "rows_test rows_test"]]:
        k_test_train = self.data.test_train(k_test_train)
        return k_test_train, self.data.test_test(k_test_test, k_test_train.shape[0])

    def _first_or_outputs(
        self, grouped: Float[Array, "groups *rest"]
    ) -> Float[Array, "..."]:
        if grouped.shape[0] == 1:
            return grouped[0]
        return jnp.reshape(grouped, self.data.outputs + grouped.shape[1:])
