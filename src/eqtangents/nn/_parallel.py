"""Layers side by side: branches, and shortcuts around a layer."""

from collections.abc import Sequence
from typing import Any, overload

from jaxtyping import Array, PRNGKeyArray

from eqtangents.covariance import AbstractCovariance
from eqtangents.nn._branches import added, sum_of
from eqtangents.nn._containers import check_are_layers, checked_layers, split_keys
from eqtangents.nn._inputs import is_signal
from eqtangents.nn._layer import (
    AbstractLayer,
    Covariances,
    Example,
    LayerError,
    Output,
    Shape,
    error_path,
    is_shape,
)
from eqtangents.nn._reshape import Identity


class Parallel(AbstractLayer):
    """One layer for each input of a tuple, as after a `FanOut`."""

    layers: tuple[AbstractLayer, ...]

    def __init__(self, layers: Sequence[AbstractLayer]):
        """Set layers side by side."""
        self.layers = checked_layers(self, layers)

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
                split_keys(key, len(self.layers)),
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
        self._check_count(1 if is_signal(x) else len(x))
        outputs = []
        for i, (layer, one, layer_key) in enumerate(
            zip(self.layers, x, split_keys(key, len(self.layers)), strict=True)
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
        check_are_layers(self, (self.main, self.shortcut))

    def init(
        self, input_shape: Shape, *, key: PRNGKeyArray | None = None
    ) -> "Residual":
        """Initialise both for the same input."""
        main_key, shortcut_key = split_keys(key, 2)
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
        main_key, shortcut_key = split_keys(key, 2)
        with error_path("main"):
            main = self.main(x, key=main_key)
        with error_path("shortcut"):
            shortcut = self.shortcut(x, key=shortcut_key)
        return added(self, (main, shortcut))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        with error_path("main"):
            main = self.main.propagate(covariance)
        with error_path("shortcut"):
            shortcut = self.shortcut.propagate(covariance)
        return sum_of(self, (main, shortcut))
