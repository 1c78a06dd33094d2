"""Functions that were made within others, as trees of the arrays that they found there.

JAX differentiates a function with a rule of its own in its arguments alone. An array
that is being differentiated and that a network's function was made around is none.
"""

import types
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax

from eqtangents._types import is_traced


Tree = TypeVar("Tree")


class _Closure(eqx.Module):
    """A function, with what it found where it was made as a tree."""

    function: Callable = eqx.field(static=True)
    found: list[Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made = self.function
        cells = tuple(map(types.CellType, self.found))
        parts = made.__code__, made.__globals__, made.__name__, made.__defaults__
        again = types.FunctionType(*parts, cells)
        again.__kwdefaults__ = made.__kwdefaults__
        return again(*args, **kwargs)


def with_closures_told(tree: Tree) -> Tree:
    """The same tree, in which arrays that are traced and functions hold are leaves."""
    return jax.tree.map(lambda leaf: _as_tree(leaf, frozenset()), tree)


def _as_tree(leaf: Any, around: frozenset[int]) -> Any:
    """A leaf; `around` are functions that it was found in, and may hold itself."""
    if not isinstance(leaf, types.FunctionType) or id(leaf) in around:
        return leaf
    try:
        found = [cell.cell_contents for cell in leaf.__closure__ or ()]
    except ValueError:  # a name that has no value yet
        return leaf
    around = around | {id(leaf)}
    found = jax.tree.map(lambda one: _as_tree(one, around), found)
    if not any(map(is_traced, jax.tree.leaves(found))):
        return leaf
    return _Closure(leaf, found)
