"""One layer many times over."""

from typing import Any, overload

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray

from eqtangents._types import CountOrZero, plain
from eqtangents.covariance import AbstractCovariance, Repeated, ShapeChange
from eqtangents.nn._containers import check_are_layers
from eqtangents.nn._layer import (
    AbstractLayer,
    Covariances,
    Example,
    LayerError,
    Output,
    Shape,
    error_path,
    missing_parameters,
    one_input,
    shape_after,
)


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
        check_are_layers(self, (self.layer,))

    def init(self, input_shape: Shape, *, key: PRNGKeyArray | None = None) -> "Repeat":
        """Initialise all copies, for inputs of the same shape."""
        with error_path("layer"):
            one = eqx.filter_eval_shape(
                lambda k: self.layer.init(input_shape, key=k), key
            )
            shape = shape_after(one, input_shape)
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
