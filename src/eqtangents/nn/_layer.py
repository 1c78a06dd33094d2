"""What a layer is, and how its errors say where it is."""

import abc
import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from eqtangents._arguments import described
from eqtangents.covariance import AbstractCovariance
from eqtangents.nn._calls import checked_call, checked_init
from eqtangents.nn._habits import checked_new
from eqtangents.nn._inputs import Extras, Signal, SignalT, is_signal, unwrap


# One example: channels first, or a tuple of them between branches.
Example: TypeAlias = PyTree[Signal]
# What comes out of a network, for type checkers, to whom trees may be anything.
Output: TypeAlias = Signal | tuple["Output", ...]
Covariances: TypeAlias = PyTree[AbstractCovariance]
Shape: TypeAlias = tuple[Any, ...]


# The name of the mapped axis in `jax.vmap(model, axis_name="batch")`.
BATCH_AXIS = "batch"


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

    Arguments of constructors are checked by their annotations, before the constructor
    runs: a `Scalar`, say, is a number, or an array of shape `()`.

    `rated` names the parameters whose learning rates `propagate` asks for, by
    `rate_of`. Those of others cannot be changed. `takes_integers` says that the layer
    reads inputs which count something, as tokens do: a network without such a layer
    refuses integers.
    """

    rated: ClassVar[frozenset[str]] = frozenset()
    takes_integers: ClassVar[bool] = False

    if not TYPE_CHECKING:  # checkers read `__init__`
        __new__ = checked_new

    def __init_subclass__(cls, **options: Any):
        """Have what `init` and `__call__` are given checked first, in any layer."""
        for name, checked in (("init", checked_init), ("__call__", checked_call)):
            if name in vars(cls):
                setattr(cls, name, checked(vars(cls)[name]))

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

    # Not so of layers that make or join branches: they take or return tuples.
    @overload
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array: ...
    @overload
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Output: ...
    @abc.abstractmethod
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Any:
        """Apply to one example, channels first. Batch with `jax.vmap`."""

    @abc.abstractmethod
    def propagate(self, covariance: Covariances) -> Covariances:
        """Push covariances through, in the limit of infinitely many channels."""


Itself = TypeVar("Itself", bound=AbstractLayer)


class AbstractParameterless(AbstractLayer):
    """A layer with nothing to draw."""

    def init(
        self: Itself, input_shape: Shape, *, key: PRNGKeyArray | None = None
    ) -> Itself:
        """The layer itself."""
        return self


class AbstractUnary(AbstractParameterless):
    """A layer without parameters that keeps the positions of its one input.

    What a new one says is `apply`, on arrays, and `push`, on a covariance. Masks stay
    as they are, with zeros where positions are missing, graphs are passed on, and
    inputs that are no single signal are refused. A layer whose output has other
    positions than its input is an `AbstractLayer`.
    """

    @abc.abstractmethod
    def apply(
        self, value: Float[Array, "channels *size"], extras: Extras
    ) -> Float[Array, "channels_out *size"]:
        """The output for the values of one example.

        **Arguments:**

        - `value`: the values, zero at positions that are masked.
        - `extras`: the mask of the example and its graph, if it has any.
        """

    @abc.abstractmethod
    def push(self, covariance: AbstractCovariance) -> AbstractCovariance:
        """The covariance of the outputs, in the limit of infinitely many channels."""

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        if not is_signal(x):
            raise _too_many_inputs(self, len(jax.tree.leaves(x, is_leaf=is_signal)))
        value, extras = unwrap(x)
        out = self.apply(value, extras)
        if out.shape[1:] != value.shape[1:]:
            raise LayerError(
                self,
                f"turns values of shape {value.shape} into {out.shape}, but an "
                "`AbstractUnary` keeps all positions, for which masks are. Write an "
                "`AbstractLayer`, which says what the mask of its output is.",
            )
        return extras.rewrap(out, extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        return self.push(one_input(self, covariance))


@contextlib.contextmanager
def error_path(where: str) -> Iterator[None]:
    """Prefix the path of errors raised within by a place in a container."""
    try:
        yield
    except LayerError as error:
        path = f"{where}.{error.path}" if error.path else where
        raise LayerError(error.layer, error.message, path) from None


def shape_after(layer: AbstractLayer, input_shape: Shape) -> Shape:
    """The shape of a layer's output, for a layer with parameters."""

    def zeros(shape: Shape) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), jnp.zeros(()).dtype)

    batch = jax.tree.map(zeros, input_shape, is_leaf=is_shape)

    def outputs(layer: AbstractLayer, batch: Example) -> Example:
        one = lambda x: layer(x, key=jr.key(0))
        return jax.vmap(one, axis_name=BATCH_AXIS)(batch)

    out = eqx.filter_eval_shape(outputs, layer, batch)
    return jax.tree.map(lambda s: s.shape[1:], out)


