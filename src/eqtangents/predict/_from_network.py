"""Predictors that are asked about inputs, and compute the kernels themselves."""

from collections.abc import Callable
from typing import Concatenate, Generic, ParamSpec, TypeVar, cast, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from eqtangents._kernel import Kernel
from eqtangents._trees import Batch
from eqtangents._types import Scalar
from eqtangents.nn import AbstractLayer
from eqtangents.predict._arguments import Times, described, is_both
from eqtangents.predict._ensemble import Ensemble
from eqtangents.predict._gaussian_process import GaussianProcess
from eqtangents.predict._gradient_descent import GradientDescent
from eqtangents.predict._gradient_descent_mse import GradientDescentMSE
from eqtangents.predict._kernel_function import (
    KernelFunction,
    class_of_predictors,
    kernel_function,
    nngp_of,
    variances_of,
)
from eqtangents.predict._training_state import TrainingState


MakeOptions = ParamSpec("MakeOptions")
P = TypeVar("P", bound=eqx.Module)


class FromNetwork(eqx.Module, Generic[P]):
    """A predictor of this package that takes inputs where that takes kernels.

    It is made from a network of `eqtangents.nn`, or from any function of two batches:
    of a finite network, a sum of kernels, your own. It has the methods of the
    predictor, with the same arguments in the same order, but inputs in place of
    kernels; all else that a predictor has is there as `predictor`.

    ```python
    posterior = FromNetwork(GaussianProcess, net, x_train, y_train, noise=0.1)
    mean, variance = posterior.mean(x_test), posterior.variance(x_test)

    ensemble = FromNetwork(Ensemble, net, x_train, y_train)
    covariance = ensemble.covariance(t, x_test)
    ```
    """

    predictor: P
    kernel: KernelFunction
    x_train: Batch

    def __init__(
        self,
        make: Callable[Concatenate[Array, Array, MakeOptions], P]
        | Callable[Concatenate[Kernel, Array, MakeOptions], P],
        network: AbstractLayer | KernelFunction,
        x_train: Batch,
        y_train: Shaped[Array, " n_train *positions_and_outputs"],
        *args: MakeOptions.args,
        **options: MakeOptions.kwargs,
    ):
        """Compute the kernel of the training examples, and make the predictor.

        **Arguments:**

        - `make`: a class of predictors: `GaussianProcess`, `Ensemble`,
            `GradientDescentMSE`, or `functools.partial(GradientDescent, loss)`.
        - `network`: a network of `eqtangents.nn`, of which a `GaussianProcess` gets the
            NNGP kernel, an `Ensemble` both and a training the NTK; or a function of
            `(x1, x2)`, where `x2=None` stands for `x1` again. It returns one kernel, or
            both for an `Ensemble`: `eqx.Partial(eqtangents.ntk, net)`, say.
        - `x_train`, `y_train`: inputs and targets.
        - `options`: what the class takes besides.

        **Raises:** what the kernel and the class do, `TypeError` for what is no class
        of predictors or no kernel.
        """
        of = class_of_predictors(make)
        self.kernel = kernel_function(network, of)
        self.x_train = x_train
        k_train_train = self.kernel(x_train, None)
        if is_both(k_train_train) and of is not Ensemble:
            raise ValueError(
                "The kernel function returns both kernels, but one is needed. Pass the "
                "network itself, or `eqx.Partial(eqtangents.nngp, net)`, or "
                "`eqx.Partial(eqtangents.ntk, net)`."
            )
        fit: Callable[..., P] = make
        self.predictor = fit(k_train_train, y_train, *args, **options)

    # What each predictor says of test examples.

    @overload
    def mean(
        self: "FromNetwork[GaussianProcess]", x_test: Batch, /
    ) -> Float[Array, "..."]: ...
    @overload
    def mean(
        self: "FromNetwork[Ensemble]", t: Times, x_test: Batch, /
    ) -> Float[Array, "..."]: ...
    def mean(self, *times_and_inputs: PyTree) -> Float[Array, "..."]:
        """Mean outputs of test examples; at times `t`, for an `Ensemble`."""
        times, x_test = self._split("mean", times_and_inputs)
        return self._method("mean")(*times, self.kernel(x_test, self.x_train))

    @overload
    def covariance(
        self: "FromNetwork[GaussianProcess]", x_test: Batch, /
    ) -> Float[Array, "..."]: ...
    @overload
    def covariance(
        self: "FromNetwork[Ensemble]", t: Times, x_test: Batch, /
    ) -> Float[Array, "..."]: ...
    def covariance(self, *times_and_inputs: PyTree) -> Float[Array, "..."]:
        """Covariance of the outputs of test examples."""
        times, x_test = self._split("covariance", times_and_inputs)
        kernels = self.kernel(x_test, self.x_train), nngp_of(self.kernel(x_test, None))
        return self._method("covariance")(*times, *kernels)

    @overload
    def variance(
        self: "FromNetwork[GaussianProcess]", x_test: Batch, /
    ) -> Float[Array, "..."]: ...
    @overload
    def variance(
        self: "FromNetwork[Ensemble]", t: Times, x_test: Batch, /
    ) -> Float[Array, "..."]: ...
    def variance(self, *times_and_inputs: PyTree) -> Float[Array, "..."]:
        """Variance of each test output; no matrix of all test examples is computed."""
        times, x_test = self._split("variance", times_and_inputs)
        kernels = self.kernel(x_test, self.x_train), variances_of(self.kernel, x_test)
        return self._method("variance")(*times, *kernels)

    def sample(
        self: "FromNetwork[GaussianProcess]",
        x_test: Batch,
        shape: tuple[int, ...] = (),
        *,
        key: PRNGKeyArray,
    ) -> Float[Array, "..."]:
        """Functions drawn from the posterior, at the test examples."""
        posterior = self._having("sample")
        kernels = self._one_kernel(x_test, self.x_train), self._one_kernel(x_test, None)
        return posterior.sample(*kernels, shape, key=key)

    @overload
    def test_outputs(
        self: "FromNetwork[GradientDescentMSE]",
        t: Times,
        x_test: Batch,
        /,
        start_train: Times = 0.0,
        start_test: Times = 0.0,
    ) -> Float[Array, "..."]: ...
    @overload
    def test_outputs(
        self: "FromNetwork[GradientDescent]",
        state: TrainingState,
        x_test: Batch,
        /,
        start_test: Times = 0.0,
        start_velocity: Times = 0.0,
    ) -> Float[Array, "..."]: ...
    def test_outputs(
        self, when: PyTree, x_test: Batch, /, *start: Times, **starts: Times
    ) -> Float[Array, "..."]:
        """Outputs of test examples at the times, or in the states, of a training."""
        method = self._method("test_outputs")
        self._check_inputs("test_outputs(t, x_test)", x_test)
        k_test_train = self.kernel(x_test, self.x_train)
        return method(when, k_test_train, *start, **starts)

    # What each predictor says of the training examples.

    def train_outputs(
        self: "FromNetwork[GradientDescentMSE]", t: Times, start_train: Times = 0.0
    ) -> Float[Array, "..."]:
        """Outputs of the training examples, at the times of a training."""
        return self._having("train_outputs").train_outputs(t, start_train)

    def train_mean(self: "FromNetwork[Ensemble]", t: Times) -> Float[Array, "..."]:
        """Mean outputs of the training examples in an ensemble."""
        return self._having("train_mean").train_mean(t)

    def train_covariance(
        self: "FromNetwork[Ensemble]", t: Times
    ) -> Float[Array, "..."]:
        """Covariance of the outputs of the training examples in an ensemble."""
        return self._having("train_covariance").train_covariance(t)

    def log_marginal_likelihood(
        self: "FromNetwork[GaussianProcess]",
    ) -> Float[Array, ""]:
        """Log density of the training targets, summed over outputs."""
        return self._having("log_marginal_likelihood").log_marginal_likelihood()

    def leave_one_out(
        self: "FromNetwork[GaussianProcess]",
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Mean and variance of each training target, given all other examples."""
        return self._having("leave_one_out").leave_one_out()

    def leave_one_out_log_density(
        self: "FromNetwork[GaussianProcess]",
    ) -> Float[Array, ""]:
        """Log density of each training target given all others, summed over them."""
        return self._having("leave_one_out_log_density").leave_one_out_log_density()

    def condition(
        self: "FromNetwork[GaussianProcess]",
        x_new: Batch,
        y_new: Shaped[Array, " n_new *positions_and_outputs"],
        *,
        noise: Scalar | Float[Array, "..."] | None = None,
    ) -> "FromNetwork[GaussianProcess]":
        """The posterior after more observations: see `GaussianProcess.condition`."""
        posterior = self._having("condition")
        kernels = self._one_kernel(x_new, self.x_train), self._one_kernel(x_new, None)
        parts = (
            posterior.condition(*kernels, y_new, noise=noise),
            jax.tree.map(lambda *x: jnp.concatenate(x), self.x_train, x_new),
        )
        return eqx.tree_at(lambda of: (of.predictor, of.x_train), self, parts)

    def _one_kernel(self, x1: Batch, x2: Batch | None) -> Array:
        # Only an `Ensemble` is made of both kernels.
        return cast(Array, self.kernel(x1, x2))

    def _having(self, name: str) -> P:
        """The predictor, if it has a method of this name."""
        if getattr(self.predictor, name, None) is None:
            of = type(self.predictor).__name__
            theirs = [n for n in dir(type(self)) if not n.startswith("_")]
            has = [f"`{n}`" for n in theirs if n in dir(type(self.predictor))]
            raise TypeError(f"`{of}` has no `{name}`: here it has {', '.join(has)}.")
        return self.predictor

    def _method(self, name: str) -> Callable[..., Float[Array, "..."]]:
        """A method that several predictors have, each with its own arguments."""
        return getattr(self._having(name), name)

    def _split(
        self, name: str, arguments: tuple[PyTree, ...]
    ) -> tuple[tuple[PyTree, ...], Batch]:
        """Times, if they are needed, and inputs."""
        needed = (
            ("t", "x_test") if isinstance(self.predictor, Ensemble) else ("x_test",)
        )
        self._method(name)
        if len(arguments) != len(needed):
            of = type(self.predictor).__name__
            raise TypeError(
                f"`{name}({', '.join(needed)})` is needed for `{of}`, but "
                f"{len(arguments)} arguments came."
            )
        *times, x_test = arguments
        self._check_inputs(f"{name}({', '.join(needed)})", x_test)
        return tuple(times), x_test

    def _check_inputs(self, call: str, x_test: Batch) -> None:
        leaves = jax.tree.leaves(x_test)
        if not leaves or any(jnp.ndim(leaf) == 0 for leaf in leaves):
            raise TypeError(
                f"`x_test` is {described(x_test)}, but a batch of inputs is needed, "
                f"after the times where there are any: `{call}`."
            )
