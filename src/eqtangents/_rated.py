"""Networks with learning rates in the places of their parameters."""

from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree

from eqtangents._arguments import described
from eqtangents._networks import fields_of
from eqtangents._parameters import Trainable, params_of, rates_of
from eqtangents.nn import AbstractLayer, LayerError
from eqtangents.nn._inputs import Signal, is_signal, values_of
from eqtangents.nn._rates import Rate, is_rate, rates_in


def with_rates(
    net: AbstractLayer, x1: PyTree[Signal], trainable: Trainable
) -> AbstractLayer:
    """The network with the learning rate of each parameter in the place of it.

    Without `trainable` it is the network as it came: all rates are 1.

    Parameters that are not drawn yet are there too, of the shapes for these inputs.

    **Raises:** `TypeError` or `ValueError` if `trainable` does not fit the parameters,
    `LayerError` if a layer cannot tell what some of them add to the tangent kernel.
    """
    if trainable is None:
        return net
    found: list[AbstractLayer] = []

    def draw(key: Array) -> None:
        shape_of_one = lambda x: values_of(x).shape[1:]
        shape = jax.tree.map(shape_of_one, x1, is_leaf=is_signal)
        found.append(_rates_placed(net.init(shape, key=key), trainable))

    jax.eval_shape(draw, jr.key(0))
    (rated,) = found
    _check_rated(rated)
    if not any(eqx.is_array(r.value) or r.value for r in rates_in(rated)):
        raise ValueError(
            f"`trainable` is {described(trainable)}, which picks no parameter of this "
            f"{described(net)}, but must pick at least one: make a tree of booleans by "
            "`jax.tree.map(lambda _: False, ...)` of `net.init(...)` and `eqx.tree_at`."
        )
    return rated


def _rates_placed(drawn: AbstractLayer, trainable: Trainable) -> AbstractLayer:
    params = params_of(drawn, None)
    rates = rates_of(params, trainable)

    def place(path: Any, number: Any, leaf: Any) -> Any:
        copies = sum(getattr(key, "name", None) == "copies" for key in path)
        if number is None:  # Other leaves of copies are those of the repeated layer.
            return None if copies else leaf
        shape = np.shape(number)
        if len(shape) > copies or shape != leaf.shape[: len(shape)]:
            raise ValueError(
                f"`trainable` has {described(number)} at "
                f"`{jax.tree_util.keystr(path)}`, but must have one number for each "
                "parameter, or of a `Repeat` one for each of its copies."
            )
        value = number if eqx.is_array(number) else float(number)
        return Rate(value, leaf.shape)

    is_leaf = lambda node: node is None
    return jax.tree_util.tree_map_with_path(place, rates, drawn, is_leaf=is_leaf)


def _check_rated(net: AbstractLayer) -> None:
    """Raise if a layer would not ask for a learning rate that matters."""
    stops = lambda node: is_rate(node) or isinstance(node, AbstractLayer)
    for path, layer, name, value in fields_of(net, ""):
        if not isinstance(layer, AbstractLayer) or name in layer.rated:
            continue
        for rate in jax.tree.leaves(value, is_leaf=stops):
            if is_rate(rate) and (eqx.is_array(rate.value) or rate.value != 1):
                raise LayerError(
                    layer,
                    f"cannot tell what its `{name}` adds to the tangent kernel, so "
                    "that `trainable` must leave it at 1. A layer of your own can if "
                    "its `propagate` multiplies that by "
                    f"`nn.rate_of(self.{name})`, and its `rated` names it.",
                    path.lstrip("."),
                )
