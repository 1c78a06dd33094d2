"""What regressors and classifiers share: hyperparameters, and precision."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents._extras import needed
from eqtangents._kernel import nngp, nngp_diagonal, ntk
from eqtangents.estimators._hyperparameters import network_of
from eqtangents.nn import AbstractActivation, AbstractLayer
from eqtangents.predict import FromNetwork, GaussianProcess


base, multiclass, validation = (
    needed(f"sklearn.{name}", "sklearn", "`eqtangents.estimators`")
    for name in ("base", "utils.multiclass", "utils.validation")
)

# What scikit-learn makes an array of: arrays, nested lists, tables.
ArrayLike: TypeAlias = Any
_MADE_BY_FIT = ("net_", "predictor_")
_OF_NETWORK = ("depth", "activation", "weight_std", "bias_std")


NetworkPosterior: TypeAlias = FromNetwork[GaussianProcess]


class Inference(NamedTuple):
    """A kernel, and the variances of outputs whose mean is regression with it."""

    kernel: Callable[..., Array]
    # Of the network, inputs, what learned, and its kernel with what it learned from.
    variance: Callable[[AbstractLayer, Array, NetworkPosterior, Array], Array]


def _variance_of_posterior(
    net: AbstractLayer,
    x: Float[Array, "n *shape"],
    learned: NetworkPosterior,
    k: Float[Array, "n n_train"],
) -> Float[Array, " n"]:
    return learned.predictor.variance(k, nngp_diagonal(net, x))


def _variance_of_ensemble(
    net: AbstractLayer,
    x: Float[Array, "n *shape"],
    learned: NetworkPosterior,
    k: Float[Array, "n n_train"],
) -> Float[Array, " n"]:
    x_train = cast(Array, learned.x_train)
    covariances = nngp(net, x_train), nngp(net, x, x_train), nngp(net, x)
    moments = learned.predictor.ensemble_covariance(*covariances, k)
    return jnp.maximum(jnp.diagonal(moments), 0)


OF_POSTERIOR = Inference(nngp, _variance_of_posterior)
OF_ENSEMBLE = Inference(ntk, _variance_of_ensemble)


class AbstractEstimator(base.BaseEstimator):
    """An infinitely wide network that has seen examples, or is to see them."""

    _inference: ClassVar[Inference]

    def __init__(
        self,
        net: AbstractLayer | Callable[..., AbstractLayer] | None = None,
        *,
        depth: int = 1,
        activation: str | AbstractActivation = "relu",
        weight_std: float = 2**0.5,
        bias_std: float | None = 0.1,
        noise: float = 0.0,
        relative_noise: float = 1e-2,
    ):
        """Keep the hyperparameters as they come: `fit` reads them."""
        self.net = net
        self.depth = depth
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.noise = noise
        self.relative_noise = relative_noise

    def __sklearn_tags__(self) -> Any:
        tags = base.BaseEstimator.__sklearn_tags__(self)
        tags.input_tags.three_d_array = True
        return tags

    # Arrays of JAX would lose their precision when they are read where it is another.
    def __getstate__(self) -> dict[str, Any]:
        state = base.BaseEstimator.__getstate__(self)
        return state | _with_leaves(state, eqx.is_array, np.asarray)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "predictor_" in state:
            with precision_of(state["predictor_"].x_train):
                state = state | _with_leaves(
                    state, lambda one: isinstance(one, np.ndarray), jnp.asarray
                )
        base.BaseEstimator.__setstate__(self, state)

    def _checked(self, X: ArrayLike, y: ArrayLike, **options: Any) -> tuple[Any, Any]:
        """Inputs and targets to learn from, as arrays of NumPy."""
        dtypes = [np.float64, np.float32]
        return validation.validate_data(
            self, X, y, dtype=dtypes, allow_nd=True, **options
        )

    def _learn(
        self,
        inputs: Float[np.ndarray, "n *shape"],
        targets: Float[np.ndarray, "n *outputs"],
    ) -> None:
        """Condition the network on targets."""
        defaults = inspect.signature(AbstractEstimator.__init__).parameters
        with precision_of(inputs):
            self.net_ = network_of(
                self.net,
                {name: getattr(self, name) for name in _OF_NETWORK},
                {name: defaults[name].default for name in _OF_NETWORK},
            )
            self.predictor_ = FromNetwork(
                GaussianProcess,
                eqx.Partial(self._inference.kernel, self.net_),
                jnp.asarray(inputs),
                jnp.asarray(targets, inputs.dtype),
                noise=self.noise,
                relative_noise=self.relative_noise,
            )

    def _moments(
        self, X: ArrayLike, *, wants_variance: bool
    ) -> tuple[Float[np.ndarray, "n *outputs"], Float[np.ndarray, " n"] | None]:
        """Means and variances of the outputs, in the precision of what was learned."""
        validation.check_is_fitted(self)
        learned: NetworkPosterior = self.predictor_
        x_train = cast(Array, learned.x_train)
        inputs = validation.validate_data(
            self, X, reset=False, dtype=x_train.dtype, allow_nd=True
        )
        with precision_of(inputs):
            x = jnp.asarray(inputs)
            k = cast(Array, learned.kernel(x, x_train))
            mean = np.asarray(learned.predictor.mean(k))
            if not wants_variance:
                return mean, None
            return mean, np.asarray(self._inference.variance(self.net_, x, learned, k))


def precision_of(array: Float[np.ndarray, "..."]) -> contextlib.AbstractContextManager:
    """Where JAX has float64 if an array does; what it has elsewhere stays as it is."""
    return jax.enable_x64(array.dtype == np.float64)


def _with_leaves(
    state: dict[str, Any], which: Callable[[Any], bool], convert: Callable[[Any], Any]
) -> dict[str, Any]:
    """What was found, with some of its leaves as other arrays."""
    leaf = lambda one: convert(one) if which(one) else one
    return {
        name: jax.tree.map(leaf, state[name]) for name in state if name in _MADE_BY_FIT
    }
