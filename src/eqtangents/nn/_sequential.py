"""Layers one after the other."""

from collections.abc import Sequence
from typing import Any, overload

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from eqtangents.covariance import AbstractCovariance, Repeated, ShapeChange
from eqtangents.nn._affine import AbstractAffine
from eqtangents.nn._containers import checked_layers, split_keys
from eqtangents.nn._inputs import cleared
from eqtangents.nn._layer import (
    AbstractLayer,
    Covariances,
    Example,
    LayerError,
    Output,
    Shape,
    error_path,
    one_input,
    shape_after,
)
from eqtangents.nn._rates import Differing, Rate, as_copies, is_rate, of_copies


class Sequential(AbstractLayer):
    """Layers one after the other."""

    layers: tuple[AbstractLayer, ...]

    def __init__(self, layers: Sequence[AbstractLayer]):
        """Compose layers, first to last."""
        self.layers = checked_layers(self, layers)

    def init(
        self, input_shape: Shape, *, key: PRNGKeyArray | None = None
    ) -> "Sequential":
        """Initialise each layer for the outputs of the one before."""
        layers, shape = [], input_shape
        for i, (layer, layer_key) in enumerate(
            zip(self.layers, split_keys(key, len(self.layers)), strict=True)
        ):
            with error_path(f"layers[{i}]"):
                layers.append(layer.init(shape, key=layer_key))
                shape = shape_after(layers[-1], shape)
        return Sequential(layers)

    @overload
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array: ...
    @overload
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Output: ...
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Any:
        for i, (layer, layer_key) in enumerate(
            zip(self.layers, split_keys(key, len(self.layers)), strict=True)
        ):
            with error_path(f"layers[{i}]"):
                x = layer(x, key=layer_key)
        return x if self.layers else cleared(x)

    def propagate(self, covariance: Covariances) -> Covariances:
        """Propagate through each layer in turn, and in a scan where they recur."""
        kinds, start = _kinds(self.layers), 0
        while start < len(kinds):
            period, count = _recurring(kinds[start:])
            repeated = None
            if count >= _WORTH_A_SCAN:
                repeated = self._repeated(covariance, start, period, count)
            if repeated is None:
                # A whole stretch, so that a scan from the next on begins as this does.
                stretch, count = self.layers[start : start + period], 1
                repeated = _through(stretch, covariance, start)
            covariance = repeated
            start += period * count
        return covariance

    def _repeated(
        self, covariance: Covariances, start: int, period: int, count: int
    ) -> AbstractCovariance | None:
        """A scan over recurring layers, if their rule depends on their input alone.

        Where there are positions, layers take less time written out, unless they ask
        for tables of all displacements anyway, as attention does; but programs of very
        many layers take long to compile.
        """
        if not isinstance(covariance, AbstractCovariance):
            return None
        if covariance.examples is not None:  # Functions of them are known exactly.
            return None
        stretch = self.layers[start : start + period]
        recurring = [self.layers[start + i * period :][:period] for i in range(count)]
        stacked, copy = of_copies(stretch, as_copies(recurring))

        def body(one: AbstractCovariance, own: Differing) -> AbstractCovariance:
            return one_input(self, _through(copy(own), one, start))

        try:
            repeated = Repeated(covariance, body, count, stacked=stacked)
        except (LayerError, ShapeChange):
            return None  # If this is an error, the first copy raises it, at its place.
        gains = not covariance.outline.rank or repeated.asks == "everywhere"
        return repeated if gains or period * count >= _VERY_MANY else None


def _through(
    layers: Sequence[AbstractLayer], covariance: Covariances, first: int
) -> Covariances:
    """Through layers of a container one after the other, from the one at `first` on."""
    for i, layer in enumerate(layers, first):
        with error_path(f"layers[{i}]"):
            covariance = layer.propagate(covariance)
    return covariance


# So many copies of some layers are one scan: written out, the compiler would treat the
# whole chain of covariances before the chain of tangent kernels, and keep both in
# memory.
_WORTH_A_SCAN = 2
_LONGEST_STRETCH = 16
_VERY_MANY = 64  # layers, where there are positions; gradients take 0.2 s for each


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
        layer = _without_weights(layer)
        leaves, structure = jax.tree.flatten(layer, is_leaf=is_rate)
        facts = map(_compared_by, leaves)
        kinds.append(numbers.setdefault((structure, *facts), len(numbers)))
    return kinds


def _compared_by(leaf: Any) -> Any:
    if is_rate(leaf):  # Copies may have rates of their own.
        return Rate, leaf.shape
    return (id(leaf), None) if isinstance(leaf, jax.Array | np.ndarray) else leaf


def _without_weights(layer: AbstractLayer) -> AbstractLayer:
    if not isinstance(layer, AbstractAffine):
        return layer
    both = lambda one: (one.weight, one.bias)
    return eqx.tree_at(both, layer, (None, None), is_leaf=lambda leaf: leaf is None)
