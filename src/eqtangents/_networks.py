"""What networks must be for their kernels: layers, with weights of their own."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from eqtangents._arguments import described, rule_of
from eqtangents._types import is_concrete
from eqtangents.nn import AbstractActivation, AbstractLayer, Embedding
from eqtangents.nn._inputs import Signal, as_input, is_signal
from eqtangents.nn._layer import (
    Covariances,
    Example,
    LayerError,
    Shape,
    instead_of_layer,
)


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
        # The parameters of functions count as fixed, and may be shared; so may whatever
        # a layer has beside the parameters that it names.
        fixed = isinstance(layer, AbstractActivation)
        named = getattr(layer, "rated", frozenset())
        fixed = fixed or bool(named and name not in named)
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


def takes_integers(net: AbstractLayer) -> bool:
    """Whether a layer of the network reads integers as what they are."""
    nodes = (node for _, node, _, _ in fields_of(net, ""))
    return any(isinstance(one, AbstractLayer) and one.takes_integers for one in nodes)


def check_tokens(net: AbstractLayer, *batches: PyTree[Signal] | None) -> None:
    """Raise for tokens of batches that there are not, where they are known.

    Within what is compiled none is. So the network is asked for its covariance here,
    until no layer is left that reads tokens.
    """
    readers = sum(map(_reads_tokens, jax.tree.leaves(net, is_leaf=_reads_tokens)))
    for x in batches if readers else ():
        if x is not None and all(map(is_concrete, jax.tree.leaves(x))):
            _look_at_tokens(net, x, readers)


def _reads_tokens(node: Any) -> bool:
    return isinstance(node, Embedding)


def _look_at_tokens(net: AbstractLayer, x: PyTree[Signal], readers: int) -> None:
    """Raise for tokens of a batch that there are not."""
    left = _Left(readers)
    look = lambda node: _Looking(node, left) if _reads_tokens(node) else node
    looking = jax.tree.map(look, net, is_leaf=_reads_tokens)
    with jax.ensure_compile_time_eval():
        here = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), x)
        none = jax.tree.map(lambda leaf: leaf[:0], here)
        examples = jax.tree.map(as_input, here, none, is_leaf=is_signal)
        with contextlib.suppress(_NoneLeft):
            looking.propagate(examples)


class _NoneLeft(Exception):
    """All layers that read tokens have done so."""


@dataclasses.dataclass(eq=False)
class _Left:
    """How many layers have not read their tokens yet."""

    count: int


class _Looking(AbstractLayer):
    """A layer that reads tokens, of which the last one is the end."""

    layer: Embedding
    left: _Left = eqx.field(static=True)

    def init(self, input_shape: Shape, *, key: PRNGKeyArray | None = None) -> Any:
        return self.layer.init(input_shape, key=key)

    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Any:
        return self.layer(x, key=key)

    def propagate(self, covariance: Covariances) -> Covariances:
        out = self.layer.propagate(covariance)
        self.left.count -= 1
        if not self.left.count:
            raise _NoneLeft
        return out


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
