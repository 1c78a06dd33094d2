"""What networks must be for their kernels: layers, with weights of their own."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import jax

from eqtangents._arguments import described, rule_of
from eqtangents.nn import AbstractActivation, AbstractLayer
from eqtangents.nn._layer import LayerError, instead_of_layer


def check_network(net: Any, x1: Any) -> None:
    """Raise unless this is a network."""
    if isinstance(net, AbstractLayer):
        return
    if isinstance(x1, AbstractLayer):
        raise TypeError(
            f"`net` is {described(net)} and `x1` {described(x1)}: they seem to be "
            "swapped. The network comes first, `eqt.kernel(net, x1, x2)`."
        )
    raise TypeError(
        f"`net` is {described(net)}, but must be a network of `eqtangents.nn`. "
        f"{instead_of_layer(net)}"
    )


def check_independent(net: AbstractLayer) -> None:
    """Raise if weights are in two places: one array that is a leaf of two layers."""
    arrays = [leaf for leaf in jax.tree.leaves(net) if eqx.is_array(leaf) and leaf.ndim]
    if len(set(map(id, arrays))) == len(arrays):
        return
    seen: dict[int, str] = {}
    for path, layer, name, value in fields_of(net, ""):
        # The parameters of functions count as fixed, and may be shared.
        fixed = isinstance(layer, AbstractActivation)
        if fixed or not (eqx.is_array(value) and value.ndim):
            continue
        place = f"{path}.{name}".lstrip(".")
        if (first := seen.setdefault(id(value), place)) != place:
            raise LayerError(
                layer,
                f"its `{name}` is the very array of `{first}`, but the kernel takes "
                "the weights of all layers to be independent. Initialise each layer on "
                "its own, or leave parameters out: `net.init(shape, key=key)` draws "
                "others for each layer.",
                path.lstrip("."),
            )


def check_hyperparameters(net: AbstractLayer) -> None:
    """Raise for hyperparameters that were set to more than one number each."""
    for path, layer, name, value in fields_of(net, ""):
        rule = rule_of(layer.__dataclass_fields__[name].type)
        if rule is None or not eqx.is_array(value) or rule.of_value(value):
            continue
        raise LayerError(
            layer,
            f"its `{name}` is {described(value)}, but must {rule.value}. The kernels "
            "of networks with each of several values are mapped by `eqx.filter_vmap`.",
            path.lstrip("."),
        )


def fields_of(node: Any, path: str) -> Iterator[tuple[str, Any, str, Any]]:
    """The fields of all modules within a network, with their places."""
    if isinstance(node, eqx.Module):
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            yield path, node, field.name, value
            yield from fields_of(value, f"{path}.{field.name}")
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for i, one in enumerate(node):
            yield from fields_of(one, f"{path}[{i}]")
