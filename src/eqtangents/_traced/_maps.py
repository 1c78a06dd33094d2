"""Constant linear maps of the positions of one output: several together are one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from eqtangents import nn
from eqtangents._traced._values import Node


# Layers that map the positions of each channel by numbers that are known.
OF_POSITIONS = (
    nn.Scale,
    nn.Rearrange,
    nn.Index,
    nn.Pad,
    nn.SumPool,
    nn.AvgPool,
    nn.GlobalAvgPool,
    nn.GlobalSumPool,
    nn.DotGeneral,
)
_MOST_ENTRIES = 2**24  # of a matrix that is written down

# A root, and a matrix `(*size_in, *size_out)`.
PositionMap: TypeAlias = tuple[Node, Float[np.ndarray, "..."]]


def root_of(node: Node) -> Node:
    """What a node is a constant linear map of the positions of."""
    while isinstance(node.layer, OF_POSITIONS):
        (node,) = node.reads
    return node


def with_merged_maps(builder: Any, terms: Mapping[Node, float]) -> Mapping[Node, float]:
    """Terms of a sum; those that map one output become one, for they correlate."""
    of_root: dict[Node, list[tuple[Node, float]]] = {}
    for node, factor in terms.items():
        of_root.setdefault(root_of(node), []).append((node, factor))
    merged: dict[Node, float] = {}
    for group in of_root.values():
        found = _summed(group) if len(group) > 1 else None
        merged |= dict(group) if found is None else {map_node(builder, *found): 1.0}
    return merged


def _summed(terms: Sequence[tuple[Node, float]]) -> PositionMap | None:
    """The sum of several maps of one root; `None` if it is too large."""
    root = root_of(terms[0][0])
    if not _may_be_written(root, [node for node, _ in terms[:1]]):
        return None
    matrices = [factor * _matrix_of(node, root) for node, factor in terms]
    return root, np.sum(matrices, axis=0)


def joined_maps(nodes: Sequence[Node]) -> PositionMap | None:
    """Maps of one root end to end along the first axis; `None` if there are others."""
    root = root_of(nodes[0])
    if len(nodes) < 2 or any(root_of(node) is not root for node in nodes):
        return None
    if not _may_be_written(root, nodes):
        return None
    matrices = [_matrix_of(node, root) for node in nodes]
    return root, np.concatenate(matrices, len(root.shape) - 1)


def map_node(builder: Any, root: Node, matrix: Float[np.ndarray, "..."]) -> Node:
    """The node of a map of another's positions."""
    axes = tuple(range(len(root.shape) - 1))
    layer = nn.DotGeneral(lhs=matrix, dimension_numbers=((axes, axes), ((), ())))
    shape = (root.shape[0], *matrix.shape[len(axes) :])
    key = ("map", matrix.shape, matrix.tobytes())
    return builder.plain(layer, [root], shape, key)


def _may_be_written(root: Node, nodes: Sequence[Node]) -> bool:
    outputs = sum(math.prod(node.shape[1:]) for node in nodes)
    return math.prod(root.shape[1:]) * outputs <= _MOST_ENTRIES


def _matrix_of(node: Node, root: Node) -> Float[np.ndarray, "..."]:
    """What becomes of an input that is one at one position: each is a channel."""
    layers = []
    while node is not root:
        layers.append(node.layer)
        (node,) = node.reads
    size = root.shape[1:]
    with jax.ensure_compile_time_eval():
        value = jnp.eye(math.prod(size)).reshape(-1, *size)
        for layer in reversed(layers):
            value = layer(value)
    matrix = np.asarray(value, float)
    return matrix.reshape(*size, *matrix.shape[1:])
