"""What layers made of layers share: keys for each, and what a layer is."""

from collections.abc import Iterable, Mapping, Sequence

import jax.random as jr
from jaxtyping import PRNGKeyArray

from eqtangents._arguments import described
from eqtangents.nn._layer import AbstractLayer, instead_of_layer


def split_keys(key: PRNGKeyArray | None, n: int) -> list[PRNGKeyArray | None]:
    return [None] * n if key is None else list(jr.split(key, n))


def checked_layers(
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
    check_are_layers(container, layers)
    return layers


def check_are_layers(container: AbstractLayer, layers: Sequence[object]) -> None:
    for layer in layers:
        if not isinstance(layer, AbstractLayer):
            raise ValueError(
                f"{type(container).__name__}: {described(layer)} is not a layer of "
                f"`eqtangents.nn`. {instead_of_layer(layer)}"
            )
