"""The posterior of a Gaussian process whose covariances are given as matrices."""

import math

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float


_NONFINITE = """
`k_train_train` holds a value that is not finite.

(a) If the network is deep, its weight variances probably make the signal grow with
    depth; lower `weight_std` (for `Relu` the stable value is `sqrt(2)`).
(b) If the inputs are large, divide them by their standard deviation.
""".strip()

_ASYMMETRIC = """
`k_train_train` is not symmetric, so it is not the covariance of the training examples
with themselves. Was a test-train block passed in its place?
""".strip()

_NEGATIVE_NOISE = (
    "`noise` and `relative_noise` are variances: both must be at least zero."
)

_NOT_POSITIVE_DEFINITE = """
The {n} x {n} matrix `k_train_train`, with the noise added to its diagonal, is not
positive definite in {dtype}.

(a) If training examples repeat, or are nearly the same, add noise: a usual start is
    `relative_noise=1e-4` in float32, `relative_noise=1e-10` in float64.
(b) If the predictions must interpolate the targets, compute the kernel in float64.
""".strip()

# Rounding, in whichever precision the kernel was computed, stays far below this.
_ASYMMETRY_TOLERANCE = 1e-3


class GaussianProcess(eqx.Module):
    r"""Posterior of a zero-mean Gaussian process after seeing training targets.

    Which posterior depends on the kernel it is given:

    - **NNGP**: the exact Bayesian posterior of the infinitely wide network. It is also
      what an ensemble gives in which only the last layer is trained.
    - **NTK**: `mean` is that of an ensemble of infinitely wide networks trained by
      gradient descent on the squared error for an infinite time. `covariance` is then
      that of the Gaussian process *with the NTK as prior*, not that of the ensemble.

    The matrix is factorised once, when the object is made; each call of a method only
    solves. Outputs are independent and share the kernel. Everything is differentiable
    and works under `jax.jit` and `jax.vmap`.

    ```python
    posterior = GaussianProcess(eqt.nngp(net, x_train), y_train, relative_noise=1e-4)
    mean = posterior.mean(eqt.nngp(net, x_test, x_train))
    ```
    """

    cholesky: Float[Array, "n_train n_train"]
    weights: Float[Array, " n_train *outputs"]

    def __init__(
        self,
        k_train_train: Float[Array, "n_train n_train"],
        y_train: Float[Array, " n_train *outputs"],
        *,
        noise: float | Float[Array, ""] | Float[Array, " n_train"] = 0.0,
        relative_noise: float | Float[Array, ""] = 0.0,
    ):
        r"""Condition on the training targets, by a Cholesky factorisation.

        $$K + \bigl(\sigma^2 + r \, \tfrac1n \operatorname{tr} K\bigr) I = L L^\top$$

        **Arguments:**

        - `k_train_train`: covariance $K$ of the training examples with each other.
        - `y_train`: their targets; subtract the mean of the targets first, since the
            prior has none. They are converted to the dtype of the kernel.
        - `noise`: variance $\sigma^2$ of the observations, one for all or one each.
        - `relative_noise`: $r$, more noise in units of the mean variance of the
            training examples, so that one value suits kernels of any scale. The two
            are added: use `noise` for what the data say and this one for rounding.

        **Raises:** `ValueError` if the shapes do not fit or a dtype is not floating.
        `RuntimeError`, when the values are known, if the kernel is not finite, not
        symmetric, or with the noise not positive definite, or if a noise is negative.

        **Cost:** $n^3 / 3$ multiply-adds, and three arrays of the size of $K$.

        **Source:** Rasmussen & Williams 2006, algorithm 2.1, for the posterior; Lee et
        al. 2019, arXiv:1902.06720, corollary 1, for the NTK's mean.
        """
        _check_train(k_train_train, y_train, noise)
        n_train, dtype = k_train_train.shape[0], k_train_train.dtype
        noise = jnp.asarray(noise, dtype)
        relative_noise = jnp.asarray(relative_noise, dtype)
        k_train_train = _check_values(k_train_train, noise, relative_noise)

        mean_variance = jnp.trace(k_train_train) / max(n_train, 1)
        total = noise + relative_noise * mean_variance
        # Not `cho_factor`: this one symmetrises first, so that the gradient with
        # respect to the kernel is symmetric too.
        cholesky = jnp.linalg.cholesky(
            k_train_train + jnp.diag(jnp.broadcast_to(total, (n_train,)))
        )
        self.cholesky = eqx.error_if(
            cholesky,
            ~jnp.all(jnp.isfinite(jnp.diagonal(cholesky))),
            _NOT_POSITIVE_DEFINITE.format(n=n_train, dtype=dtype),
        )
        columns = jnp.reshape(
            y_train.astype(dtype), (n_train, math.prod(y_train.shape[1:]))
        )
        weights = cho_solve((self.cholesky, True), columns)
        self.weights = jnp.reshape(weights, y_train.shape)

    def mean(
        self, k_test_train: Float[Array, "n_test n_train"]
    ) -> Float[Array, " n_test *outputs"]:
        r"""Expected output of each test example, $K_* (K + \sigma^2 I)^{-1} y$.

        **Arguments:**

        - `k_test_train`: covariance $K_*$ of the test with the training examples.

        **Raises:** `ValueError` if its columns are not the training examples.
        """
        self._check_test_train(k_test_train)
        return jnp.tensordot(k_test_train, self.weights, axes=1)

    def covariance(
        self,
        k_test_train: Float[Array, "n_test n_train"],
        k_test_test: Float[Array, "n_test n_test"],
    ) -> Float[Array, "n_test n_test"]:
        r"""Covariance of the test outputs.

        $$K_{**} - K_* (K + \sigma^2 I)^{-1} K_*^\top$$

        It is the same for every output, and that of the function itself: add the
        noise's variance to its diagonal for new noisy observations.

        **Arguments:**

        - `k_test_train`: covariance $K_*$ of the test with the training examples.
        - `k_test_test`: covariance $K_{**}$ of the test examples with each other.

        **Raises:** `ValueError` if the shapes do not fit.
        """
        self._check_test_train(k_test_train)
        n_test = k_test_train.shape[0]
        if k_test_test.shape != (n_test, n_test):
            raise ValueError(
                f"`k_test_test` has shape {k_test_test.shape}, but `k_test_train` has "
                f"{n_test} rows, one a test example: {(n_test, n_test)} is needed. For "
                "the variances alone, use `variance`."
            )
        explained = self._whiten(k_test_train)
        return k_test_test - explained.T @ explained

    def variance(
        self,
        k_test_train: Float[Array, "n_test n_train"],
        k_test_diagonal: Float[Array, " n_test"],
    ) -> Float[Array, " n_test"]:
        """Variance of each test output: the diagonal of `covariance`, computed alone.

        Rounding cannot make it negative, so its square root is always finite.

        **Arguments:**

        - `k_test_train`: covariance of the test with the training examples.
        - `k_test_diagonal`: prior variance of each test example.

        **Raises:** `ValueError` if the shapes do not fit.
        """
        self._check_test_train(k_test_train)
        n_test = k_test_train.shape[0]
        if k_test_diagonal.shape != (n_test,):
            raise ValueError(
                f"`k_test_diagonal` has shape {k_test_diagonal.shape}, but "
                f"`k_test_train` has {n_test} rows, one a test example: {(n_test,)} is "
                "needed. If it is a whole matrix, pass its `jnp.diagonal`."
            )
        explained = jnp.sum(self._whiten(k_test_train) ** 2, axis=0)
        return jnp.maximum(k_test_diagonal - explained, 0)

    def _whiten(
        self, k_test_train: Float[Array, "n_test n_train"]
    ) -> Float[Array, "n_train n_test"]:
        # L^-1 K_*^T. With one triangular solve, not the two of `cho_solve`, the
        # explained covariance is a square: symmetric and positive to the last bit.
        return solve_triangular(self.cholesky, k_test_train.T, lower=True)

    def _check_test_train(self, k_test_train: Float[Array, "n_test n_train"]) -> None:
        n_train, dtype = self.cholesky.shape[-1], self.cholesky.dtype
        if k_test_train.ndim != 2 or k_test_train.shape[1] != n_train:
            swapped = k_test_train.ndim == 2 and k_test_train.shape[0] == n_train
            raise ValueError(
                f"`k_test_train` has shape {k_test_train.shape}, but there are "
                f"{n_train} training examples: (n_test, {n_train}) is needed."
                + (" It looks transposed." if swapped else "")
            )
        if k_test_train.dtype != dtype:
            raise ValueError(
                f"`k_test_train` is {k_test_train.dtype}, but `k_train_train` was "
                f"{dtype}. Compute both from inputs of one dtype."
            )


