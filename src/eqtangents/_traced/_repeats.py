"""Layers that a program applies to the same values once more."""

from collections.abc import Hashable

import equinox as eqx
import jax
import numpy as np

from eqtangents import nn
from eqtangents._traced._expressions import uniform
from eqtangents._traced._values import Node


class Repeats:
    """The nodes that hold parameters, each once."""

    def __init__(self):
        """Begin with none."""
        self._nodes: dict[Hashable, list[Node]] = {}

    def earlier(self, node: Node) -> Node:
        """The node that has been there before and is the same, or else this one."""
        arrays, rest = eqx.partition(node.layer, eqx.is_array)
        leaves, structure = jax.tree.flatten(rest)
        held = tuple((one.leaf, one.factor) for one in node.holds)
        facts = tuple(leaves), structure, jax.tree.structure(arrays)
        alike = self._nodes.setdefault((facts, node.reads, node.shape, held), [])
        for other in alike:
            pairs = zip(node.holds, other.holds, strict=True)
            if all(np.array_equal(a.numbers, b.numbers) for a, b in pairs):
                return other
        alike.append(node)
        return node


def all_told_by(layer: nn.AbstractLayer) -> Hashable:
    """Equal for layers without parameters that are the same function.

    What they print is not all: functions and arrays are cut short there.
    """
    arrays, rest = eqx.partition(layer, eqx.is_array)
    leaves, structure = jax.tree.flatten(rest)
    return structure, tuple(leaves), tuple(map(uniform, jax.tree.leaves(arrays)))
