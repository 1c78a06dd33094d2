"""What a layer is, and how its errors say where it is."""

import abc
import contextlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray, PyTree

from eqtangents.covariance import AbstractCovariance
from eqtangents.nn._inputs import Signal


# One example: channels first, or a tuple of them between branches.
Example: TypeAlias = PyTree[Signal]
Covariances: TypeAlias = PyTree[AbstractCovariance]
Shape: TypeAlias = tuple[Any, ...]


# The name of the mapped axis in `jax.vmap(model, axis_name="batch")`.
BATCH = "batch"


class LayerError(ValueError):
    """A layer that does not fit where it stands."""

    def __init__(self, layer: object, message: str, path: str = ""):
        """Say what is wrong; containers add to the path on the way out."""
        self.layer, self.message, self.path = layer, message, path

    def __str__(self) -> str:
        """Where, which layer, and what."""
        name = type(self.layer).__name__
        return (
            f"{self.path} ({name}): {self.message}"
            if self.path
            else f"{name}: {self.message}"
        )


class AbstractLayer(eqx.Module):
    """A layer of a network of finite and of infinite width.

    It is created without parameters. `init` returns the same layer with parameters,
    which can be called; `propagate` needs none.
    """

    @abc.abstractmethod
    def init(
        self, input_shape: Shape, *, key: PRNGKeyArray | None = None
    ) -> "AbstractLayer":
        """The layer with parameters drawn for inputs of one shape.

        **Arguments:**

        - `input_shape`: the shape of one example, `(channels, *spatial)`; a tuple of
            shapes for several inputs.
        - `key`: a random key; needed if the layer has parameters.
        """

    @abc.abstractmethod
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Example:
        """Apply to one example, channels first. Batch with `jax.vmap`."""

    @abc.abstractmethod
    def propagate(self, covariance: Covariances) -> Covariances:
        """Push covariances through, in the limit of infinitely many channels."""


class AbstractParameterless(AbstractLayer):
    """A layer with nothing to draw."""

    def init(
        self, input_shape: Shape, *, key: PRNGKeyArray | None = None
    ) -> "AbstractParameterless":
        """The layer itself."""
        return self


@contextlib.contextmanager
def located(where: str) -> Iterator[None]:
    """Prefix the path of errors raised within by a place in a container."""
    try:
        yield
    except LayerError as error:
        path = f"{where}.{error.path}" if error.path else where
        raise LayerError(error.layer, error.message, path) from None


def output_shape(layer: AbstractLayer, input_shape: Shape) -> Shape:
    """The shape of a layer's output, for a layer with parameters."""

    def zeros(shape: Shape) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), jnp.zeros(()).dtype)

    batch = jax.tree.map(zeros, input_shape, is_leaf=is_shape)

    def outputs(layer: AbstractLayer, batch: Example) -> Example:
        one = lambda x: layer(x, key=jr.key(0))
        return jax.vmap(one, axis_name=BATCH)(batch)

    out = eqx.filter_eval_shape(outputs, layer, batch)
    return jax.tree.map(lambda s: s.shape[1:], out)


def is_shape(shape: Any) -> bool:
    """Whether this is the shape of one array, and not a tuple of shapes."""
    return isinstance(shape, tuple | list) and all(isinstance(s, int) for s in shape)


def single(layer: object, covariance: Covariances) -> AbstractCovariance:
    """The covariance of a layer that has one input."""
    if not isinstance(covariance, AbstractCovariance):
        raise LayerError(
            layer,
            f"takes one input, but gets {len(covariance)}. Join branches first, by a "
            "`FanInSum`, `FanInProd` or `FanInConcat`, or give each its own layer by "
            "`Parallel([...])`.",
        )
    return covariance


def several(layer: object, covariances: Covariances) -> tuple[AbstractCovariance, ...]:
    """The covariances of a layer that has many inputs."""
    if isinstance(covariances, AbstractCovariance):
        raise LayerError(
            layer,
            "takes the outputs of several branches, but gets one output. Make branches "
            "by `FanOut(n)` and `Parallel([...])`, or pass the network a tuple of "
            "inputs.",
        )
    return tuple(single(layer, covariance) for covariance in covariances)


def missing_parameters(layer: object) -> LayerError:
    """The error of a layer that is called before it is initialised."""
    return LayerError(
        layer,
        "has no parameters yet. Call `model = net.init(x.shape, key=key)` with the "
        "shape of one example, then `model(x)`.",
    )
