"""The parameters of a model: where they are, how they are drawn, who uses them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from eqtangents._equinox._affine import UNIFORM_STD
from eqtangents._traced._values import Parameter, Unreadable
from eqtangents._types import Scalar, is_concrete
from eqtangents.nn._parameterization import AbstractParameterization


@dataclasses.dataclass(frozen=True)
class ParameterLeaf:
    """An array of parameters.

    `fan_in` is that of the layer of Equinox that it belongs to, which says how it is
    drawn; `initial` is what a gain or an offset of Equinox begins at; `deviation` that
    of vectors for tokens.
    """

    array: Array
    name: str
    fan_in: int | None = None
    initial: float | None = None
    deviation: float | None = None


class Parameters:
    """All parameters of a model, and the deviations that they are taken to have."""

    def __init__(
        self,
        leaves: Sequence[ParameterLeaf],
        weight_std: Scalar | None,
        bias_std: Scalar | None,
        parameterization: AbstractParameterization,
    ):
        """Keep the parameters; deviations that are `None` are found out."""
        self.leaves = list(leaves)
        self.weight_std, self.bias_std = weight_std, bias_std
        self.parameterization = parameterization
        self._carried: dict[Any, Array] = {}

    def whole(self, number: int) -> Parameter:
        """A parameter as it is."""
        shape = self.leaves[number].array.shape
        return Parameter(number, np.arange(math.prod(shape)).reshape(shape))

    def values(self, parameter: Parameter) -> Array:
        """The entries themselves, without the factor."""
        array = self.leaves[parameter.leaf].array
        numbers = parameter.numbers
        if (
            numbers.size == array.size
            and (numbers.reshape(-1) == np.arange(array.size)).all()
        ):
            return array.reshape(numbers.shape)
        return array.reshape(-1)[numbers]

    def number(self, parameter: Parameter) -> Any:
        """The one entry that there is, times the factor; `None` if there are several.

        As with the parameters of activations, it counts as fixed.
        """
        numbers = parameter.numbers
        if not numbers.size or (numbers != numbers.flat[0]).any():
            return None
        one = Parameter(parameter.leaf, numbers.reshape(-1)[:1])
        return jnp.broadcast_to(parameter.factor * self.values(one)[0], numbers.shape)

    def weight_deviation(self, parameter: Parameter, inputs: int) -> Scalar:
        r"""$\sigma_w$ of weights for so many inputs to each output."""
        if self.weight_std is not None:
            return self.weight_std
        leaf = self.leaves[parameter.leaf]
        if leaf.fan_in is not None:
            return UNIFORM_STD * math.sqrt(inputs / leaf.fan_in)
        if leaf.deviation is not None:
            return leaf.deviation * math.sqrt(inputs)
        return self._measured(parameter, "weight_std") * math.sqrt(inputs)

    def bias_deviation(self, parameter: Parameter) -> Scalar:
        r"""$\sigma_b$ of biases, or of other values that nothing is multiplied by."""
        leaf = self.leaves[parameter.leaf]
        if leaf.initial is not None:
            return leaf.initial
        if self.bias_std is not None:
            return self.bias_std
        if leaf.fan_in is not None:
            return UNIFORM_STD / math.sqrt(leaf.fan_in)
        if leaf.deviation is not None:
            return leaf.deviation
        return self._measured(parameter, "bias_std")

    def gain(self, parameter: Parameter) -> float:
        """What gains begin at, without the factor."""
        leaf = self.leaves[parameter.leaf]
        if leaf.initial is not None:
            return leaf.initial
        values = self._concrete(parameter, "gains")
        if not np.allclose(values, values.flat[0], rtol=1e-6, atol=0):
            raise Unreadable(
                f"multiplies each channel by its own parameter, `{leaf.name}`, but "
                "these differ from each other, so that it is not known what they are "
                "when they are initialised. Read the model before it is trained."
            )
        return float(values.flat[0])

    def _measured(self, parameter: Parameter, name: str) -> float:
        """The root of the mean square, which is of few digits for few entries."""
        values = self._concrete(parameter, name)
        deviation = float(np.sqrt(np.mean(np.asarray(values, float) ** 2)))
        return abs(deviation)

    def _concrete(self, parameter: Parameter, name: str) -> np.ndarray:
        values = self.values(parameter)
        if not is_concrete(values):
            raise Unreadable(
                f"takes the deviation of `{self.leaves[parameter.leaf].name}` from its "
                f"values, which are not known within `jax.jit`. Give `{name}`, or "
                "read the model outside."
            )
        return np.asarray(values)

    def divided(self, parameter: Parameter, scale: Scalar) -> Float[Array, "..."]:
        """Entries as a layer holds them, which multiplies them by a scale."""
        values = self.values(parameter)
        if isinstance(scale, int | float) and math.isclose(scale, 1, rel_tol=1e-12):
            return values
        return values / jnp.asarray(scale, values.dtype)


def leaves_of(tree: Any) -> tuple[list[ParameterLeaf], list[int], Any, Any]:
    """The parameters of a model or of a tree.

    **Returns:** the leaves, each array once; for each place, the number of its leaf;
    the tree with the arrays alone, and the rest.
    """
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    facts = _facts_of_equinox(tree)
    leaves: list[ParameterLeaf] = []
    numbers: dict[int, int] = {}
    places = []
    for path, array in jax.tree_util.tree_leaves_with_path(arrays):
        if id(array) not in numbers:
            numbers[id(array)] = len(leaves)
            name = jax.tree_util.keystr(path).lstrip(".") or "params"
            leaves.append(
                ParameterLeaf(jnp.asarray(array), name, **facts.get(id(array), {}))
            )
        places.append(numbers[id(array)])
    return leaves, places, arrays, rest


def _facts_of_equinox(tree: Any) -> dict[int, dict[str, Any]]:
    """How the layers of Equinox in a model draw their parameters, by array."""
    facts: dict[int, dict[str, Any]] = {}
    kinds = (*_WEIGHT_LAYERS, *_GAIN_LAYERS, eqx.nn.Embedding)
    found = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kinds))
    for layer in found:
        if isinstance(layer, _WEIGHT_LAYERS):
            fan_in = _fan_in_of(layer)
            for array in (layer.weight, layer.bias):
                facts[id(array)] = {"fan_in": fan_in}
        elif isinstance(layer, eqx.nn.Embedding):
            facts[id(layer.weight)] = {"deviation": 1.0}  # as Equinox draws them
        elif isinstance(layer, _GAIN_LAYERS):
            facts[id(layer.weight)] = {"initial": 1.0}
            facts[id(layer.bias)] = {"initial": 0.0}
    return facts


_WEIGHT_LAYERS = (eqx.nn.Linear, eqx.nn.Conv, eqx.nn.ConvTranspose)
_GAIN_LAYERS = (eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm)


def _fan_in_of(layer: Any) -> int:
    """The number of inputs to each output; stacked layers have more axes of weights."""
    if isinstance(layer, eqx.nn.Linear):
        return 1 if layer.in_features == "scalar" else int(layer.in_features)
    channels = layer.in_channels // layer.groups
    return channels * math.prod(layer.kernel_size)


def overlap(
    one: Int[np.ndarray, "..."], other: Int[np.ndarray, "..."], size: int
) -> bool:
    """Whether two uses have an entry in common."""
    used = np.zeros(size, bool)
    used[one.reshape(-1)] = True
    return bool(used[other.reshape(-1)].any())
