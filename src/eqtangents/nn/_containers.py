"""Layers made of layers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from eqtangents._arguments import described
from eqtangents._types import CountOrZero, plain
from eqtangents.covariance import AbstractCovariance, Repeated, ShapeChange
from eqtangents.nn._affine import AbstractAffine
from eqtangents.nn._branches import added, sum_of
from eqtangents.nn._inputs import is_signal
from eqtangents.nn._layer import (
    AbstractLayer,
    Covariances,
    Example,
    LayerError,
    Output,
    Shape,
    error_path,
    instead_of_layer,
    is_shape,
    missing_parameters,
    one_input,
    output_shape,
)
from eqtangents.nn._reshape import Identity


class Sequential(AbstractLayer):
    """Layers one after the other."""

    layers: tuple[AbstractLayer, ...]

    def __init__(self, layers: Sequence[AbstractLayer]):
        """Compose layers, first to last."""
        self.layers = _sequence(self, layers)

    def init(
        self, input_shape: Shape, *, key: PRNGKeyArray | None = None
    ) -> "Sequential":
        """Initialise each layer for the outputs of the one before."""
        layers, shape = [], input_shape
        for i, (layer, layer_key) in enumerate(
            zip(self.layers, _split(key, len(self.layers)), strict=True)
        ):
            with error_path(f"layers[{i}]"):
                layers.append(layer.init(shape, key=layer_key))
                shape = output_shape(layers[-1], shape)
        return Sequential(layers)

    @overload
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array: ...
    @overload
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Output: ...
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Any:
        """Apply to one example."""
        for i, (layer, layer_key) in enumerate(
            zip(self.layers, _split(key, len(self.layers)), strict=True)
        ):
            with error_path(f"layers[{i}]"):
                x = layer(x, key=layer_key)
        return x

    def propagate(self, covariance: Covariances) -> Covariances:
        """Propagate through each layer in turn, and in a scan where they recur."""
        kinds, start = _kinds(self.layers), 0
        while start < len(kinds):
            period, count = _recurring(kinds[start:])
            repeated = None
            if count >= _WORTH_A_SCAN:
                repeated = self._repeated(covariance, start, period, count)
            if repeated is None:
                period, count = 1, 1
                repeated = self._through(covariance, start, 1)
            covariance = repeated
            start += period * count
        return covariance

    def _through(self, covariance: Covariances, start: int, count: int) -> Covariances:
        for i in range(start, start + count):
            with error_path(f"layers[{i}]"):
                covariance = self.layers[i].propagate(covariance)
        return covariance

    def _repeated(
        self, covariance: Covariances, start: int, period: int, count: int
    ) -> AbstractCovariance | None:
        """A scan over recurring layers, if they can be told from their input alone.

        Where positions play a part, it would gain little.
        """
        if not isinstance(covariance, AbstractCovariance) or covariance.outline.rank:
            return None
        if covariance.examples is not None:  # Functions of them are known exactly.
            return None
        body = lambda one: one_input(self, self._through(one, start, period))
        try:
            return Repeated(covariance, body, count)
        except (LayerError, ShapeChange):
            return None  # If this is an error, the first copy raises it, at its place.


# So many copies of some layers are one scan: written out, the compiler would treat the
# whole chain of covariances before that of tangent kernels, and keep all in memory.
_WORTH_A_SCAN = 2
_LONGEST_STRETCH = 16


def _recurring(kinds: Sequence[int]) -> tuple[int, int]:
    """The shortest stretch, from the first on, that recurs most; how many times."""
    best = 1, 1
    longest = min(_LONGEST_STRETCH, len(kinds) // _WORTH_A_SCAN)
    for period in range(1, longest + 1):
        stretch, count = kinds[:period], 1
        while kinds[count * period : (count + 1) * period] == stretch:
            count += 1
        if count >= _WORTH_A_SCAN and period * count > best[0] * best[1]:
            best = period, count
    return best


def _kinds(layers: Sequence[AbstractLayer]) -> list[int]:
    """A number for each layer, the same for layers that differ in nothing but weights.

    Hyperparameters that are arrays are the same if they are one array.
    """
    numbers: dict[Any, int] = {}
    kinds = []
    for layer in layers:
        leaves, structure = jax.tree.flatten(_without_weights(layer))
        arrays = (jax.Array, np.ndarray)
        facts = [(id(x), None) if isinstance(x, arrays) else x for x in leaves]
        kinds.append(numbers.setdefault((structure, *facts), len(numbers)))
    return kinds


def _without_weights(layer: AbstractLayer) -> AbstractLayer:
    if not isinstance(layer, AbstractAffine):
        return layer
    both = lambda one: (one.weight, one.bias)
    return eqx.tree_at(both, layer, (None, None), is_leaf=lambda leaf: leaf is None)


class Parallel(AbstractLayer):
    """One layer for each input of a tuple, as after a `FanOut`."""

    layers: tuple[AbstractLayer, ...]

    def __init__(self, layers: Sequence[AbstractLayer]):
        """Set layers side by side."""
        self.layers = _sequence(self, layers)

    def init(
        self, input_shape: Shape, *, key: PRNGKeyArray | None = None
    ) -> "Parallel":
        """Initialise each layer for its own input."""
        self._check_count(1 if is_shape(input_shape) else len(input_shape))
        layers = []
        for i, (layer, shape, layer_key) in enumerate(
            zip(
                self.layers,
                input_shape,
                _split(key, len(self.layers)),
                strict=True,
            )
        ):
            with error_path(f"layers[{i}]"):
                layers.append(layer.init(shape, key=layer_key))
        return Parallel(layers)

    @overload
    def __call__(
        self, x: Sequence[Array], *, key: PRNGKeyArray | None = None
    ) -> tuple[Array, ...]: ...
    @overload
    def __call__(
        self, x: Sequence[Example], *, key: PRNGKeyArray | None = None
    ) -> tuple[Output, ...]: ...
    def __call__(self, x: Sequence[Example], *, key: PRNGKeyArray | None = None) -> Any:
        """Apply each layer to its own input."""
        self._check_count(1 if is_signal(x) else len(x))
        outputs = []
        for i, (layer, one, layer_key) in enumerate(
            zip(self.layers, x, _split(key, len(self.layers)), strict=True)
        ):
            with error_path(f"layers[{i}]"):
                outputs.append(layer(one, key=layer_key))
        return tuple(outputs)

    def propagate(self, covariance: Covariances) -> tuple[Covariances, ...]:
        """Propagate each covariance through its own layer."""
        one = isinstance(covariance, AbstractCovariance)
        self._check_count(1 if one else len(covariance))
        outputs = []
        for i, (layer, upstream) in enumerate(
            zip(self.layers, covariance, strict=True)
        ):
            with error_path(f"layers[{i}]"):
                outputs.append(layer.propagate(upstream))
        return tuple(outputs)

    def _check_count(self, count: int) -> None:
        if count != len(self.layers):
            raise LayerError(
                self,
                f"has {len(self.layers)} branches, but gets {count} inputs. Put a "
                f"`FanOut({len(self.layers)})` before it, or pass the network a tuple "
                "with one input for each branch.",
            )


class Residual(AbstractLayer):
    """A layer with a shortcut around it, `main(x) + shortcut(x)`.

    `main` must end in weights of its own (or the shortcut must): then the kernels add.

    **Source:** He et al. 2016, arXiv:1512.03385.
    """

    main: AbstractLayer
    shortcut: AbstractLayer

    def __init__(self, main: AbstractLayer, shortcut: AbstractLayer | None = None):
        """Put a shortcut around a layer; without one given, the identity."""
        self.main = main
        self.shortcut = Identity() if shortcut is None else shortcut

    def __check_init__(self):
        """Raise unless both are layers."""
        _check_layers(self, (self.main, self.shortcut))

    def init(
        self, input_shape: Shape, *, key: PRNGKeyArray | None = None
    ) -> "Residual":
        """Initialise both for the same input."""
        main_key, shortcut_key = _split(key, 2)
        with error_path("main"):
            main = self.main.init(input_shape, key=main_key)
        with error_path("shortcut"):
            shortcut = self.shortcut.init(input_shape, key=shortcut_key)
        return Residual(main, shortcut)

    @overload
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array: ...
    @overload
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Output: ...
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Any:
        """Apply to one example."""
        main_key, shortcut_key = _split(key, 2)
        with error_path("main"):
            main = self.main(x, key=main_key)
        with error_path("shortcut"):
            shortcut = self.shortcut(x, key=shortcut_key)
        return added(self, (main, shortcut))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Add the kernels of both."""
        with error_path("main"):
            main = self.main.propagate(covariance)
        with error_path("shortcut"):
            shortcut = self.shortcut.propagate(covariance)
        return sum_of(self, (main, shortcut))


