"""Networks with learning rates in the places of their parameters."""

from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree

from eqtangents._arguments import described
from eqtangents._networks import fields_of
from eqtangents._parameters import Trainable, params_of
from eqtangents._types import is_concrete, is_real
from eqtangents.nn import AbstractLayer, LayerError
from eqtangents.nn._inputs import Signal, is_signal, values_of
from eqtangents.nn._rates import Rate, is_rate, rates_in


Numbers: TypeAlias = PyTree[float | Array]


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
            f"`trainable` is {described(trainable)}, which picks no parameter of the "
            f"{described(net)}, but must pick at least one: make a tree of booleans by "
            "`jax.tree.map(lambda _: False, ...)` of `net.init(...)` and `eqx.tree_at`."
        )
    return rated


def _rates_placed(drawn: AbstractLayer, trainable: Trainable) -> AbstractLayer:
    params = params_of(drawn, None)
    numbers = _of_each(trainable, params)

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
        return Rate(number, leaf.shape)

    is_leaf = lambda node: node is None
    return jax.tree_util.tree_map_with_path(place, numbers, drawn, is_leaf=is_leaf)


def _of_each(trainable: Trainable, params: PyTree[Array]) -> Numbers:
    """The learning rate of each parameter; `None` where there is none."""

    def below(chosen: Any, params: PyTree[Array]) -> Numbers:
        if chosen is None:  # No parameter was there before `init`.
            chosen = False
        if callable(chosen):
            return jax.tree.map(lambda leaf: float(bool(chosen(leaf))), params)
        rate = jnp.asarray(chosen) if np.ndim(chosen) else chosen
        rate = rate if eqx.is_array(rate) else float(rate)
        return jax.tree.map(lambda _: rate, params)

    is_leaf = lambda node: node is None
    for leaf in jax.tree.leaves(trainable):
        _check_rate(leaf)
    try:
        return jax.tree.map(below, trainable, params, is_leaf=is_leaf)
    except ValueError as error:
        if isinstance(error, LayerError):
            raise
        raise ValueError(
            f"`trainable` is {described(trainable)}, which does not fit the "
            "parameters. As a tree it has the structure of `net.init(...)`, or stops "
            "early where one number holds for all below: make it by "
            "`jax.tree.map(lambda _: False, ...)` and `eqx.tree_at`."
        ) from error


def _check_rate(leaf: Any) -> None:
    if callable(leaf) or isinstance(leaf, bool | np.bool_):
        return
    if is_real(leaf) and _is_not_negative(leaf):
        return
    raise TypeError(
        f"`trainable` has {described(leaf)}, but must be a test of parameters, "
        "`lambda p: p.ndim == 1` say, or a tree of booleans or of learning rates, "
        "which are not negative."
    )


def _is_not_negative(leaf: Any) -> bool:
    """Whether numbers may be learning rates, as far as they are known."""
    if isinstance(leaf, np.ndarray | jax.Array) and not is_concrete(leaf):
        return True
    values = np.asarray(leaf)
    return bool(np.all((values >= 0) & np.isfinite(values)))


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
