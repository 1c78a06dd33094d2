"""Predictors that are asked about inputs, and compute the kernels themselves."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from eqtangents._kernel import Inputs, Kernel
from eqtangents._types import Scalar
from eqtangents.predict._training_set import as_matrix


# Of `(x1, x2)`, where `x2=None` is `x1`: a matrix, or both kernels.
KernelFunction: TypeAlias = Callable[..., Float[Array, "n1 n2 *positions"] | Kernel]
Times: TypeAlias = Scalar | Float[Array, "..."]


class FromInputs(eqx.Module):
    """A predictor of this package that takes inputs where that takes kernels.

    Its methods are those of the predictor, with the test inputs first. The kernel may
    be any function of two batches: of a network, empirical, or your own.

    ```python
    kernel = eqx.Partial(eqt.nngp, net)
    posterior = FromInputs(GaussianProcess, kernel, x_train, y_train, noise=0.1)
    mean, variance = posterior.mean(x_test), posterior.variance(x_test)

    both = eqx.Partial(eqt.kernel, net)
    ensemble = FromInputs(Ensemble, both, x_train, y_train)
    covariance = ensemble.covariance(x_test, t)
    ```
    """

    predictor: Any
    kernel: KernelFunction
    x_train: Inputs

    def __init__(
        self,
        make: Callable[..., Any],
        kernel: KernelFunction,
        x_train: Inputs,
        y_train: PyTree,
        **options: Any,
    ):
        """Compute the kernel of the training examples, and make the predictor.

        **Arguments:**

        - `make`: a class of predictors: `GaussianProcess`, `Ensemble`,
            `GradientDescentMSE`, or `eqx.Partial(GradientDescent, loss)`.
        - `kernel`: a function of `(x1, x2)`, where `x2=None` stands for `x1` again. It
            returns one kernel, or both for an `Ensemble`.
        - `x_train`, `y_train`: inputs and targets.
        - `options`: those of the class.

        **Raises:** what the kernel and the class do.
        """
        self.kernel = kernel
        self.x_train = x_train
        self.predictor = make(kernel(x_train, None), y_train, **options)

    def mean(self, x_test: Inputs, *t: Times) -> Float[Array, "..."]:
        """Mean outputs of test examples; at times `t`, for an `Ensemble`."""
        return self.predictor.mean(*t, self.kernel(x_test, self.x_train))

    def covariance(self, x_test: Inputs, *t: Times) -> Float[Array, "..."]:
        """Covariance of the outputs of test examples."""
        k_test_train = self.kernel(x_test, self.x_train)
        k_test_test = _nngp(self.kernel(x_test, None))
        return self.predictor.covariance(*t, k_test_train, k_test_test)

    def variance(self, x_test: Inputs, *t: Times) -> Float[Array, "..."]:
        """Variance of each test output; no matrix of all test examples is computed."""
        k_test_train = self.kernel(x_test, self.x_train)
        return self.predictor.variance(*t, k_test_train, self._diagonal(x_test))

    def sample(
        self, x_test: Inputs, shape: tuple[int, ...] = (), *, key: PRNGKeyArray
    ) -> Float[Array, "..."]:
        """Functions drawn from the posterior of a `GaussianProcess`."""
        k_test_train = self.kernel(x_test, self.x_train)
        k_test_test = _nngp(self.kernel(x_test, None))
        return self.predictor.sample(k_test_train, k_test_test, shape, key=key)

    def test_outputs(
        self, x_test: Inputs, when: Any, **start: Times
    ) -> Float[Array, "..."]:
        """Outputs of test examples at the times, or in the states, of a training."""
        k_test_train = self.kernel(x_test, self.x_train)
        return self.predictor.test_outputs(when, k_test_train, **start)

    def _diagonal(self, x: Inputs) -> Float[Array, " n *positions"]:
        def one(example: Inputs) -> Float[Array, "*positions"]:
            own = _nngp(self.kernel(jax.tree.map(lambda a: a[None], example), None))
            rank = (own.ndim - 2) // 2
            return jnp.reshape(jnp.diagonal(as_matrix(own)), own.shape[2 : 2 + rank])

        return lax.map(one, x)


def _nngp(kernel: Float[Array, "..."] | Kernel) -> Float[Array, "..."]:
    return kernel.nngp if isinstance(kernel, Kernel) else kernel