class Repeat(AbstractLayer):
    """A layer `n` times over, each time with parameters of its own, compiled once.

    The layer must keep the shape of its input. The copies run in a scan, with their
    parameters stacked along a new leading axis.
    """

    layer: AbstractLayer
    copies: AbstractLayer | None
    n: int = eqx.field(static=True)

    def __init__(self, layer: AbstractLayer, n: CountOrZero):
        """Repeat a layer; not at all if `n` is 0."""
        self.layer, self.copies, self.n = layer, None, plain(n)

    def __check_init__(self):
        """Raise unless this is a layer."""
        _check_layers(self, (self.layer,))

    def init(self, input_shape: Shape, *, key: PRNGKeyArray | None = None) -> "Repeat":
        """Initialise all copies, for inputs of the same shape."""
        with error_path("layer"):
            one = eqx.filter_eval_shape(
                lambda k: self.layer.init(input_shape, key=k), key
            )
            shape = output_shape(one, input_shape)
        if shape != input_shape:
            raise LayerError(
                self,
                f"its layer must keep the shape of its input, so that it can follow "
                f"itself, but turns {input_shape} into {shape}.",
            )
        keys = None if key is None else jr.split(key, self.n)
        copies = eqx.filter_vmap(
            lambda k: self.layer.init(input_shape, key=k), axis_size=self.n
        )(keys)
        return eqx.tree_at(
            lambda layer: layer.copies, self, copies, is_leaf=lambda leaf: leaf is None
        )

    @overload
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array: ...
    @overload
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Output: ...
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Any:
        """Apply to one example."""
        if self.copies is None:
            raise missing_parameters(self)
        parameters, rest = eqx.partition(self.copies, eqx.is_array)

        def step(x: Example, copy: tuple) -> tuple[Example, None]:
            layer = eqx.combine(copy[0], rest)
            with error_path("layer"):
                return layer(x, key=copy[1]), None

        keys = None if key is None else jr.split(key, self.n)
        return jax.lax.scan(step, x, (parameters, keys), length=self.n)[0]

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Propagate through all copies, in a scan."""
        covariance = one_input(self, covariance)
        if not self.n:
            return covariance

        def layer(one: AbstractCovariance) -> AbstractCovariance:
            with error_path("layer"):
                return one_input(self, self.layer.propagate(one))

        try:
            return Repeated(covariance, layer, self.n)
        except ShapeChange as error:
            raise LayerError(self, str(error)) from None


def _split(key: PRNGKeyArray | None, n: int) -> list[PRNGKeyArray | None]:
    return [None] * n if key is None else list(jr.split(key, n))


def _sequence(
    container: AbstractLayer, layers: Sequence[AbstractLayer]
) -> tuple[AbstractLayer, ...]:
    """The layers of a container, if they are some."""
    name = type(container).__name__
    if isinstance(layers, str | Mapping | AbstractLayer) or not isinstance(
        layers, Iterable
    ):
        raise TypeError(
            f"{name}: `layers` is {described(layers)}, but must be a list of layers: "
            f"write `nn.{name}([nn.Linear(8), nn.Relu()])`, say."
        )
    layers = tuple(layers)
    _check_layers(container, layers)
    return layers


def _check_layers(container: AbstractLayer, layers: Sequence[object]) -> None:
    for layer in layers:
        if not isinstance(layer, AbstractLayer):
            raise ValueError(
                f"{type(container).__name__}: {described(layer)} is not a layer of "
                f"`eqtangents.nn`. {instead_of_layer(layer)}"
            )
