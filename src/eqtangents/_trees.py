"""Trees of arrays: their type, and how two of them differ, in words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree, Shaped


Leaf = TypeVar("Leaf")

# Type checkers take jaxtyping's `PyTree` for something unknown: they see what results
# and batches are made of, and that parameters may be anything.
if TYPE_CHECKING:
    Tree: TypeAlias = (
        Leaf | tuple["Tree[Leaf]", ...] | list["Tree[Leaf]"] | dict[Any, "Tree[Leaf]"]
    )
    Batch: TypeAlias = (
        Array | np.ndarray | eqx.Module | Sequence["Batch"] | Mapping[Any, "Batch"]
    )
    Params: TypeAlias = Any
else:
    Tree = PyTree
    Batch = PyTree[Shaped[Array | np.ndarray, "..."]]
    Params = PyTree

# One array of examples, along its leading axis.
One: TypeAlias = Shaped[Array | np.ndarray, "..."]


def varying_zero(tree: PyTree, dtype: jnp.dtype) -> Float[Array, ""]:
    """A zero that varies over all axes of a mesh that any array of the tree does.

    Added to the first values of a loop inside of `jax.shard_map`, or to what a program
    is traced with, it gives them the type that the results have.
    """
    arrays = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]
    zeros = (jnp.zeros_like(leaf, dtype=dtype, shape=()) for leaf in arrays)
    return sum(zeros, jnp.zeros((), dtype))


def varies(tree: PyTree) -> bool:
    """Whether any array differs between devices, inside of `jax.shard_map`."""
    zero = varying_zero(tree, jnp.dtype("float32"))
    return jax.typeof(zero) != jax.typeof(jnp.zeros((), jnp.float32))


def without_derivative(tree: Leaf) -> Leaf:
    """The same tree, in whose arrays nothing is differentiated."""
    fixed = lambda leaf: lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf
    return jax.tree.map(fixed, tree)


def difference(here: PyTree, there: PyTree) -> str:
    """What one tree has that the other has not; empty if they have one structure."""
    if jax.tree.structure(here) == jax.tree.structure(there):
        return ""
    names = [
        {
            jax.tree_util.keystr(path)
            for path, _ in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (here, there)
    ]
    more, less = names[0] - names[1], names[1] - names[0]
    found = [_listed("has", more), _listed("lacks", less)]
    return " and ".join(filter(None, found)) or "nests its arrays in other containers"


def _listed(verb: str, names: set[str]) -> str:
    if not names:
        return ""
    few = sorted(name or "the array itself" for name in names)
    shown = ", ".join(f"`{name}`" if name[0] in ".[" else name for name in few[:3])
    return f"{verb} {shown}" + (f" and {len(few) - 3} more" if len(few) > 3 else "")