def _check_train(
    k_train_train: Float[Array, "n_train n_train"],
    y_train: Float[Array, " n_train *outputs"],
    noise: float | Float[Array, ""] | Float[Array, " n_train"],
) -> None:
    """Everything that shapes and dtypes can tell."""
    shape = k_train_train.shape
    if len(shape) > 2:
        raise ValueError(
            f"`k_train_train` has shape {shape}: more than one output position for "
            "each example. End the network with a readout, such as `nn.Flatten` or "
            "`nn.GlobalAvgPool`."
        )
    if len(shape) < 2 or shape[0] != shape[1]:
        raise ValueError(
            f"`k_train_train` has shape {shape}, but it is the covariance of the "
            "training examples with themselves: (n_train, n_train) is needed."
        )
    if y_train.shape[:1] != shape[:1]:
        raise ValueError(
            f"`y_train` has shape {y_train.shape}, but `k_train_train` has shape "
            f"{shape}: targets for {shape[0]} training examples are needed, along the "
            "first axis."
        )
    if not jnp.issubdtype(k_train_train.dtype, jnp.floating):
        raise ValueError(
            f"`k_train_train` is {k_train_train.dtype}: a floating dtype is needed."
        )
    if not jnp.issubdtype(y_train.dtype, jnp.floating):
        raise ValueError(
            f"`y_train` is {y_train.dtype}: a floating dtype is needed. For class "
            "labels use `jax.nn.one_hot(labels, n_classes) - 1 / n_classes`."
        )
    if jnp.shape(noise) not in ((), shape[:1]):
        raise ValueError(
            f"`noise` has shape {jnp.shape(noise)}: a scalar or one variance for each "
            f"of the {shape[0]} training examples is needed."
        )


def _check_values(
    k_train_train: Float[Array, "n_train n_train"],
    noise: Float[Array, ""] | Float[Array, " n_train"],
    relative_noise: Float[Array, ""],
) -> Float[Array, "n_train n_train"]:
    """The same matrix, with the checks that need its values attached."""
    nonfinite = ~jnp.all(jnp.isfinite(k_train_train))
    asymmetry = jnp.max(jnp.abs(k_train_train - k_train_train.T), initial=0)
    scale = jnp.max(jnp.abs(k_train_train), initial=0)
    asymmetric = asymmetry > _ASYMMETRY_TOLERANCE * scale
    negative = jnp.any(noise < 0) | (relative_noise < 0)
    wrong = jnp.stack([nonfinite, asymmetric, negative])
    return eqx.branched_error_if(
        k_train_train,
        jnp.any(wrong),
        jnp.argmax(wrong),  # of the first that holds
        [_NONFINITE, _ASYMMETRIC, _NEGATIVE_NOISE],
    )