def is_shape(shape: Any) -> bool:
    """Whether this is the shape of one array, and not a tuple of shapes."""
    return isinstance(shape, tuple | list) and all(isinstance(s, int) for s in shape)


def instead_of_layer(came: Any) -> str:
    """What to write in the place of something that is no layer."""
    if isinstance(came, type):
        return f"Give an instance, `nn.Relu()` and not `nn.Relu`: `{came.__name__}()`."
    if isinstance(came, Sequence) and not isinstance(came, str):
        if any(isinstance(layer, AbstractLayer) for layer in came):
            return "Compose layers by `nn.Sequential([...])`."
        if len(came) == 3 and all(map(callable, came)):
            return (
                "Triples of functions are networks of Neural Tangents: write the layer "
                "of `eqtangents.nn` of the same name."
            )
    if isinstance(came, eqx.Module):
        return (
            "Models of Equinox are read by `eqt.from_equinox(model, x[0])`; the "
            "kernel at finite width is `eqt.empirical_ntk(model, x)`."
        )
    if callable(came):
        return "A function of one number is a layer as `nn.Elementwise(fn)`."
    return "Give a layer, `nn.Linear(8)` or `nn.Relu()`, say."


def one_input(layer: object, covariance: Covariances) -> AbstractCovariance:
    """The covariance of a layer that has one input.

    **Arguments:**

    - `layer`: the layer, for its name in the error.
    - `covariance`: what `propagate` was given.

    **Raises:** `LayerError` for the covariances of several branches, and `TypeError`
    for what is no covariance.
    """
    if not isinstance(covariance, AbstractCovariance | tuple | list):
        raise TypeError(
            f"{type(layer).__name__}: `propagate` takes covariances, but was given "
            f"{described(covariance)}. Kernels of inputs are `eqt.kernel(net, x)`."
        )
    if not isinstance(covariance, AbstractCovariance):
        raise _too_many_inputs(layer, len(covariance))
    return covariance


def _too_many_inputs(layer: object, count: int) -> LayerError:
    return LayerError(
        layer,
        f"takes one input, but gets {count}. Join branches first, by a "
        "`FanInSum`, `FanInProd` or `FanInConcat`, or give each its own layer by "
        "`Parallel([...])`. A list of examples is one input after `jnp.stack`.",
    )


def many_inputs(
    layer: object, covariances: Covariances
) -> tuple[AbstractCovariance, ...]:
    """The covariances of a layer that joins branches.

    **Arguments:**

    - `layer`: the layer, for its name in the error.
    - `covariances`: what `propagate` was given.

    **Raises:** `LayerError` for a single covariance, and `TypeError` for what is no
    covariance.
    """
    if isinstance(covariances, AbstractCovariance):
        raise LayerError(
            layer,
            "takes the outputs of several branches, but gets one output. Make branches "
            "by `FanOut(n)` and `Parallel([...])`, or pass the network a tuple of "
            "inputs.",
        )
    return tuple(one_input(layer, covariance) for covariance in covariances)


def check_not_vanishing(layer: object, covariance: AbstractCovariance) -> None:
    """Raise for what comes after a readout whose outputs vanish in the limit."""
    if covariance.outline.vanishing:
        raise LayerError(
            layer,
            "follows a readout, `parameterization=nn.MuP(readout=True)`, whose outputs "
            "vanish in the limit. Say `readout=True` of the last layer with weights "
            "alone; after it there may be pooling, a `Flatten` and other linear layers "
            "without weights.",
        )


def needed_key(layer: object, key: PRNGKeyArray | None) -> PRNGKeyArray:
    """The key of a layer that draws parameters."""
    if key is None:
        raise LayerError(
            layer,
            "`init` draws parameters, but was given no key. Pass "
            "`key=jax.random.key(0)`, say.",
        )
    return key


def missing_parameters(layer: object) -> LayerError:
    """The error of a layer that is called before it is initialised."""
    return LayerError(
        layer,
        "has no parameters yet. Call `model = net.init(x.shape, key=key)` with the "
        "shape of one example, then `model(x)`.",
    )
